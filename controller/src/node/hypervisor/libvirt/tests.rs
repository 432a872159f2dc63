//! Against libvirt's own test driver, which has domains, storage and events but no QEMU.

use std::time::Duration;

use super::super::super::domain_xml;
use super::super::super::domain_xml::tests::config;
use super::super::{Class, OffCause, Power};
use super::*;

/// A UUID that no other test uses: all connections of a process share the test driver's host.
fn fresh_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn settings() -> Settings {
    Settings {
        uri: "test:///default".into(),
        pool: "default-pool".into(),
        network: "default".into(),
        bridges: Vec::new(),
        virt: VirtSetting::Auto,
        serial_logs: "/nonexistent".into(),
    }
}

async fn open() -> (Libvirt, EventSource) {
    let (libvirt, events, keep) = Libvirt::new(settings(), CancellationToken::new()).unwrap();
    tokio::spawn(keep);
    (libvirt, events)
}

fn metadata(uid: &str) -> Metadata {
    Metadata { uid: uid.into(), namespace: "ns".into(), name: "<web>".into(), restart: 1, ..Metadata::default() }
}

/// The test driver's own domain type, and nothing but what it knows.
fn define(libvirt: &Libvirt, uid: &str) -> impl Future<Output = Result<(), HvError>> {
    let xml = domain_xml::render(
        &DomainConfig {
            uid: uid.into(),
            disks: Vec::new(),
            nics: Vec::new(),
            cpu: 2,
            memory_mib: 64,
            ..config("default")
        },
        &metadata(uid),
    )
    .replacen("type=\"qemu\"", "type=\"test\"", 1);
    libvirt.call("define", CHANGE, move |connect| {
        connect.define_domain_xml(&xml).map(|_| ()).map_err(|source| error::from("define", &source))
    })
}

async fn power(libvirt: &Libvirt, uid: &str) -> Power {
    match libvirt.domain(uid).await.unwrap() {
        DomainFacts::Ours(domain) => domain.power,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life() {
    let (libvirt, mut events) = open().await;
    let uid = fresh_uid();
    assert_eq!(libvirt.domain(&uid).await, Ok(DomainFacts::Missing));
    define(&libvirt, &uid).await.unwrap();
    let DomainFacts::Ours(domain) = libvirt.domain(&uid).await.unwrap() else { panic!() };
    assert_eq!((domain.power, domain.metadata, domain.cpu), (Power::Off(OffCause::Other), metadata(&uid), 2));

    libvirt.start(&uid, false).await.unwrap();
    assert_eq!(power(&libvirt, &uid).await, Power::Running);
    libvirt.suspend(&uid).await.unwrap();
    assert_eq!(power(&libvirt, &uid).await, Power::Paused);
    libvirt.resume(&uid).await.unwrap();
    let changed = Metadata { restart: 2, stopping: Some(7), ..metadata(&uid) };
    libvirt.record(&changed).await.unwrap();
    let DomainFacts::Ours(domain) = libvirt.domain(&uid).await.unwrap() else { panic!() };
    assert_eq!((domain.power, domain.metadata), (Power::Running, changed));
    libvirt.destroy(&uid).await.unwrap();
    assert_eq!(libvirt.destroy(&uid).await.map_err(|error| error.class), Err(Class::Stale));
    assert!(libvirt.domains("kvmoor-").await.unwrap().iter().any(|listed| listed.name == format!("kvmoor-{uid}")));
    libvirt.undefine(&uid).await.unwrap();
    assert_eq!(libvirt.domain(&uid).await, Ok(DomainFacts::Missing));

    let seen =
        tokio::time::timeout(Duration::from_secs(10), async { while events.changed.recv().await.unwrap() != uid {} });
    seen.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_marked_is_foreign() {
    let (libvirt, _events) = open().await;
    let uid = fresh_uid();
    let xml = format!(
        "<domain type='test'><name>other-{uid}</name><uuid>{uid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
    );
    let define = libvirt.call("define", CHANGE, move |connect| {
        connect.define_domain_xml(&xml).map(|_| ()).map_err(|source| error::from("define", &source))
    });
    define.await.unwrap();
    assert!(matches!(libvirt.domain(&uid).await, Ok(DomainFacts::Foreign(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_created_once_and_deleted_by_name() {
    let (libvirt, _events) = open().await;
    let prefix = format!("kvmoor-{}-", fresh_uid());
    let volume = Volume {
        name: format!("{prefix}root.qcow2"),
        capacity: 1 << 30,
        format: domain_xml::DiskFormat::Qcow2,
        backing: None,
    };
    libvirt.create_volume(volume.clone()).await.unwrap();
    libvirt.create_volume(volume.clone()).await.unwrap();
    let listed = libvirt.volumes(&prefix).await.unwrap();
    assert_eq!(listed, [Listed { name: volume.name.clone(), virtual_size: 1 << 30 }]);
    assert_eq!(libvirt.image("kvmoor-image-none.qcow2").await, Ok(None));
    libvirt.delete_volume(&volume.name).await.unwrap();
    libvirt.delete_volume(&volume.name).await.unwrap();
    assert_eq!(libvirt.volumes(&prefix).await, Ok(Vec::new()));
}

#[tokio::test]
async fn no_connection_is_told_after_a_moment() {
    let settings = Settings { uri: "qemu+unix:///system?socket=/nonexistent/socket".into(), ..settings() };
    let (libvirt, _events, keep) = Libvirt::new(settings, CancellationToken::new()).unwrap();
    tokio::spawn(keep);
    let error = libvirt.domain(&fresh_uid()).await.unwrap_err();
    assert_eq!(error.class, Class::Disconnected);
    assert!(error.message.contains("/nonexistent/socket"), "{error}");
}
