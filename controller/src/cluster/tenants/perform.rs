//! Carrying out a user's steps, and saying in its status how that went.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt as _};
use kvmoor_crds::conditions::{self, Finding, find, types};
use kvmoor_crds::{User, UserStatus, VirtualMachine, names};
use serde_json::{Value, json};

use super::plan::{self, Plan, Step, belongs_to, reasons};
use crate::cluster::writer::{WriteError, Writer};

/// What became of a user.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The newest state of the user.
    pub user: Option<User>,
    /// The namespace that was created.
    pub namespace: Option<Namespace>,
    /// The RoleBinding that was written.
    pub binding: Option<RoleBinding>,
    /// Whether it waits for virtual machines to go.
    pub waits: bool,
}

/// Why a user is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct StepError {
    what: &'static str,
    #[source]
    source: WriteError,
}

/// Where things are.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The system namespace.
    pub system_namespace: &'a str,
    /// The id for the user, if it has none yet.
    pub id: Option<i64>,
}

/// Does what the plan says; the status is written also when a step failed.
pub async fn perform(writer: &Writer, place: Place<'_>, user: &User, plan: Plan) -> (Outcome, Result<(), StepError>) {
    let Plan { steps, mut finding } = plan;
    let mut outcome = Outcome::default();
    let mut result = Ok(());
    for step in steps {
        let current = outcome.user.clone();
        match take(writer, place, current.as_ref().unwrap_or(user), step, &mut outcome).await {
            Ok(None) => {}
            Ok(Some(instead)) => {
                finding = instead;
                break;
            }
            Err(error) => {
                let message = format!("cannot {}: {}", error.what, error.source);
                finding = Finding::new(types::TENANT_READY, false, reasons::FAILED, message);
                result = Err(error);
                break;
            }
        }
        if step == Step::DropFinalizer {
            // It is gone: there is no status to write.
            return (outcome, result);
        }
    }
    let published = publish(writer, place, outcome.user.as_ref().unwrap_or(user), finding).await;
    match published {
        Ok(Some(user)) => outcome.user = Some(user),
        Ok(None) => {}
        Err(source) => result = result.and(Err(StepError { what: "write its status", source })),
    }
    (outcome, result)
}

/// One step. Answers what to say instead when it shows that the plan cannot go on.
async fn take(
    writer: &Writer,
    place: Place<'_>,
    user: &User,
    step: Step,
    outcome: &mut Outcome,
) -> Result<Option<Finding>, StepError> {
    let client = writer.client();
    let name = user.name_any();
    let namespace = names::user_namespace(&name);
    let failed = |what| move |source| StepError { what, source };
    match step {
        Step::AddFinalizer => {
            let patched = patch_finalizers(writer, user, true).await;
            outcome.user = Some(patched.map_err(failed("add the finalizer"))?);
        }
        Step::CreateNamespace => {
            let api: Api<Namespace> = Api::all(client);
            let created = match writer.write(api.create(&post(), &plan::namespace(user))).await {
                Err(WriteError::Conflict) => writer.read(api.get(&namespace)).await,
                other => other,
            };
            let created = created.map_err(failed("create its namespace"))?;
            if !belongs_to(&created, user) {
                return Ok(Some(plan::taken(&namespace)));
            }
            outcome.namespace = Some(created);
        }
        Step::Bind => {
            let api: Api<RoleBinding> = Api::namespaced(client, &namespace);
            let params = PatchParams::apply(names::CLUSTER_MANAGER).force();
            let patch = Patch::Apply(plan::role_binding(user, place.system_namespace));
            let written = writer.write(api.patch(names::USER_CLUSTER_ROLE, &params, &patch)).await;
            outcome.binding = Some(written.map_err(failed("give it its rights"))?);
        }
        Step::Unbind => {
            let api: Api<RoleBinding> = Api::namespaced(client, &namespace);
            let deleted = writer.write(api.delete(names::USER_CLUSTER_ROLE, &DeleteParams::default())).await;
            gone_is_fine(deleted).map_err(failed("take its rights"))?;
        }
        Step::DeleteNamespace => return delete_namespace(writer, user, outcome).await,
        Step::DeletePassword => {
            let api: Api<Secret> = Api::namespaced(client, place.system_namespace);
            let deleted = writer.write(api.delete(&names::password_secret(&name), &DeleteParams::default())).await;
            gone_is_fine(deleted).map_err(failed("delete its password"))?;
        }
        Step::DropFinalizer => {
            let patched = patch_finalizers(writer, user, false).await;
            outcome.user = gone_is_fine(patched).map_err(failed("drop the finalizer"))?;
        }
    }
    Ok(None)
}

