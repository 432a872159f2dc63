//! What a user still needs: its namespace and rights, or their end. Pure.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use kvmoor_crds::conditions::{Finding, types};
use kvmoor_crds::{User, names};

/// Reasons of `TenantReady`.
pub mod reasons {
    /// Namespace and rights are there.
    pub const READY: &str = "NamespaceReady";
    /// An admin has not approved the user.
    pub const NOT_APPROVED: &str = "WaitingForApproval";
    /// The namespace belongs to somebody else.
    pub const TAKEN: &str = "NamespaceTaken";
    /// A namespace of that name is being deleted.
    pub const TERMINATING: &str = "NamespaceTerminating";
    /// The user is being deleted and still has virtual machines.
    pub const VMS_LEFT: &str = "VirtualMachinesLeft";
    /// The user is being deleted.
    pub const DELETING: &str = "Deleting";
    /// The Kubernetes API did not do what was asked.
    pub const FAILED: &str = "Failed";
}

/// Label of objects that Kvmoor made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kvmoor");

/// What is known of a user's namespace.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The user.
    pub user: &'a User,
    /// The namespace of its name, if one has an owner among the users.
    pub namespace: Option<&'a Namespace>,
    /// The RoleBinding in it.
    pub binding: Option<&'a RoleBinding>,
    /// Where the API server's account is.
    pub system_namespace: &'a str,
}

/// One thing to do. Each may be done again without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Add the finalizer.
    AddFinalizer,
    /// Create the namespace.
    CreateNamespace,
    /// Write the RoleBinding.
    Bind,
    /// Delete the RoleBinding.
    Unbind,
    /// Delete the namespace, if no virtual machine is left in it.
    DeleteNamespace,
    /// Delete the Secret with the password's hash.
    DeletePassword,
    /// Drop the finalizer. The last step of all.
    DropFinalizer,
}

/// What to do, and what to say when it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// The condition `TenantReady`.
    pub finding: Finding,
}

/// What a user still needs.
pub fn plan(facts: &Facts<'_>) -> Plan {
    if facts.user.metadata.deletion_timestamp.is_some() { end(facts) } else { keep(facts) }
}

fn keep(facts: &Facts<'_>) -> Plan {
    let Facts { user, namespace, binding, system_namespace } = *facts;
    let name = names::user_namespace(&user.name_any());
    let mut steps = Vec::new();
    if !has_finalizer(user) {
        steps.push(Step::AddFinalizer);
    }
    let finding = match namespace {
        Some(namespace) if !belongs_to(namespace, user) => taken(&name),
        Some(namespace) if is_terminating(namespace) => {
            let message = format!("namespace {name} is being deleted; it is made again when it is gone");
            Finding::new(types::TENANT_READY, false, reasons::TERMINATING, message)
        }
        _ if !user.spec.approved => {
            if binding.is_some() {
                steps.push(Step::Unbind);
            }
            Finding::new(types::TENANT_READY, false, reasons::NOT_APPROVED, "waits for the approval of an admin")
        }
        present => {
            if present.is_none() {
                steps.push(Step::CreateNamespace);
            }
            if !binding.is_some_and(|binding| grants(binding, user, system_namespace)) {
                steps.push(Step::Bind);
            }
            Finding::new(types::TENANT_READY, true, reasons::READY, format!("namespace {name} is there"))
        }
    };
    Plan { steps, finding }
}

fn end(facts: &Facts<'_>) -> Plan {
    let Facts { user, namespace, binding: _, system_namespace: _ } = *facts;
    let mut steps = Vec::new();
    let mut message = "its namespace is being deleted";
    if has_finalizer(user) {
        match namespace.filter(|namespace| belongs_to(namespace, user)) {
            Some(namespace) if is_terminating(namespace) => {}
            Some(_) => steps.push(Step::DeleteNamespace),
            None => {
                message = "its namespace is gone";
                steps.extend([Step::DeletePassword, Step::DropFinalizer]);
            }
        }
    }
    Plan { steps, finding: Finding::new(types::TENANT_READY, false, reasons::DELETING, message) }
}

/// What to say of a namespace that belongs to somebody else.
pub fn taken(name: &str) -> Finding {
    let message = format!("namespace {name} exists and does not belong to this user: delete or rename one of them");
    Finding::new(types::TENANT_READY, false, reasons::TAKEN, message)
}

/// Whether the namespace is this user's, not one of an earlier user of the same name.
pub fn belongs_to(namespace: &Namespace, user: &User) -> bool {
    let owner = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(names::USER_LABEL));
    owner.is_some() && owner == user.metadata.uid.as_ref()
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn has_finalizer(user: &User) -> bool {
    user.finalizers().iter().any(|finalizer| finalizer == names::USER_FINALIZER)
}

fn grants(binding: &RoleBinding, user: &User, system_namespace: &str) -> bool {
    let wanted = role_binding(user, system_namespace);
    binding.role_ref == wanted.role_ref && binding.subjects == wanted.subjects
}

