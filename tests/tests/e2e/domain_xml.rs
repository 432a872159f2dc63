//! What the controller writes is what libvirt's schema and its QEMU driver take: several shapes of virtual machines, and
//! odd strings wherever a user's text gets to.

use anyhow::{Context, Result, ensure};
use kvmoor_crds::{Firmware, VirtType, names};
use kvmoor_dev::virsh::Virsh;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::shared::Shared;

mod writer;

use writer::domain_xml::{self, Disk, DiskFormat, DomainConfig};
use writer::metadata::{self, Metadata};
use writer::network_xml::{Link, Nic};
use writer::room::MemoryRoom;

/// Odd strings that are tried.
const TRIES: usize = 24;

fn nic(number: usize, link: Link) -> Nic {
    Nic { mac: format!("52:54:00:00:00:{number:02x}"), link }
}

fn disk(uid: &str, name: &str) -> Disk {
    Disk {
        volume: names::extra_volume(uid, name),
        format: DiskFormat::Qcow2,
        serial: Some(name.to_owned()),
        read_only: false,
    }
}

/// The smallest virtual machine.
fn plain() -> DomainConfig {
    let uid = uuid::Uuid::new_v4().to_string();
    let seed = Disk { volume: names::seed_volume(&uid), format: DiskFormat::Raw, serial: None, read_only: true };
    let root = Disk { volume: names::root_volume(&uid), serial: None, ..disk(&uid, "root") };
    DomainConfig {
        virt: VirtType::Qemu,
        arch: "x86_64".into(),
        cpu: 1,
        max_cpu: 1,
        memory_mib: 64,
        memory_room: None,
        firmware: Firmware::Bios,
        tpm: false,
        pool: "default".into(),
        disks: vec![root, seed],
        nics: vec![nic(1, Link::Nat("default".into()))],
        uid,
    }
}

fn shapes() -> Vec<(&'static str, DomainConfig)> {
    let few = plain();
    let room = Some(MemoryRoom { maximum_mib: 8192, slots: 16 });
    let grows = DomainConfig { cpu: 2, max_cpu: 4, memory_mib: 2048, memory_room: room, ..plain() };
    let mut many = plain();
    let disks: Vec<_> = (0..16).map(|n| disk(&many.uid, &format!("disk-{n}"))).collect();
    many.disks.splice(1..1, disks);
    let links = [Link::Nat("default".into()), Link::Bridge("br0".into()), Link::Isolated("kvmoor-0".into())];
    many.nics = (0..8).map(|n| nic(n, links[n % links.len()].clone())).collect();
    vec![
        ("plain", few),
        ("without networks", DomainConfig { nics: Vec::new(), ..plain() }),
        ("room to grow", grows),
        ("all disks and networks", many),
        ("UEFI", DomainConfig { firmware: Firmware::Uefi, ..plain() }),
        ("Secure Boot and TPM", DomainConfig { firmware: Firmware::UefiSecureBoot, tpm: true, ..plain() }),
    ]
}

fn recorded(uid: &str, text: &str) -> Metadata {
    Metadata {
        uid: uid.to_owned(),
        namespace: text.to_owned(),
        name: text.to_owned(),
        image: Some(text.to_owned()),
        seed: Some(text.to_owned()),
        disks: vec![text.to_owned()],
        ..Metadata::default()
    }
}

/// Defines it with libvirt's own check of the schema, reads back what is recorded in it, and removes it.
async fn accepted(virsh: &Virsh, config: &DomainConfig, metadata: &Metadata) -> Result<()> {
    let file = std::env::temp_dir().join(format!("kvmoor-{}.xml", config.uid));
    std::fs::write(&file, domain_xml::render(config, metadata))?;
    let path = file.to_str().context("a path in UTF-8")?;
    let defined = virsh.run(&["define", "--validate", path]).await;
    std::fs::remove_file(&file)?;
    defined?;
    let element = virsh.run(&["metadata", "--config", &config.uid, metadata::NAMESPACE]).await;
    virsh.run(&["undefine", "--nvram", &config.uid]).await?;
    let read = Metadata::parse(&element?).context("the metadata is readable")?;
    ensure!(read.uid == config.uid, "{} is marked as {}", config.uid, read.uid);
    Ok(())
}

/// A disk's name and a bridge's, as the API lets them through, and any text: the same in every run.
fn samples() -> Result<Vec<(String, String, String)>> {
    let mut runner = TestRunner::deterministic();
    let strategy = ("[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", "[a-zA-Z0-9][-_.a-zA-Z0-9]{0,13}", any::<String>());
    let mut sample = || strategy.new_tree(&mut runner).map(|tree| tree.current());
    (0..TRIES).map(|_| sample().map_err(|reason| anyhow::anyhow!("{reason}"))).collect()
}

pub async fn libvirt_takes_what_is_written(shared: &Shared) -> Result<()> {
    let virsh = shared.cluster.host(0)?.virsh();
    for (what, config) in shapes() {
        accepted(&virsh, &config, &recorded(&config.uid, "web")).await.with_context(|| what.to_owned())?;
    }
    for (name, bridge, text) in samples()? {
        let mut config = plain();
        config.disks.push(disk(&config.uid, &name));
        config.nics.push(nic(2, Link::Bridge(bridge.clone())));
        let metadata = recorded(&config.uid, &text);
        accepted(&virsh, &config, &metadata).await.with_context(|| format!("{name:?} {bridge:?} {text:?}"))?;
    }
    Ok(())
}
