//! Deleting a virtual machine. The answer comes when the deletion is decided; domain and disks go soon after.

use kube::ResourceExt;
use kvmoor_crds::VirtualMachine;

use super::apply::api_of;
use crate::app::App;
use crate::delete::delete_exactly;
use crate::error::{ApiError, Noun};
use crate::model::{Deleted, now};
use crate::store::Key;

/// Deletes exactly this virtual machine. One that is being deleted or just gone is no error.
pub async fn delete(app: &App, vm: &VirtualMachine, id: i64) -> Result<Deleted, ApiError> {
    delete_exactly(&api_of(app, vm), vm, Noun::Vm).await?;
    wait_until_marked(app, vm).await?;
    let name = vm.spec.display_name.clone().unwrap_or_else(|| vm.name_any());
    Ok(Deleted { deleted: true, vm_id: id, name, timestamp: now() })
}

/// Waits a little until the cache knows of the deletion.
async fn wait_until_marked(app: &App, vm: &VirtualMachine) -> Result<(), ApiError> {
    let key = Key::of(vm);
    let known = |vms: &crate::store::Objects<VirtualMachine>| match vms.get(&key) {
        Some(current) if current.metadata.uid == vm.metadata.uid && current.metadata.deletion_timestamp.is_none() => {
            None
        }
        _ => Some(()),
    };
    app.stores.vms()?.wait(std::time::Duration::from_secs(2), known).await;
    Ok(())
}
