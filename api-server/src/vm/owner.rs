//! Whose a virtual machine is: the user's whose namespace it is in; the first admin's where the namespace is nobody's.

use kvmoor_crds::{User, UserRole, VirtualMachine};

use crate::model::Vm;
use crate::store::{Objects, Stored};

/// Answers for many virtual machines from one look at the users.
pub struct Owners<'a> {
    users: &'a Objects<User>,
    first_admin: i64,
}

impl<'a> Owners<'a> {
    /// The owners as the users are now.
    pub fn new(users: &'a Objects<User>) -> Self {
        let first_admin = users.numbered().find(|(_, user)| user.spec.role == UserRole::Admin).map_or(1, |(id, _)| id);
        Self { users, first_admin }
    }

    /// The number of the owner.
    pub fn of(&self, vm: &VirtualMachine) -> i64 {
        let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
        self.users.by_tenant(namespace).and_then(|user| user.id()).unwrap_or(self.first_admin)
    }

    /// The virtual machine over REST; `None` as long as it has no number.
    pub fn show(&self, vm: &VirtualMachine) -> Option<Vm> {
        Vm::new(vm, self.of(vm))
    }
}
