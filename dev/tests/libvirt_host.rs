//! A private libvirt host: its guests live through the death of libvirtd, and it leaves nothing on the machine.

use std::{fs, path::Path, process::Command, time::Instant};

use kvmoor_dev::{Cluster, libvirt_host::members};

/// A guest without disk, which QEMU runs all the same.
const DOMAIN: &str = "<domain type='qemu'><name>trivial</name><memory unit='MiB'>32</memory>\
                      <os><type arch='x86_64'>hvm</type></os>\
                      <devices><interface type='network'><source network='default'/></interface></devices></domain>";

fn firewall() -> String {
    let output = Command::new("iptables-save").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn has_interface(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

#[tokio::test]
async fn guests_outlive_libvirtd_but_not_the_cluster() {
    let start = Instant::now();
    let cluster = Cluster::builder().hosts(2).components(false).start().await.unwrap();
    eprintln!("two hosts and a control plane after {:?}", start.elapsed());
    let xml = cluster.dir().join("domain.xml");
    fs::write(&xml, DOMAIN).unwrap();
    for host in cluster.hosts() {
        let virsh = host.virsh();
        virsh.run(&["create", xml.to_str().unwrap()]).await.unwrap();
        assert_eq!(virsh.running_domains().await.unwrap(), ["trivial"], "hosts do not see each other's domains");
    }
    let [first, second] = cluster.hosts() else { panic!("two hosts") };
    assert_ne!(first.bridge(), second.bridge());

    let guest = first.guest("trivial").expect("a QEMU process");
    first.kill_libvirtd().await.unwrap();
    assert!(guest.is_alive());
    let again = Instant::now();
    first.start_libvirtd().await.unwrap();
    eprintln!("libvirtd again after {:?}", again.elapsed());
    assert_eq!(first.virsh().running_domains().await.unwrap(), ["trivial"]);
    assert_eq!(first.guest("trivial"), Some(guest), "the same process");

    let bridges: Vec<String> = cluster.hosts().iter().map(|host| host.bridge().unwrap().to_owned()).collect();
    assert!(bridges.iter().all(|bridge| has_interface(bridge) && firewall().contains(bridge.as_str())));
    let processes: Vec<_> = cluster.hosts().iter().flat_map(|host| host.members()).collect();
    assert!(processes.len() >= 2 * 4, "libvirtd, virtlogd, dnsmasq and QEMU: {processes:?}");
    let dir = cluster.dir().to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let stop = Instant::now();
    // By drop, as after a panic: a stop in good order does no less.
    drop(cluster);
    eprintln!("gone after {:?}", stop.elapsed());
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(!bridges.iter().any(|bridge| has_interface(bridge) || firewall().contains(bridge.as_str())));
    assert!(!dir.exists());
    assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts, "nothing was ever mounted out here");
    assert!(members(&dir).is_empty());
}
