//! What the definitions accept and refuse, asked of a real kube-apiserver: every schema limit, every CEL rule.

use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kvmoor_dev::Cluster;
use serde_json::{Value, json};

const NAMESPACE: &str = "default";

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kvmoor.dev", "v1alpha1", kind));
    match kind {
        "User" | "Image" | "Host" | "VirtualMachineClass" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), NAMESPACE, &resource),
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Result<DynamicObject> {
    let value = json!({
        "apiVersion": "kvmoor.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    });
    Ok(serde_json::from_value(value)?)
}

/// Strict, as kubectl asks: an unknown field is an error.
fn dry_run() -> PostParams {
    PostParams { dry_run: true, field_manager: Some("test".to_owned()) }
}

/// `base` with `change` merged in as by a JSON merge patch.
fn merged(base: &Value, change: &Value) -> Value {
    let (Value::Object(base), Value::Object(change)) = (base, change) else { return change.clone() };
    let mut out = base.clone();
    for (key, value) in change {
        if value.is_null() {
            out.remove(key);
        } else {
            let old = out.get(key).cloned().unwrap_or(Value::Null);
            out.insert(key.clone(), merged(&old, value));
        }
    }
    Value::Object(out)
}

async fn refused(what: &str, result: kube::Result<DynamicObject>, sentence: &str) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} was accepted"))?;
    let text = error.to_string();
    ensure!(text.contains(sentence), "{what}: expected {sentence:?} in {text}");
    Ok(())
}

