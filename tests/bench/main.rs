//! The benchmarks: Kvmoor beside raw libvirt, in one run, on the same machine.
//!
//! Each figure is printed as one line, `name value unit`, and all stand in `target/bench.json`. Nothing here is
//! asserted: a loaded machine makes figures worse, not wrong. `cargo bench --workspace --bench kvmoor -- NAME` runs one of
//! them, and with `--list` in the place of NAME says which there are.

mod create;
mod death;
mod feed;
mod figures;
mod idle;
mod images;
mod processes;
mod snapshots;
mod vnc;

use anyhow::Result;
use figures::Figures;
use kvmoor_dev::Cluster;
use kvmoor_tests::rest;

/// What is measured, each by its name.
const NAMES: [&str; 7] = ["create", "death", "feed", "images", "snapshots", "vnc", "idle"];
/// How often each thing is measured.
const SAMPLES: usize = 20;
/// The namespace of the virtual machines that are made through the Kubernetes API.
const NAMESPACE: &str = "default";

#[tokio::main]
async fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{}", NAMES.map(|name| format!("{name}: benchmark")).join("\n"));
        return Ok(());
    }
    // cargo passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|filter| name.contains(filter.as_str()));
    let cluster = Cluster::builder().hosts(1).env("KVMOOR_CPU_OVERCOMMIT", "16").start().await?;
    let mut figures = Figures::default();
    let result = measure(&cluster, &mut figures, wants).await;
    cluster.stop().await?;
    result?;
    figures.write()
}

async fn measure(cluster: &Cluster, figures: &mut Figures, wants: impl Fn(&str) -> bool) -> Result<()> {
    let admin = rest::admin(cluster).await?;
    let room = serde_json::json!({ "max_vms": 1000, "max_cpu": 1000, "max_memory": 1_000_000 });
    admin.ok(reqwest::Method::PUT, "/api/quota", Some(room)).await?;
    if wants("create") {
        create::measure(cluster, &admin, figures).await?;
    }
    if wants("death") {
        death::measure(cluster, figures).await?;
    }
    if wants("feed") {
        feed::measure(cluster, &admin, figures).await?;
    }
    if wants("images") {
        images::measure(cluster, figures).await?;
    }
    if wants("snapshots") {
        snapshots::measure(cluster, &admin, figures).await?;
    }
    if wants("vnc") {
        vnc::measure(cluster, &admin, figures).await?;
    }
    if wants("idle") {
        idle::measure(cluster, figures).await?;
    }
    Ok(())
}
