//! Carrying out a decision: at most one status and one patch, each only on the version that was judged.

use std::sync::Arc;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kvmoor_crds::{VirtualMachine, names};
use serde_json::{Value, json};

use super::view::Vm;
use crate::cluster::writer::{WriteError, Writer};

/// What to write.
#[derive(Debug, Default)]
pub struct Work {
    /// The status to apply, first.
    pub status: Option<Value>,
    /// The host to bind to, second.
    pub bind: Option<String>,
    /// Whether to drop the finalizer.
    pub release: bool,
    /// Whether to delete it.
    pub delete: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Done {
    /// UID of the virtual machine.
    pub uid: String,
    /// The version that the last write was meant for.
    pub base: String,
    /// The newest state that was read or written.
    pub newest: Option<VirtualMachine>,
    /// Whether everything was written.
    pub result: Result<(), WriteError>,
    /// Whether the finalizer was to be dropped, or the object deleted.
    pub is_released: bool,
}

/// Writes what there is to write. After a failure, reads what stands there now.
pub async fn perform(writer: Writer, vm: Arc<Vm>, work: Work) -> Done {
    let api: Api<VirtualMachine> = Api::namespaced(writer.client(), &vm.namespace);
    let mut done = Done {
        uid: vm.uid.clone(),
        base: vm.version.clone(),
        newest: None,
        result: Ok(()),
        is_released: work.release || work.delete,
    };
    done.result = write(&writer, &api, &vm, work, &mut done).await;
    if done.result.is_err()
        && let Ok(Some(object)) = writer.read(api.get_opt(&vm.name)).await
    {
        done.newest = Some(object);
    }
    done
}

async fn write(
    writer: &Writer,
    api: &Api<VirtualMachine>,
    vm: &Vm,
    work: Work,
    done: &mut Done,
) -> Result<(), WriteError> {
    let Work { status, bind, release, delete } = work;
    if delete {
        // Only the version that was judged: somebody may have made it fit meanwhile.
        let preconditions = Preconditions { uid: Some(vm.uid.clone()), resource_version: Some(vm.version.clone()) };
        let params = DeleteParams::default().preconditions(preconditions);
        return writer.write(api.delete(&vm.name, &params)).await.map(drop);
    }
    if let Some(status) = status {
        // Forced: phase, message and Ready are taken over from the host when it is lost.
        let params = PatchParams::apply(names::CLUSTER_MANAGER).force();
        let written = writer.write(api.patch_status(&vm.name, &params, &Patch::Apply(status))).await?;
        done.saw(written);
    }
    let object = done.newest.as_ref().unwrap_or(&vm.object);
    let mut operations = Vec::new();
    if let Some(node) = bind {
        if object.spec.node_name.is_none() {
            operations.push(json!({ "op": "add", "path": "/spec/nodeName", "value": node }));
        }
        operations.push(match &object.metadata.finalizers {
            Some(_) => json!({ "op": "add", "path": "/metadata/finalizers/-", "value": names::VM_FINALIZER }),
            None => json!({ "op": "add", "path": "/metadata/finalizers", "value": [names::VM_FINALIZER] }),
        });
    }
    if release {
        let finalizers = object.metadata.finalizers.iter().flatten();
        let rest: Vec<&String> = finalizers.filter(|finalizer| *finalizer != names::VM_FINALIZER).collect();
        operations.push(json!({ "op": "replace", "path": "/metadata/finalizers", "value": rest }));
    }
    if !operations.is_empty() {
        let patch = guarded(&vm.uid, &done.base, operations)?;
        let written = writer.write(api.patch(&vm.name, &params(), &patch)).await?;
        done.saw(written);
    }
    Ok(())
}

impl Done {
    fn saw(&mut self, object: VirtualMachine) {
        self.base = object.metadata.resource_version.clone().unwrap_or_default();
        self.newest = Some(object);
    }
}

/// A patch that does nothing to a successor of the same name, nor to a version that was not judged.
fn guarded(uid: &str, version: &str, operations: Vec<Value>) -> Result<Patch<VirtualMachine>, WriteError> {
    let mut all = vec![
        json!({ "op": "test", "path": "/metadata/uid", "value": uid }),
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }),
    ];
    all.extend(operations);
    let patch = serde_json::from_value(Value::Array(all)).map_err(kube::Error::SerdeError);
    patch.map(Patch::Json).map_err(WriteError::Failed)
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PatchParams::default() }
}
