//! Resizing, and disks that come, grow and go: the spec is changed, the cluster controller counts it against the quota, and a refusal puts the old values
//! back.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kvmoor_crds::{ExtraDisk, RootDisk, VirtualMachine, VirtualMachineSpec, names, quantity};
use serde_json::{Value, json};

use super::apply::{TRIES, api_of, is_conflict, pause, reread};
use super::create::ADMISSION;
use super::disks::{self, NewDisk};
use super::verdict::{Verdict, refusal};
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::model::mib;
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

/// What is to become of all that the quota counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New sizes. What is missing stays.
    Sizes {
        /// CPUs and memory.
        sizes: Option<Sizes>,
        /// Size of the root disk in MiB.
        disk: Option<u64>,
    },
    /// One more disk.
    Attach(NewDisk),
    /// A disk of that name is to have that size.
    Grow(NewDisk),
    /// The disk of that name goes.
    Detach(String),
}

/// CPU and memory as they stand in a spec.
#[derive(Debug, Clone, PartialEq)]
enum Size {
    Class(String),
    Numbers { cpu: i32, memory: Quantity },
}

/// All that the quota counts, as it stands in a spec.
#[derive(Debug, Clone, PartialEq)]
struct SpecSizes {
    size: Size,
    disk: Option<RootDisk>,
    disks: Vec<ExtraDisk>,
}

impl Size {
    fn of(spec: &VirtualMachineSpec) -> Self {
        match &spec.class_name {
            Some(class) => Self::Class(class.clone()),
            None => Self::Numbers { cpu: spec.cpu, memory: spec.memory.clone() },
        }
    }

    /// What is to stand there, given what the virtual machine has now.
    fn changed(sizes: &Sizes, (has_cpu, has_memory): (i32, &Quantity)) -> Self {
        match sizes {
            Sizes::Class(class) => Self::Class(class.clone()),
            Sizes::Numbers { cpu, memory } => Self::Numbers {
                cpu: cpu.unwrap_or(has_cpu),
                memory: other(*memory, Some(has_memory)).unwrap_or_else(|| has_memory.clone()),
            },
        }
    }
}

/// A size that is asked for, where it is another: 2048Mi is not written over 2Gi.
fn other(wanted: Option<u64>, present: Option<&Quantity>) -> Option<Quantity> {
    wanted.filter(|wanted| present.map(mib) != Some(*wanted)).map(quantity::from_mib)
}

impl SpecSizes {
    fn of(vm: &VirtualMachine) -> Self {
        Self { size: Size::of(&vm.spec), disk: vm.spec.disk.clone(), disks: vm.spec.disks.clone() }
    }

    /// What `change` makes of those of `vm`.
    fn changed(vm: &VirtualMachine, change: &Change) -> Result<Self, ApiError> {
        let before = Self::of(vm);
        let disks = match change {
            Change::Sizes { sizes, disk } => return before.resized(vm, sizes.as_ref(), *disk),
            Change::Attach(new) => disks::attached(&before.disks, new)?,
            Change::Grow(disk) => disks::grown(&before.disks, &disk.name, disk.size)?,
            Change::Detach(name) => disks::detached(&before.disks, name)?,
        };
        Ok(Self { disks, ..before })
    }

    fn resized(self, vm: &VirtualMachine, sizes: Option<&Sizes>, disk: Option<u64>) -> Result<Self, ApiError> {
        let unknown = || ApiError::Conflict("VM has no size yet; its class is not there".to_owned());
        let size = match sizes {
            Some(sizes) => Size::changed(sizes, vm.size().ok_or_else(unknown)?),
            None => self.size,
        };
        let present = self.disk.as_ref().and_then(|disk| disk.size.as_ref());
        if let (Some(wanted), Some(present)) = (disk, present) {
            disks::only_grows(mib(present), wanted)?;
        }
        let disk = other(disk, present).map(|size| RootDisk { size: Some(size) });
        Ok(Self { size, disk: disk.or(self.disk), disks: self.disks })
    }

