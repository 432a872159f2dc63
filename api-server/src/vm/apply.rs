//! Writes a change that was decided on what may be outdated: on a conflict it is decided again, on the newest.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvmoor_crds::power::{self, PowerAction};
use kvmoor_crds::{VirtualMachine, names};
use rand::Rng;

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};

/// Tries of a write that others get in the way of.
pub const TRIES: u32 = 8;

/// The API of virtual machines in the namespace of `vm`.
pub fn api_of(app: &App, vm: &VirtualMachine) -> Api<VirtualMachine> {
    Api::namespaced(app.client.clone(), &vm.namespace().unwrap_or_default())
}

/// The virtual machine as it is, if it still is the same one.
pub async fn reread(api: &Api<VirtualMachine>, vm: &VirtualMachine) -> Result<VirtualMachine, ApiError> {
    let current = api.get(&vm.name_any()).await.map_err(|error| from_kube(Noun::Vm, error))?;
    if current.metadata.uid == vm.metadata.uid { Ok(current) } else { Err(ApiError::NotFound(Noun::Vm)) }
}

/// A pause before a write is tried again, longer from one attempt to the next.
pub async fn pause(attempt: u32) {
    let longest = 10_u64.saturating_mul(u64::from(attempt) + 1);
    let time = Duration::from_millis(rand::rng().random_range(1..=longest));
    tokio::time::sleep(time).await;
}

/// Whether a write failed because the object had changed.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Does `action` and answers with the virtual machine after it.
pub async fn power(app: &App, seen: Arc<VirtualMachine>, action: PowerAction) -> Result<VirtualMachine, ApiError> {
    let api = api_of(app, &seen);
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    let mut vm = Arc::unwrap_or_clone(seen);
    let mut read_now = false;
    for attempt in 0..TRIES {
        let change = power::decide(&vm, action).map_err(|refusal| ApiError::Conflict(refusal.to_string()));
        // Nothing to do, and refusals, are answers about the present, which the cache may lag behind.
        if change.as_ref().map_or(true, |change| change.is_nothing()) {
            if read_now {
                return change.map(|_| vm);
            }
            vm = reread(&api, &vm).await?;
            read_now = true;
            continue;
        }
        match api.patch(&vm.name_any(), &params, &Patch::Merge(change?.patch(&vm))).await {
            Ok(written) => {
                app.stores.vms()?.wait_until_seen(&written).await;
                return Ok(written);
            }
            Err(error) if is_conflict(&error) => {
                pause(attempt).await;
                vm = reread(&api, &vm).await?;
                read_now = true;
            }
            Err(error) => return Err(from_kube(Noun::Vm, error)),
        }
    }
    Err(ApiError::Conflict("VM is being changed by others at the same time; try again".to_owned()))
}