/// The namespace of a user.
pub fn namespace(user: &User) -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            name: Some(names::user_namespace(&user.name_any())),
            labels: Some(labels(user)),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// What gives a user its rights in its namespace, for Kubernetes' own authentication, and the same to the API server,
/// which acts for the user there: it has no right to Secrets of any other namespace.
pub fn role_binding(user: &User, system_namespace: &str) -> RoleBinding {
    const RBAC: &str = "rbac.authorization.k8s.io";
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(names::USER_CLUSTER_ROLE.to_owned()),
            namespace: Some(names::user_namespace(&user.name_any())),
            labels: Some(labels(user)),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: names::USER_CLUSTER_ROLE.to_owned(),
        },
        subjects: Some(vec![
            Subject {
                api_group: Some(RBAC.to_owned()),
                kind: "User".to_owned(),
                name: format!("{}{}", names::USER_SUBJECT_PREFIX, user.spec.username),
                namespace: None,
            },
            Subject {
                api_group: None,
                kind: "ServiceAccount".to_owned(),
                name: "kvmoor-api-server".to_owned(),
                namespace: Some(system_namespace.to_owned()),
            },
        ]),
    }
}

fn labels(user: &User) -> std::collections::BTreeMap<String, String> {
    let owner = (names::USER_LABEL.to_owned(), user.metadata.uid.clone().unwrap_or_default());
    [owner, (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kvmoor_crds::UserSpec;

    use super::*;

    const SYSTEM: &str = "s";

    fn user(approved: bool) -> User {
        let spec: UserSpec =
            serde_json::from_value(serde_json::json!({ "username": "Ann", "approved": approved })).unwrap();
        let mut user = User::new("ann", spec);
        user.metadata.uid = Some("uid-1".to_owned());
        user
    }

    fn settled(approved: bool) -> User {
        let mut user = user(approved);
        user.metadata.finalizers = Some(vec![names::USER_FINALIZER.to_owned()]);
        user
    }

    fn deleted(mut user: User) -> User {
        user.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        user
    }

    #[test]
    fn an_approved_user_gets_namespace_and_rights_once() {
        let new = user(true);
        let planned = plan(&Facts { user: &new, namespace: None, binding: None, system_namespace: SYSTEM });
        assert_eq!(planned.steps, [Step::AddFinalizer, Step::CreateNamespace, Step::Bind]);
        let user = settled(true);
        let (namespace, binding) = (namespace(&user), role_binding(&user, SYSTEM));
        assert_eq!(binding.subjects.as_ref().unwrap()[0].name, "kvmoor:Ann");
        let planned = plan(&Facts {
            user: &user,
            namespace: Some(&namespace),
            binding: Some(&binding),
            system_namespace: SYSTEM,
        });
        assert_eq!(planned.steps, []);
        assert_eq!(planned.finding.reason, reasons::READY);
    }

    #[test]
    fn changed_rights_are_put_back_and_a_withdrawn_approval_takes_them() {
        let user = settled(true);
        let namespace = namespace(&user);
        let foreign = RoleBinding { subjects: None, ..role_binding(&user, SYSTEM) };
        let planned = plan(&Facts {
            user: &user,
            namespace: Some(&namespace),
            binding: Some(&foreign),
            system_namespace: SYSTEM,
        });
        assert_eq!(planned.steps, [Step::Bind]);
        let user = settled(false);
        let planned = plan(&Facts {
            user: &user,
            namespace: Some(&namespace),
            binding: Some(&foreign),
            system_namespace: SYSTEM,
        });
        assert_eq!(planned.steps, [Step::Unbind]);
        assert_eq!(planned.finding.reason, reasons::NOT_APPROVED);
    }

    #[test]
    fn nobody_gets_a_namespace_before_approval_or_one_of_somebody_else() {
        let waiting = settled(false);
        assert_eq!(plan(&Facts { user: &waiting, namespace: None, binding: None, system_namespace: SYSTEM }).steps, []);
        let approved = settled(true);
        let mut other = namespace(&approved);
        other.metadata.labels.as_mut().unwrap().insert(names::USER_LABEL.to_owned(), "uid-0".to_owned());
        let planned =
            plan(&Facts { user: &approved, namespace: Some(&other), binding: None, system_namespace: SYSTEM });
        assert_eq!((planned.steps, planned.finding.reason), (vec![], reasons::TAKEN));
    }

    #[test]
    fn the_end_waits_for_the_namespace() {
        let user = deleted(settled(true));
        let mut namespace = namespace(&user);
        assert_eq!(
            plan(&Facts { user: &user, namespace: Some(&namespace), binding: None, system_namespace: SYSTEM }).steps,
            [Step::DeleteNamespace]
        );
        namespace.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(
            plan(&Facts { user: &user, namespace: Some(&namespace), binding: None, system_namespace: SYSTEM }).steps,
            []
        );
        assert_eq!(
            plan(&Facts { user: &user, namespace: None, binding: None, system_namespace: SYSTEM }).steps,
            [Step::DeletePassword, Step::DropFinalizer]
        );
    }
}
