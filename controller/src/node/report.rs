//! What a host warns of: failures, and guests that went off by themselves.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};
use kvmoor_crds::VirtualMachine;

use super::desired::Identity;
use super::queue::Request;
use crate::warnings::{Warning, Warnings, about};

/// Writes a warning beside a virtual machine, in the background.
pub fn warn(client: &Client, node_name: &str, identity: &Identity, reason: &'static str, note: &str) {
    let about = ObjectReference {
        api_version: Some(VirtualMachine::api_version(&()).into_owned()),
        kind: Some(VirtualMachine::kind(&()).into_owned()),
        name: Some(identity.name.clone()),
        namespace: Some(identity.namespace.clone()),
        uid: Some(identity.uid.clone()),
        ..ObjectReference::default()
    };
    say(client, node_name, about, Warning { action: "Synchronize", reason, note: note.to_owned() });
}

/// Writes a warning beside a snapshot or restore, in the background.
pub fn warn_of(client: &Client, node_name: &str, request: &Request, reason: &'static str, note: &str) {
    let (about, action) = match request {
        Request::Snapshot(snapshot) => (about(&**snapshot), "Snapshot"),
        Request::Restore(restore) => (about(&**restore), "Restore"),
    };
    say(client, node_name, about, Warning { action, reason, note: note.to_owned() });
}

fn say(client: &Client, node_name: &str, about: ObjectReference, warning: Warning) {
    // They are said when the words change, and a Recorder would repeat the first, so each gets its own.
    let warnings = Warnings::new(client.clone(), "kvmoor-controller-node", Some(node_name.to_owned()));
    warnings.say_later(about, warning);
}
