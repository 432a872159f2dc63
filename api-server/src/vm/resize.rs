//! Resizing: the spec is changed, the cluster controller counts it against the quota, and a refusal puts the old values
//! back.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kvmoor_crds::{VirtualMachine, names, quantity};
use serde_json::{Value, json};

use super::apply::{TRIES, api_of, is_conflict, pause, reread};
use super::create::ADMISSION;
use super::verdict::{Verdict, refusal};
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::store::Cache;

/// A new size, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// In numbers. What is missing stays.
    Numbers {
        /// Virtual CPUs.
        cpu: Option<i32>,
        /// Memory in MiB.
        memory: Option<u64>,
    },
    /// Those of a class.
    Class(String),
}

/// CPU and memory as they stand in a spec.
#[derive(Debug, Clone, PartialEq)]
enum SpecSizes {
    Class(String),
    Numbers { cpu: i32, memory: Quantity },
}

impl SpecSizes {
    fn of(vm: &VirtualMachine) -> Self {
        match &vm.spec.class_name {
            Some(class) => Self::Class(class.clone()),
            None => Self::Numbers { cpu: vm.spec.cpu, memory: vm.spec.memory.clone() },
        }
    }

    /// What is to stand there, given what the virtual machine has now.
    fn changed(sizes: &Sizes, (has_cpu, has_memory): (i32, &Quantity)) -> Self {
        match sizes {
            Sizes::Class(class) => Self::Class(class.clone()),
            Sizes::Numbers { cpu, memory } => Self::Numbers {
                cpu: cpu.unwrap_or(has_cpu),
                // 2048Mi is not written over 2Gi.
                memory: memory
                    .filter(|mib| crate::model::mib(has_memory) != *mib)
                    .map_or_else(|| has_memory.clone(), quantity::from_mib),
            },
        }
    }

    fn patch(&self, vm: &VirtualMachine) -> Value {
        let spec = match self {
            Self::Class(class) => json!({ "className": class, "cpu": null, "memory": null }),
            Self::Numbers { cpu, memory } => json!({ "className": null, "cpu": cpu, "memory": memory }),
        };
        json!({
            "metadata": { "uid": vm.metadata.uid, "resourceVersion": vm.metadata.resource_version },
            "spec": spec,
        })
    }
}

/// Resizes and answers when it is admitted. Not to be dropped before its end: what is refused would stay.
pub async fn resize(app: &App, seen: Arc<VirtualMachine>, sizes: Sizes) -> Result<VirtualMachine, ApiError> {
    let api = api_of(app, &seen);
    let cache = app.stores.vms()?;
    let mut vm = reread(&api, &seen).await?;
    for attempt in 0..TRIES {
        if vm.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::Conflict("VM is being deleted".to_owned()));
        }
        let before = SpecSizes::of(&vm);
        let has =
            vm.size().ok_or_else(|| ApiError::Conflict("VM has no size yet; its class is not there".to_owned()))?;
        let after = SpecSizes::changed(&sizes, has);
        if after == before {
            return Ok(vm);
        }
        match api.patch(&vm.name_any(), &params(), &Patch::Merge(after.patch(&vm))).await {
            Ok(written) => return conclude(&api, cache, written, before).await,
            Err(error) if is_conflict(&error) => {
                pause(attempt).await;
                vm = reread(&api, &vm).await?;
            }
            Err(error) => return Err(from_kube(Noun::Vm, error)),
        }
    }
    Err(ApiError::Conflict("VM is being changed by others at the same time; try again".to_owned()))
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Waits for the verdict on `written`; `before` is what to return to.
async fn conclude(
    api: &kube::Api<VirtualMachine>,
    cache: &Cache<VirtualMachine>,
    written: VirtualMachine,
    before: SpecSizes,
) -> Result<VirtualMachine, ApiError> {
    let uid = written.uid().unwrap_or_default();
    let generation = written.metadata.generation.unwrap_or_default();
    let verdict = cache
        .wait(ADMISSION, |vms| {
            let vm = vms.by_uid(&uid)?;
            Verdict::of(vm, generation).map(|verdict| (verdict, vm.clone()))
        })
        .await;
    let error = match verdict {
        Some((Verdict::Admitted, vm)) => return Ok(Arc::unwrap_or_clone(vm)),
        Some((Verdict::Refused { reason, message }, _)) => refusal(&reason, message),
        None => ApiError::unavailable("No cluster controller has admitted the new size in time; it stays as it was"),
    };
    put_back(api, cache, &written, &before).await;
    Err(error)
}

/// Returns to the old sizes, unless somebody has given others meanwhile.
async fn put_back(
    api: &kube::Api<VirtualMachine>,
    cache: &Cache<VirtualMachine>,
    written: &VirtualMachine,
    before: &SpecSizes,
) {
    let ours = SpecSizes::of(written);
    for attempt in 0..TRIES {
        let Ok(current) = reread(api, written).await else { break };
        if SpecSizes::of(&current) != ours {
            return;
        }
        match api.patch(&current.name_any(), &params(), &Patch::Merge(before.patch(&current))).await {
            Ok(restored) => return cache.wait_until_seen(&restored).await,
            Err(error) => {
                tracing::debug!(error = %crate::error::describe(&error), "cannot put the old size back yet");
                pause(attempt).await;
            }
        }
    }
    tracing::error!(
        vm.name = written.name_any(),
        "the size of a virtual machine stays that its caller was told not to have"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_changes() {
        let memory = Quantity("2Gi".into());
        let changed = |cpu, memory_mib| SpecSizes::changed(&Sizes::Numbers { cpu, memory: memory_mib }, (2, &memory));
        assert_eq!(changed(None, Some(2048)), SpecSizes::Numbers { cpu: 2, memory: memory.clone() });
        assert_eq!(changed(Some(4), Some(4096)), SpecSizes::Numbers { cpu: 4, memory: Quantity("4Gi".into()) });
        let class = SpecSizes::changed(&Sizes::Class("large".into()), (2, &memory));
        assert_eq!(class, SpecSizes::Class("large".into()));
    }
}
