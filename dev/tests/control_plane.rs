//! A private control plane starts, survives the loss of its parts, collects garbage, and leaves nothing behind.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kvmoor_dev::{Cluster, audit, deadline::until};
use serde_json::json;

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn parts_die_and_come_back() {
    let start = Instant::now();
    let cluster = Cluster::builder().hosts(0).components(false).start().await.unwrap();
    eprintln!("control plane ready after {:?}", start.elapsed());
    let plane = cluster.control_plane();
    let client = cluster.client().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map = serde_json::from_value(json!({ "metadata": { "name": "kept" } })).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();

    let before = plane.etcd().pid().unwrap();
    plane.etcd().kill().await;
    let answer = tokio::time::timeout(std::time::Duration::from_secs(1), maps.get("kept")).await;
    assert!(!matches!(answer, Ok(Ok(_))), "there is no etcd");
    let again = Instant::now();
    plane.start_etcd().await.unwrap();
    eprintln!("etcd again after {:?}", again.elapsed());
    assert_ne!(plane.etcd().pid().unwrap(), before);
    maps.get("kept").await.unwrap();

    plane.apiserver().kill().await;
    let again = Instant::now();
    plane.start_apiserver().await.unwrap();
    eprintln!("kube-apiserver again after {:?}", again.elapsed());
    // The same address and certificates: a client need not be made again.
    maps.get("kept").await.unwrap();

    let namespaces: Api<Namespace> = Api::all(client);
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "gone-soon" } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    namespaces.delete("gone-soon", &DeleteParams::default()).await.unwrap();
    let gone =
        until(DEADLINE, "the namespace is gone", || async { Ok(namespaces.get_opt("gone-soon").await?.is_none()) });
    gone.await.unwrap();

    let writes = audit::read(&plane.audit_log()).unwrap();
    let ours = writes.iter().filter(|entry| entry.object_ref.name == "kept").count();
    assert_eq!(ours, 1, "one write of the map");

    let processes: Vec<_> =
        [plane.etcd(), plane.apiserver(), plane.controller_manager()].map(|part| part.id().unwrap()).into();
    let dir = cluster.dir().to_owned();
    let stop = Instant::now();
    cluster.stop().await.unwrap();
    eprintln!("stopped after {:?}", stop.elapsed());
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(!dir.exists());
}