    /// What makes `vm` have these: nothing is written that is so already.
    fn patch(&self, vm: &VirtualMachine) -> Value {
        let present = Self::of(vm);
        let mut spec = serde_json::Map::new();
        let mut put = |name: &str, value: Value| spec.insert(name.to_owned(), value);
        if self.size != present.size {
            let (class, cpu, memory) = match &self.size {
                Size::Class(class) => (json!(class), Value::Null, Value::Null),
                Size::Numbers { cpu, memory } => (Value::Null, json!(cpu), json!(memory)),
            };
            put("className", class);
            put("cpu", cpu);
            put("memory", memory);
        }
        if self.disk != present.disk {
            put("disk", json!(self.disk));
        }
        if self.disks != present.disks {
            put("disks", json!(self.disks));
        }
        json!({
            "metadata": { "uid": vm.metadata.uid, "resourceVersion": vm.metadata.resource_version },
            "spec": spec,
        })
    }
}

/// Changes it and answers when that is admitted. Not to be dropped before its end: what is refused would stay.
pub async fn resize(app: &App, seen: Arc<VirtualMachine>, change: Change) -> Result<VirtualMachine, ApiError> {
    let api = api_of(app, &seen);
    let cache = app.stores.vms()?;
    let mut vm = reread(&api, &seen).await?;
    for attempt in 0..TRIES {
        if vm.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::Conflict("VM is being deleted".to_owned()));
        }
        let before = SpecSizes::of(&vm);
        let after = SpecSizes::changed(&vm, &change)?;
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

    fn before() -> VirtualMachine {
        let vm = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "x", "uid": "u" },
            "spec": { "cpu": 2, "memory": "2Gi", "disk": { "size": "20Gi" } },
        });
        serde_json::from_value(vm).unwrap()
    }

    /// What is written for a change.
    fn written(change: &Change) -> Result<Value, ApiError> {
        let vm = before();
        Ok(SpecSizes::changed(&vm, change)?.patch(&vm)["spec"].take())
    }

    fn numbers(cpu: Option<i32>, memory: Option<u64>) -> Change {
        Change::Sizes { sizes: Some(Sizes::Numbers { cpu, memory }), disk: None }
    }

    fn disk(mib: u64) -> Change {
        Change::Sizes { sizes: None, disk: Some(mib) }
    }

    #[test]
    fn only_what_differs_changes() {
        assert_eq!(written(&numbers(None, Some(2048))).unwrap(), json!({}));
        let larger = written(&numbers(Some(4), Some(4096))).unwrap();
        assert_eq!(larger, json!({ "className": null, "cpu": 4, "memory": "4Gi" }));
        let class = Change::Sizes { sizes: Some(Sizes::Class("large".into())), disk: None };
        assert_eq!(written(&class).unwrap(), json!({ "className": "large", "cpu": null, "memory": null }));
    }

    #[test]
    fn the_root_disk_only_grows() {
        assert_eq!(written(&disk(20480)).unwrap(), json!({}));
        assert_eq!(written(&disk(40960)).unwrap(), json!({ "disk": { "size": "40Gi" } }));
        assert!(written(&disk(1024)).unwrap_err().to_string().contains("only grows"));
    }

    #[test]
    fn disks_come_and_go() {
        let new = NewDisk { name: "data".into(), size: 64 };
        let attached = written(&Change::Attach(new)).unwrap();
        assert_eq!(attached, json!({ "disks": [{ "name": "data", "size": "64Mi" }] }));
        let mut vm = before();
        vm.spec.disks =
            SpecSizes::changed(&vm, &Change::Attach(NewDisk { name: "data".into(), size: 64 })).unwrap().disks;
        let left = SpecSizes::changed(&vm, &Change::Detach("data".into())).unwrap();
        assert_eq!(left.patch(&vm)["spec"], json!({ "disks": [] }));
    }
}
