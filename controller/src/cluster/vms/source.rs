//! What of a virtual machine matters to its clones: which host they go to, how large their root disk is at least, and
//! what they have to have in common. Pure.

use std::collections::BTreeMap;

use kvmoor_crds::conditions::reasons;
use kvmoor_crds::{Firmware, VirtualMachineSpec, quantity};

use super::decide::{ImageFacts, Row};
use super::view::{Class, Vm};

/// A virtual machine that others may be clones of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The host that has its disks; none yet where it has not been placed.
    pub node: Option<String>,
    /// The size of its root disk, in bytes; none where that is not known.
    root_disk: Option<u64>,
    os_type: Option<String>,
    firmware: Firmware,
    is_deleting: bool,
}

/// All of them, by namespace and name.
pub type Sources = BTreeMap<(String, String), Source>;

/// A clone that cannot be: the reason of the condition, and a sentence.
pub type Refusal = (&'static str, String);

impl Source {
    /// What there is to know of a virtual machine, and where it is.
    pub fn of(row: &Row<'_>, images: &BTreeMap<&str, ImageFacts<'_>>, classes: &BTreeMap<&str, Class>) -> Self {
        let spec = &row.vm.object.spec;
        Self {
            node: row.node().map(str::to_owned),
            root_disk: root_disk(row.vm, images, classes),
            os_type: spec.os_type.clone(),
            firmware: spec.firmware,
            is_deleting: row.vm.is_deleting(),
        }
    }
}

fn root_disk(vm: &Vm, images: &BTreeMap<&str, ImageFacts<'_>>, classes: &BTreeMap<&str, Class>) -> Option<u64> {
    let request = vm.requested.as_ref().ok()?;
    // Without its class it is what it was admitted with.
    let resolved = request.resolve(classes).map_or_else(|_| request.clone(), |(resolved, _)| resolved);
    let request = if request.has_root_disk() { resolved } else { resolved.with_root_disk(vm.admitted_root_disk()) };
    let image = vm.object.spec.os_type.as_deref().and_then(|name| images.get(name));
    Some(request.root_disk_with_image(image.map_or(0, |image| image.size)))
}

/// The size of the source's root disk, in bytes, if `spec` can be a clone of it.
///
/// # Errors
/// Why it cannot.
pub fn judge(sources: &Sources, namespace: &str, name: &str, spec: &VirtualMachineSpec) -> Result<u64, Refusal> {
    let found = sources.get(&(namespace.to_owned(), name.to_owned()));
    let Some(source) = found.filter(|source| !source.is_deleting) else {
        let why = if found.is_some() { "is being deleted" } else { "does not exist" };
        return Err((reasons::SOURCE_MISSING, format!("the VirtualMachine {name} that it is a clone of {why}")));
    };
    let invalid = |message: String| Err((reasons::INVALID_SPEC, message));
    if spec.os_type.is_some() && spec.os_type != source.os_type {
        let theirs = source.os_type.as_deref().unwrap_or("none");
        return invalid(format!("spec.osType: that of its source {name} is {theirs}; leave it out"));
    }
    if spec.firmware != source.firmware {
        return invalid(format!(
            "spec.firmware: that of its source {name} is {:?}, and its disks are made for it",
            source.firmware
        ));
    }
    let Some(root_disk) = source.root_disk else {
        return invalid(format!("the size of the root disk of its source {name} cannot be read"));
    };
    let asked = spec.disk.as_ref().and_then(|disk| disk.size.as_ref()).map(quantity::bytes);
    match asked {
        Some(Ok(asked)) if asked < root_disk => {
            let size = quantity::from_bytes(root_disk).0;
            invalid(format!(
                "spec.disk.size: the root disk of its source {name} has {size}; raise it to that, or leave it out"
            ))
        }
        _ => Ok(root_disk),
    }
}

/// The host that a clone goes to.
///
/// # Errors
/// A sentence, where there is none yet.
pub fn host<'s>(sources: &'s Sources, namespace: &str, name: &str) -> Result<&'s str, String> {
    let found = sources.get(&(namespace.to_owned(), name.to_owned()));
    let source = found.ok_or_else(|| format!("the VirtualMachine {name} that it is a clone of does not exist"))?;
    source.node.as_deref().ok_or_else(|| format!("its source {name} has no host yet, and it goes where that is"))
}
