//! Writing status: server-side apply on `/status`, only if something differs, never on another object of the same name.
//!
//! The guard is metadata.resourceVersion of the object that the status was computed from: the API server answers 409 if
//! anything was written since, and the reconcile that this write itself sets off computes it again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use kvmoor_crds::{VirtualMachine, VirtualMachineStatus, names};
use serde_json::json;

use super::desired::Identity;
use super::status;

/// How long a write may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody wrote since; the newest object is on its way.
    #[error("the object changed meanwhile")]
    Conflict,
    /// It is gone; there is nobody to tell.
    #[error("the object is gone")]
    Gone,
    /// No answer in time.
    #[error("the Kubernetes API did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// Anything else.
    #[error("the Kubernetes API refused the status: {0}")]
    Refused(String),
}

/// The last status written to each virtual machine: the watch lags behind our own writes.
#[derive(Default)]
pub struct Written {
    entries: Mutex<HashMap<String, Base>>,
}

/// A status and the version of the object that has it.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// metadata.resourceVersion
    pub version: String,
    /// The whole status.
    pub status: VirtualMachineStatus,
}

impl Written {
    /// The newest status known of an object: what the watch brought, or what we wrote since.
    pub fn newest(&self, uid: &str, object: &VirtualMachine) -> Base {
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(uid) {
            Some(written) if is_newer(&written.version, &version) => written.clone(),
            _ => {
                entries.remove(uid);
                Base { version, status: object.status.clone().unwrap_or_default() }
            }
        }
    }

    fn keep(&self, uid: &str, base: Base) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), base);
    }

    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Writes the owned part of a status if it says anything that `base` does not. Says whether it was written.
pub async fn publish(
    client: &Client,
    written: &Written,
    identity: &Identity,
    base: &Base,
    next: &VirtualMachineStatus,
) -> Result<bool, PublishError> {
    if status::same(next, &status::owned(&base.status)) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": VirtualMachine::api_version(&()),
        "kind": VirtualMachine::kind(&()),
        "metadata": { "name": identity.name, "namespace": identity.namespace, "resourceVersion": base.version },
        "status": next,
    });
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), &identity.namespace);
    // Forced: phase, message and Ready are handed over between the cluster controller and this one.
    let params = PatchParams::apply(names::NODE_MANAGER).force();
    let answer = tokio::time::timeout(DEADLINE, api.patch_status(&identity.name, &params, &Patch::Apply(&patch))).await;
    match answer {
        Err(_) => Err(PublishError::Timeout),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(PublishError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(PublishError::Gone),
        Ok(Err(kube::Error::Api(status))) => Err(PublishError::Refused(status.message.clone())),
        Ok(Err(error)) => Err(PublishError::Refused(error.to_string())),
        Ok(Ok(object)) => {
            crate::fault::side_effect();
            written.keep(
                &identity.uid,
                Base {
                    version: object.metadata.resource_version.unwrap_or_default(),
                    status: object.status.unwrap_or_default(),
                },
            );
            Ok(true)
        }
    }
}

/// Whether one resourceVersion is later than another. The longer string is the later, as apimachinery compares them.
pub fn is_newer(left: &str, right: &str) -> bool {
    (left.len(), left) > (right.len(), right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_newer("10", "9"));
        assert!(!is_newer("9", "10"));
        assert!(!is_newer("10", "10"));
    }

    #[test]
    fn own_write_counts_until_the_watch_has_caught_up() {
        let object = |version: &str, message: &str| -> VirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
                "metadata": {"name": "a", "resourceVersion": version},
                "spec": {"cpu": 1, "memory": "1Gi"}, "status": {"message": message}
            }))
            .unwrap()
        };
        let written = Written::default();
        let ours = VirtualMachineStatus { message: Some("ours".into()), ..VirtualMachineStatus::default() };
        written.keep("u", Base { version: "20".into(), status: ours });
        assert_eq!(written.newest("u", &object("19", "old")).status.message.as_deref(), Some("ours"));
        assert_eq!(written.newest("u", &object("20", "same")).status.message.as_deref(), Some("same"));
        assert_eq!(written.newest("u", &object("19", "old")).version, "19", "forgotten once caught up");
    }
}
