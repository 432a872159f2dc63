//! The life of an installation: Kvmoor installed with Helm on a real cluster with pods, used, upgraded under running
//! virtual machines, rolled back, uninstalled, installed again, and emptied; and then with a libvirt that comes as a pod.
//!
//! It takes minutes, needs images and a container runtime, and runs only when asked: `make test-cluster`, which is
//! `cargo test --test cluster -- --ignored`.

mod bundled;
mod installation;
mod load;
mod machines;
mod steps;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use installation::Installation;
use libtest_mimic::{Arguments, Failed, Trial};

/// Nothing here may take longer.
const DEADLINE: Duration = Duration::from_secs(40 * 60);

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let life = Trial::test("the_life_of_an_installation", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(async { tokio::time::timeout(DEADLINE, life()).await.context("too long")? });
        result.map_err(|error| Failed::from(format!("{error:#}")))
    });
    libtest_mimic::run(&arguments, vec![life.with_ignored_flag(true)]).exit();
}

async fn life() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn,kube_client=off").with_writer(std::io::stderr).init();
    let installation = step("the cluster starts", Installation::start()).await?;
    let lived = live(&installation).await;
    if lived.is_err() {
        installation.print_state().await;
    }
    let ended = step("the cluster ends and leaves nothing", installation.end()).await;
    lived.and(ended)
}

async fn live(on: &Installation) -> Result<()> {
    step("Helm installs it", steps::install(on)).await?;
    step("helm test", steps::helm_test(on)).await?;
    let machines = step("virtual machines by kubectl and by REST", machines::create(on)).await?;
    step("a display over the Service", steps::display(on, &machines)).await?;
    step("an upgrade under running virtual machines", steps::upgrade(on, &machines)).await?;
    step("a rollback", steps::rollback(on, &machines)).await?;
    step("an uninstallation keeps what is running", steps::uninstall(on, &machines)).await?;
    step("another installation takes it over", steps::install_again(on, &machines)).await?;
    step("all is deleted", machines.delete_all(on)).await?;
    step("a bundled libvirt leaves a node alone that has one", bundled::is_refused(on)).await?;
    step("it starts on a node without one", bundled::starts(on)).await?;
    let guest = step("a guest boots on it", bundled::boots(on)).await?;
    step("the guest outlives its pod", bundled::outlives_its_pod(on, &guest)).await?;
    step("the guest outlives its update", bundled::outlives_an_update(on, &guest)).await?;
    step("the guest outlives the release", bundled::outlives_the_release(on, &guest)).await
}

/// Runs one step and says how long it took.
async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begin = Instant::now();
    let result = work.await.with_context(|| what.to_owned());
    let outcome = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!("{what}: {outcome} ({:.0?})", begin.elapsed());
    result
}