/// Deletes the namespace unless virtual machines are left, asked of the API and not of what was seen.
async fn delete_namespace(writer: &Writer, user: &User, outcome: &mut Outcome) -> Result<Option<Finding>, StepError> {
    let failed = |what| move |source| StepError { what, source };
    let name = names::user_namespace(&user.name_any());
    let vms: Api<VirtualMachine> = Api::namespaced(writer.client(), &name);
    let left = writer.read(vms.list_metadata(&ListParams::default().limit(3))).await;
    let left = left.map_err(failed("list its virtual machines"))?;
    if !left.items.is_empty() {
        let names: Vec<String> = left.items.iter().map(|vm| vm.name_any()).collect();
        let more = left.metadata.remaining_item_count.map_or_else(String::new, |count| format!(" and {count} more"));
        let message = format!("delete its virtual machines first: {}{more}", names.join(", "));
        outcome.waits = true;
        return Ok(Some(Finding::new(types::TENANT_READY, false, reasons::VMS_LEFT, message)));
    }
    let api: Api<Namespace> = Api::all(writer.client());
    let present = writer.read(api.get_opt(&name)).await.map_err(failed("read its namespace"))?;
    if let Some(namespace) = present.filter(|namespace| belongs_to(namespace, user)) {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: namespace.metadata.uid, resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = writer.write(api.delete(&name, &params)).await;
        gone_is_fine(deleted).map_err(failed("delete its namespace"))?;
    }
    Ok(None)
}

/// Writes id, namespace and condition if they differ from what stands there.
async fn publish(writer: &Writer, place: Place<'_>, user: &User, finding: Finding) -> Result<Option<User>, WriteError> {
    let before = user.status.clone().unwrap_or_default();
    let condition = finding.into_condition(&before.conditions, user.metadata.generation, Timestamp::now());
    let name = user.name_any();
    let status = UserStatus {
        id: before.id.or(place.id),
        // Once there, it stays there until the user is gone.
        namespace: before
            .namespace
            .clone()
            .or_else(|| (condition.status == "True").then(|| names::user_namespace(&name))),
        conditions: vec![condition.clone()],
    };
    let is_same = find(&before.conditions, types::TENANT_READY).is_some_and(|old| conditions::same(old, &condition));
    if status.id.is_none() || is_same && status.id == before.id && status.namespace == before.namespace {
        return Ok(None);
    }
    let body = json!({
        "apiVersion": User::api_version(&()),
        "kind": User::kind(&()),
        "metadata": { "name": name, "resourceVersion": user.resource_version() },
        "status": status,
    });
    let params = PatchParams::apply(names::CLUSTER_MANAGER);
    let api: Api<User> = Api::all(writer.client());
    writer.write(api.patch_status(&name, &params, &Patch::Apply(body))).await.map(Some)
}

async fn patch_finalizers(writer: &Writer, user: &User, add: bool) -> Result<User, WriteError> {
    let others = user.finalizers().iter().filter(|finalizer| *finalizer != names::USER_FINALIZER).cloned();
    let finalizers: Vec<String> = others.chain(add.then(|| names::USER_FINALIZER.to_owned())).collect();
    let operations = json!([
        { "op": "test", "path": "/metadata/uid", "value": user.metadata.uid },
        { "op": "test", "path": "/metadata/resourceVersion", "value": user.metadata.resource_version },
        { "op": "add", "path": "/metadata/finalizers", "value": finalizers },
    ]);
    patch_user(writer, &user.name_any(), operations).await
}

/// Applies a JSON patch to a user.
///
/// # Errors
/// When a test in it fails, among others.
pub async fn patch_user(writer: &Writer, name: &str, operations: Value) -> Result<User, WriteError> {
    let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError).map_err(WriteError::Failed)?;
    let params = PatchParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<User> = Api::all(writer.client());
    writer.write(api.patch(name, &params, &Patch::<User>::Json(patch))).await
}

/// Parameters of a create.
pub fn post() -> PostParams {
    PostParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PostParams::default() }
}

fn gone_is_fine<T>(result: Result<T, WriteError>) -> Result<Option<T>, WriteError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(WriteError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
