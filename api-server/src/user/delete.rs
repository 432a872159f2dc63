//! Deleting a user, with its virtual machines only if that is asked for.

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::{User, UserRole, VirtualMachine};

use super::admins;
use crate::app::App;
use crate::delete::delete_exactly;
use crate::error::{ApiError, Noun, from_kube};
use crate::store::Stored;

/// Names of virtual machines in the sentence that refuses a deletion.
const NAMED: usize = 10;

/// Deletes a user. Its namespace, virtual machines and password go after it.
pub async fn delete(app: &App, target: &User, force: bool) -> Result<(), ApiError> {
    let vms = virtual_machines(app, target).await?;
    if !force && !vms.is_empty() {
        return Err(ApiError::Conflict(refusal(&vms)));
    }
    if target.spec.role == UserRole::Admin {
        admins::demote(app, target).await?;
    }
    for vm in &vms {
        let api: Api<VirtualMachine> = Api::namespaced(app.client.clone(), &vm.namespace().unwrap_or_default());
        delete_exactly(&api, vm, Noun::Vm).await?;
    }
    delete_exactly(&Api::all(app.client.clone()), target, Noun::User).await?;
    let uid = target.uid().unwrap_or_default();
    let known =
        |user: Option<&std::sync::Arc<User>>| user.is_none_or(|user| user.metadata.deletion_timestamp.is_some());
    app.stores.users()?.wait(std::time::Duration::from_secs(2), |users| known(users.by_uid(&uid)).then_some(())).await;
    Ok(())
}

async fn virtual_machines(app: &App, target: &User) -> Result<Vec<VirtualMachine>, ApiError> {
    let Some(namespace) = target.tenant_namespace() else { return Ok(Vec::new()) };
    let api: Api<VirtualMachine> = Api::namespaced(app.client.clone(), namespace);
    let list = api.list(&ListParams::default()).await.map_err(|error| from_kube(Noun::Vm, error))?;
    Ok(list.items.into_iter().filter(|vm| vm.metadata.deletion_timestamp.is_none()).collect())
}

fn refusal(vms: &[VirtualMachine]) -> String {
    let name = |vm: &VirtualMachine| vm.spec.display_name.clone().unwrap_or_else(|| vm.name_any());
    let mut named: Vec<_> = vms.iter().take(NAMED).map(|vm| format!("{:?}", name(vm))).collect();
    if let Some(more) = vms.len().checked_sub(NAMED).filter(|more| *more > 0) {
        named.push(format!("{more} more"));
    }
    let count = vms.len();
    let plural = if count == 1 { "" } else { "s" };
    format!(
        "User still has {count} VM{plural}: {}. Delete them first, or delete the user with ?force=true",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_the_machines() {
        let vm = |name: &str| -> VirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "x" },
                "spec": { "displayName": name, "cpu": 1, "memory": "1Gi" },
            }))
            .unwrap()
        };
        assert!(refusal(&[vm("My VM")]).starts_with("User still has 1 VM: \"My VM\". "));
        let many: Vec<_> = (0..12).map(|number| vm(&number.to_string())).collect();
        assert!(refusal(&many).contains("\"9\", 2 more."), "{}", refusal(&many));
    }
}