struct Kind {
    kind: &'static str,
    name: &'static str,
    valid: Value,
    /// Merged into `valid`: must be accepted at creation.
    accepted: Vec<Value>,
    /// Merged into `valid`: must be refused at creation, with that sentence.
    refused: Vec<(Value, &'static str)>,
    /// Merged into the stored object: must be accepted.
    changes: Vec<Value>,
    /// Merged into the stored object: must be refused, with that sentence.
    frozen: Vec<(Value, &'static str)>,
}

fn kinds() -> Vec<Kind> {
    let long = "x".repeat(65);
    vec![
        Kind {
            kind: "VirtualMachine",
            name: "vm",
            valid: json!({ "cpu": 1, "memory": "64Mi", "osType": "tiny", "disk": { "size": "1Gi" } }),
            accepted: vec![
                json!({ "displayName": "<a href=\"x\">&한국어'" }),
                json!({ "cpu": 512, "memory": "16Ti" }),
                json!({ "memory": "16Mi", "osType": null, "disk": null }),
                json!({ "memory": "1.5G" }),
                json!({ "powerState": "Paused", "restartPolicy": "Never", "firmware": "Uefi" }),
                json!({ "disks": [{ "name": "data", "size": "1Gi" }], "networks": [] }),
                json!({ "cloudInit": { "sshAuthorizedKeys": ["ssh-ed25519 AAAA x@y"] } }),
                json!({ "className": "small", "cpu": null, "memory": null }),
                json!({ "source": { "vmName": "other" }, "osType": null }),
                json!({ "source": { "vmName": "other", "snapshotName": "before" } }),
            ],
            refused: vec![
                (json!({ "cpu": 0 }), "greater than or equal to 1"),
                (json!({ "cpu": -1 }), "greater than or equal to 1"),
                (json!({ "cpu": 513 }), "less than or equal to 512"),
                (json!({ "cpu": "1" }), "must be of type integer"),
                (json!({ "cpu": 1.5 }), "must be of type integer"),
                (json!({ "cpu": null }), "give either className, or cpu and memory"),
                (json!({ "memory": null }), "give either className, or cpu and memory"),
                (json!({ "className": "small" }), "give either className, or cpu and memory"),
                (json!({ "className": "../x", "cpu": null, "memory": null }), "should match"),
                (json!({ "memory": "0" }), "memory must be at least 16Mi"),
                (json!({ "memory": "15Mi" }), "memory must be at least 16Mi"),
                (json!({ "memory": "-1Gi" }), "memory must be at least 16Mi"),
                (json!({ "memory": "17Ti" }), "memory must be at most 16Ti"),
                (json!({ "memory": "much" }), "memory must be a quantity"),
                (json!({ "memory": 64 }), "must be of type string"),
                (json!({ "displayName": "a\u{7}" }), "control characters"),
                (json!({ "displayName": "a\nb" }), "control characters"),
                (json!({ "displayName": "x".repeat(129) }), "may not be more than 128"),
                (json!({ "displayName": "" }), "should be at least 1"),
                (json!({ "osType": "../etc/passwd" }), "should match"),
                (json!({ "osType": "-x" }), "should match"),
                (json!({ "source": { "vmName": "vm" } }), "is not its own source"),
                (json!({ "source": { "vmName": "../x" } }), "should match"),
                (json!({ "source": { "snapshotName": "before" } }), "Required value"),
                (json!({ "source": { "vmName": "other", "snapshotName": "" } }), "should be at least 1"),
                (json!({ "disk": { "size": "0" } }), "size must be a quantity from 1Mi to 64Ti"),
                (json!({ "disk": { "size": "65Ti" } }), "size must be a quantity from 1Mi to 64Ti"),
                (json!({ "disks": [{ "name": "a/b", "size": "1Gi" }] }), "should match"),
                (json!({ "disks": [{ "name": "a", "size": "0" }] }), "size must be a quantity from 1Mi to 64Ti"),
                (
                    json!({ "disks": [{ "name": "a", "size": "1Gi" }, { "name": "a", "size": "1Gi" }] }),
                    "Duplicate value",
                ),
                (json!({ "networks": [{ "name": "a", "type": "Bridge" }] }), "bridge names the host's bridge"),
                (json!({ "networks": [{ "name": "a", "type": "Tunnel" }] }), "supported values: \"Nat\""),
                (json!({ "networks": [{ "name": "<x/>" }] }), "should match"),
                (json!({ "powerState": "On" }), "supported values: \"Running\", \"Stopped\", \"Paused\""),
                (json!({ "restartPolicy": "Sometimes" }), "supported values: \"Always\", \"OnFailure\", \"Never\""),
                (json!({ "firmware": "Coreboot" }), "supported values: \"Bios\", \"Uefi\""),
                (json!({ "terminationGracePeriodSeconds": -1 }), "greater than or equal to 0"),
                (json!({ "requests": { "restart": -1 } }), "greater than or equal to 0"),
            ],
            changes: vec![
                json!({ "cpu": 2, "memory": "128Mi", "displayName": "other" }),
                json!({ "powerState": "Stopped", "requests": { "restart": 1 } }),
                json!({ "disk": { "size": "2Gi" }, "disks": [{ "name": "b", "size": "1Gi" }] }),
                json!({ "disks": [{ "name": "a", "size": "1Gi" }] }),
                json!({ "nodeName": "host-a" }),
            ],
            frozen: vec![
                (json!({ "osType": "other" }), "osType cannot change"),
                (json!({ "osType": null }), "osType cannot change"),
                (json!({ "source": { "vmName": "other" } }), "source cannot change"),
                (json!({ "disk": { "size": "1Mi" } }), "a disk only grows"),
                (json!({ "disk": null }), "a disk only grows"),
                (json!({ "disks": [{ "name": "a", "size": "1Mi" }] }), "a disk only grows"),
                (json!({ "networks": [] }), "networks cannot change"),
                (json!({ "firmware": "Uefi" }), "firmware cannot change"),
                (json!({ "requests": { "restart": 0 } }), "can only be raised"),
                (json!({ "requests": null }), "can only be raised"),
                (json!({ "nodeName": "host-b" }), "nodeName cannot change once set"),
                (json!({ "nodeName": null }), "nodeName cannot change once set"),
            ],
        },
        Kind {
            kind: "VirtualMachineClass",
            name: "class",
            valid: json!({ "cpu": 1, "memory": "64Mi" }),
            accepted: vec![json!({ "disk": "20Gi", "description": "한국어" })],
            refused: vec![
                (json!({ "cpu": 0 }), "greater than or equal to 1"),
                (json!({ "cpu": null }), "spec.cpu: Required value"),
                (json!({ "memory": null }), "spec.memory: Required value"),
                (json!({ "memory": "15Mi" }), "memory must be a quantity from 16Mi to 16Ti"),
                (json!({ "disk": "0" }), "disk must be a quantity from 1Mi to 64Ti"),
            ],
            changes: vec![json!({ "description": "other" })],
            frozen: vec![
                (json!({ "cpu": 2 }), "a class cannot change"),
                (json!({ "memory": "65Mi" }), "a class cannot change"),
                (json!({ "disk": "1Gi" }), "a class cannot change"),
            ],
        },
        Kind {
            kind: "VirtualMachineSnapshot",
            name: "snap",
            valid: json!({ "vmName": "vm" }),
            accepted: vec![
                json!({ "displayName": "Snapshot 1", "description": "Before update", "includeMemory": false }),
            ],
            refused: vec![
                (json!({ "vmName": null }), "spec.vmName: Required value"),
                (json!({ "vmName": "" }), "should be at least 1"),
                (json!({ "description": "x".repeat(1025) }), "may not be more than 1024"),
            ],
            changes: vec![json!({ "description": "later" }), json!({ "nodeName": "host-a" })],
            frozen: vec![
                (json!({ "vmName": "other" }), "vmName cannot change"),
                (json!({ "includeMemory": false }), "includeMemory cannot change"),
                (json!({ "nodeName": "host-b" }), "nodeName cannot change once set"),
                (json!({ "nodeName": null }), "nodeName cannot change once set"),
            ],
        },
        Kind {
            kind: "VirtualMachineRestore",
            name: "restore",
            valid: json!({ "snapshotName": "snap" }),
            accepted: vec![],
            refused: vec![(json!({ "snapshotName": null }), "spec.snapshotName: Required value")],
            changes: vec![json!({ "nodeName": "host-a" })],
            frozen: vec![
                (json!({ "snapshotName": "other" }), "snapshotName cannot change"),
                (json!({ "nodeName": "host-b" }), "nodeName cannot change once set"),
                (json!({ "nodeName": null }), "nodeName cannot change once set"),
            ],
        },
        Kind {
            kind: "Quota",
            name: "default",
            valid: json!({ "maxVms": 10, "maxCpu": 20, "maxMemory": "40Gi" }),
            accepted: vec![json!({ "maxVms": 0, "maxCpu": 0, "maxMemory": "0", "maxSnapshots": 0, "maxDisk": "1Ti" })],
            refused: vec![
                (json!({ "maxVms": -1 }), "greater than or equal to 0"),
                (json!({ "maxCpu": -1 }), "greater than or equal to 0"),
                (json!({ "maxSnapshots": -1 }), "greater than or equal to 0"),
                (json!({ "maxMemory": "-1Gi" }), "maxMemory must be a quantity"),
                (json!({ "maxMemory": "all" }), "maxMemory must be a quantity"),
                (json!({ "maxDisk": "all" }), "maxDisk must be a quantity"),
            ],
            changes: vec![json!({ "maxVms": 1 })],
            frozen: vec![],
        },
        Kind {
            kind: "User",
            name: "somebody",
            valid: json!({ "username": "somebody", "sessionEpoch": 5 }),
            accepted: vec![
                json!({ "role": "admin", "approved": true, "email": "a@example.com", "loginName": "other" }),
            ],
            refused: vec![
                (json!({ "username": "" }), "should be at least 1"),
                (json!({ "username": long }), "may not be more than 64"),
                (json!({ "username": "a\u{1b}[2J" }), "control characters"),
                (json!({ "role": "root" }), "supported values: \"admin\", \"user\""),
                (json!({ "sessionEpoch": -1 }), "greater than or equal to 0"),
            ],
            changes: vec![json!({ "role": "admin", "approved": true }), json!({ "sessionEpoch": 6 })],
            frozen: vec![
                (json!({ "username": "somebodyelse" }), "username cannot change"),
                (json!({ "sessionEpoch": 4 }), "sessionEpoch must not go back"),
            ],
        },
        Kind {
            kind: "Image",
            name: "image",
            valid: json!({ "url": "https://images.example.com/a.qcow2", "sha256": "0".repeat(64) }),
            accepted: vec![
                json!({ "url": null, "sha256": null, "builtIn": true }),
                json!({ "url": null, "uploaded": true }),
                json!({ "format": "raw", "minimumDisk": "2Gi", "architecture": "x86_64", "defaultUser": "debian" }),
            ],
            refused: vec![
                (json!({ "builtIn": true }), "give one of url, builtIn: true and uploaded: true"),
                (json!({ "uploaded": true }), "give one of url, builtIn: true and uploaded: true"),
                (json!({ "url": null, "builtIn": true, "uploaded": true }), "give one of url, builtIn"),
                (json!({ "url": null }), "give one of url, builtIn: true and uploaded: true"),
                (json!({ "sha256": null }), "an image with a url needs its sha256"),
                (
                    json!({ "url": null, "sha256": null, "uploaded": true }),
                    "an image that is uploaded needs its sha256",
                ),
                (json!({ "sha256": "0" }), "should match"),
                (json!({ "url": "file:///etc/passwd" }), "should match"),
                (json!({ "format": "vmdk" }), "supported values: \"qcow2\", \"raw\""),
                (json!({ "minimumDisk": "big" }), "minimumDisk must be a quantity"),
            ],
            changes: vec![json!({ "displayName": "An image" })],
            frozen: vec![
                (json!({ "url": "https://images.example.com/b.qcow2" }), "url cannot change"),
                (json!({ "sha256": "1".repeat(64) }), "sha256 cannot change"),
                (json!({ "format": "raw" }), "format cannot change"),
                (json!({ "url": null, "builtIn": true }), "builtIn cannot change"),
                (json!({ "url": null, "uploaded": true }), "uploaded cannot change"),
            ],
        },
        Kind {
            kind: "Host",
            name: "host-a",
            valid: json!({}),
            accepted: vec![json!({ "unschedulable": true })],
            refused: vec![(json!({ "unschedulable": "yes" }), "must be of type boolean")],
            changes: vec![json!({ "unschedulable": true })],
            frozen: vec![],
        },
    ]
}

#[tokio::test]
async fn every_rule_holds() -> Result<()> {
    let cluster = Cluster::builder().hosts(0).do_not_start_components().start().await?;
    let client = cluster.client().await?;
    for kind in kinds() {
        check(&client, kind).await?;
    }
    names(&client).await?;
    selectable(&client).await?;
    cluster.stop().await
}

async fn check(client: &Client, kind: Kind) -> Result<()> {
    let Kind { kind, name, valid, accepted, refused: wrong, changes, frozen } = kind;
    let api = api(client, kind);
    for change in accepted {
        let spec = merged(&valid, &change);
        api.create(&dry_run(), &object(kind, name, &spec)?).await.with_context(|| format!("{kind} {spec}"))?;
    }
    for (change, sentence) in wrong {
        let spec = merged(&valid, &change);
        refused(&format!("{kind} {spec}"), api.create(&dry_run(), &object(kind, name, &spec)?).await, sentence).await?;
    }
    let stored = api.create(&PostParams::default(), &object(kind, name, &valid)?).await?;
    for change in changes {
        let patch = json!({ "spec": change });
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("{kind} {patch}"))?;
    }
    for (change, sentence) in frozen {
        let patch = json!({ "spec": change });
        let result = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        refused(&format!("{kind} {patch}"), result, sentence).await?;
    }
    unknown_field_is_refused(&api, kind, name).await?;
    let status = json!({ "status": { "phase": "Nonsense" } });
    let after = api.patch(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    ensure!(after.data.get("status").is_none(), "{kind}: status was written without the subresource");
    ensure!(stored.metadata.generation == Some(1), "{kind}: no generation");
    Ok(())
}

async fn unknown_field_is_refused(api: &Api<DynamicObject>, kind: &str, name: &str) -> Result<()> {
    let patch = json!({ "apiVersion": "kvmoor.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": { "hostPath": "/etc" } });
    let strict = PatchParams::apply("test").force().validation_strict();
    let result = api.patch(name, &strict, &Patch::Apply(&patch)).await;
    let error = result.err().with_context(|| format!("{kind}: an unknown field was accepted"))?.to_string();
    ensure!(error.contains("hostPath"), "{kind}: {error}");
    Ok(())
}

async fn names(client: &Client) -> Result<()> {
    let vm = json!({ "cpu": 1, "memory": "64Mi" });
    let long = "v".repeat(64);
    let result = api(client, "VirtualMachine").create(&dry_run(), &object("VirtualMachine", &long, &vm)?).await;
    refused("a VM name of 64 characters", result, "at most 63 characters").await?;
    let quota = json!({ "maxVms": 1, "maxCpu": 1, "maxMemory": "1Gi" });
    let result = api(client, "Quota").create(&dry_run(), &object("Quota", "second", &quota)?).await;
    refused("a second Quota", result, "it is named default").await
}

async fn selectable(client: &Client) -> Result<()> {
    for kind in ["VirtualMachine", "VirtualMachineSnapshot", "VirtualMachineRestore"] {
        let api = api(client, kind);
        let on = |node: &str| kube::api::ListParams::default().fields(&format!("spec.nodeName={node}"));
        ensure!(api.list(&on("host-a")).await?.items.len() == 1, "{kind}: not selected by its node");
        ensure!(api.list(&on("host-b")).await?.items.is_empty(), "{kind}: selected by another node");
    }
    Ok(())
}
