//! Kubernetes Events about virtual machines: failures, and guests that went off by themselves.
//!
//! Nothing depends on an Event; one that cannot be written is logged and forgotten.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use kvmoor_crds::VirtualMachine;

use super::desired::Identity;

/// The API takes at most 1 kB.
const LONGEST_NOTE: usize = 1000;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Writes a warning beside a virtual machine, in the background.
pub fn warn(client: &Client, node_name: &str, identity: &Identity, reason: &'static str, note: &str) {
    let reporter = Reporter { controller: "kvmoor-controller-node".to_owned(), instance: Some(node_name.to_owned()) };
    // A Recorder repeats the note of the first Event of a kind, so each note gets its own.
    let recorder = Recorder::new(client.clone(), reporter);
    let reference = ObjectReference {
        api_version: Some(VirtualMachine::api_version(&()).into_owned()),
        kind: Some(VirtualMachine::kind(&()).into_owned()),
        name: Some(identity.name.clone()),
        namespace: Some(identity.namespace.clone()),
        uid: Some(identity.uid.clone()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(truncated(note)),
        action: "Synchronize".to_owned(),
        secondary: None,
    };
    let uid = identity.uid.clone();
    tokio::spawn(async move {
        match tokio::time::timeout(DEADLINE, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) => {
                tracing::warn!(vm.uid = uid, message = status.message, "cannot write an event");
            }
            Ok(Err(error)) => tracing::warn!(vm.uid = uid, %error, "cannot write an event"),
            Err(_) => tracing::warn!(vm.uid = uid, "cannot write an event: no answer"),
        }
    });
}

fn truncated(note: &str) -> String {
    note.chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= LONGEST_NOTE).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn notes_end_on_a_character() {
        let note = super::truncated(&"é".repeat(900));
        assert_eq!(note.len(), 1000);
    }
}
