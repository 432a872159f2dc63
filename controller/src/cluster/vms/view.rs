//! What the cluster controller reads from a VirtualMachine, worked out once when it changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry};
use kube::ResourceExt as _;
use kvmoor_crds::conditions::{reasons, types};
use kvmoor_crds::quantity::{self, MIB, QuantityError};
use kvmoor_crds::{VirtualMachine, VirtualMachineClassSpec, VirtualMachineSpec, conditions, names};

use crate::cluster::mirror::View;
use crate::cluster::resources::Resources;

/// Size of a root disk that has none in its spec.
const DEFAULT_ROOT_DISK: u64 = 10 << 30;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    /// The object, without managedFields.
    pub object: VirtualMachine,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// What the spec asks for, or why that cannot be read.
    pub requested: Result<Request, QuantityError>,
    /// What the quota was charged for.
    pub admitted: Option<Resources>,
    /// CPUs, memory and disks that its guest has, by its host's word, but no more than it was admitted with.
    pub held: Resources,
    /// The first generation known to ask for these resources. An `Admitted` condition that is older speaks of another
    /// request, even if for the same amounts.
    pub requested_since: i64,
    /// Whether phase, message and Ready in the object were written by the cluster controller.
    pub owns_phase: bool,
}

/// What a spec asks for. The root disk's size depends on its image, which may become known later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the class that says CPUs and memory.
    class: Option<String>,
    /// Virtual CPUs.
    pub cpu: u64,
    /// Memory, in bytes, whole MiB.
    pub memory: u64,
    /// Least size of the root disk, in bytes, where the spec says it.
    root_disk: Option<u64>,
    /// Sizes of the other disks together, in bytes.
    other_disks: u64,
}

impl Request {
    fn of(spec: &VirtualMachineSpec) -> Result<Self, QuantityError> {
        let size = spec.disk.as_ref().and_then(|disk| disk.size.as_ref());
        let mut other_disks = 0_u64;
        for disk in &spec.disks {
            other_disks = other_disks.saturating_add(quantity::sectors(quantity::bytes(&disk.size)?));
        }
        let memory = match spec.class_name {
            Some(_) => 0,
            None => quantity::bytes(&spec.memory)?.div_ceil(MIB).saturating_mul(MIB),
        };
        Ok(Self {
            class: spec.class_name.clone(),
            cpu: u64::try_from(spec.cpu).unwrap_or(0),
            memory,
            root_disk: size.map(quantity::bytes).transpose()?.map(quantity::sectors),
            other_disks,
        })
    }

    /// The request in numbers, and the size of the root disk where the class says it.
    ///
    /// # Errors
    /// A sentence, where there is no class of that name.
    pub fn resolve(&self, classes: &BTreeMap<&str, Class>) -> Result<(Self, Option<u64>), String> {
        let Some(name) = &self.class else { return Ok((self.clone(), None)) };
        let class = classes.get(name.as_str()).ok_or_else(|| {
            let names: Vec<&str> = classes.keys().copied().collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("there is no VirtualMachineClass {name}; there is {there}")
        })?;
        let root_disk = class.disk.filter(|_| self.root_disk.is_none());
        let resolved =
            Self { cpu: class.cpu, memory: class.memory, root_disk: self.root_disk.or(class.disk), ..self.clone() };
        Ok((resolved, root_disk))
    }

    /// Whether the spec itself says how large the root disk is.
    pub fn has_root_disk(&self) -> bool {
        self.root_disk.is_some()
    }

    /// The request with a root disk of that size.
    pub fn with_root_disk(self, root_disk: Option<u64>) -> Self {
        Self { root_disk, ..self }
    }

    /// The whole request, given the size of the image's disk in bytes (0 where there is no image).
    pub fn with_image(&self, image: u64) -> Resources {
        let disk = self.root_disk_with_image(image).saturating_add(self.other_disks);
        Resources { cpu: self.cpu, memory: self.memory, disk }
    }

    /// The size of the root disk, in bytes.
    pub fn root_disk_with_image(&self, image: u64) -> u64 {
        quantity::sectors(self.root_disk.unwrap_or(DEFAULT_ROOT_DISK).max(image))
    }
}

/// The size that a class stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Virtual CPUs.
    pub cpu: u64,
    /// Memory, in bytes, whole MiB.
    pub memory: u64,
    /// Least size of the root disk, in bytes.
    pub disk: Option<u64>,
}

impl Class {
    /// The size of a class; `None` where it cannot be read.
    pub fn of(spec: &VirtualMachineClassSpec) -> Option<Self> {
        let VirtualMachineClassSpec { description: _, cpu, memory, disk } = spec;
        Some(Self {
            cpu: u64::try_from(*cpu).ok()?,
            memory: quantity::bytes(memory).ok()?.div_ceil(MIB).saturating_mul(MIB),
            disk: disk.as_ref().map(quantity::bytes).transpose().ok()?,
        })
    }
}

impl View<VirtualMachine> for Vm {
    fn of(mut object: VirtualMachine, previous: Option<&Self>) -> Self {
        let owns_phase = object.metadata.managed_fields.take().is_some_and(|entries| owns_phase(&entries));
        let requested = Request::of(&object.spec);
        let generation = object.metadata.generation.unwrap_or(0);
        let requested_since = match previous {
            Some(previous) if previous.requested == requested => previous.requested_since,
            Some(_) => generation,
            None => 0,
        };
        Self {
            uid: object.uid().unwrap_or_default(),
            version: object.resource_version().unwrap_or_default(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            created: object.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            requested,
            admitted: admitted(&object),
            held: held(&object),
            requested_since,
            owns_phase,
            object,
        }
    }
}

impl Vm {
    /// `status.id`.
    pub fn id(&self) -> Option<i64> {
        self.object.status.as_ref().and_then(|status| status.id)
    }

    /// `spec.nodeName`.
    pub fn node(&self) -> Option<&str> {
        self.object.spec.node_name.as_deref()
    }

    /// `metadata.generation`.
    pub fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or(0)
    }

    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has our finalizer.
    pub fn has_finalizer(&self) -> bool {
        self.object.finalizers().iter().any(|finalizer| finalizer == names::VM_FINALIZER)
    }

    /// When it was refused for good, if it was: who made it waited for the verdict only.
    pub fn refused_since(&self) -> Option<Timestamp> {
        let is_marked =
            self.object.annotations().get(names::REFUSE_OVER_QUOTA_ANNOTATION).is_some_and(|to| to == "true");
        let verdict = self.condition(types::ADMITTED).filter(|verdict| {
            verdict.status == "False" && verdict.reason == reasons::QUOTA_EXCEEDED && self.admitted.is_none()
        });
        verdict.filter(|_| is_marked && self.node().is_none()).map(|verdict| verdict.last_transition_time.0)
    }

    /// `status.conditions`.
    pub fn conditions(&self) -> &[Condition] {
        self.object.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
    }

    /// The condition of that type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        conditions::find(self.conditions(), type_)
    }
}

impl Vm {
    /// `status.admitted.rootDisk`, in bytes.
    pub fn admitted_root_disk(&self) -> Option<u64> {
        let admitted = self.object.status.as_ref()?.admitted.as_ref()?;
        quantity::bytes(admitted.root_disk.as_ref()?).ok()
    }
}

fn admitted(object: &VirtualMachine) -> Option<Resources> {
    let admitted = object.status.as_ref()?.admitted.as_ref()?;
    // Only this controller writes it. What it did not write is charged as far as it can be read.
    Some(Resources {
        cpu: u64::try_from(admitted.cpu).unwrap_or(0),
        memory: quantity::bytes(&admitted.memory).unwrap_or(0),
        disk: quantity::bytes(&admitted.disk).unwrap_or(0),
    })
}

/// What is admitted already is the most that a host's word can count: it decides what is free, so it must not be able to
/// use up a quota.
fn held(object: &VirtualMachine) -> Resources {
    let in_force = object.status.as_ref().and_then(|status| status.resources.as_ref());
    let (Some(in_force), Some(admitted)) = (in_force, admitted(object)) else { return Resources::default() };
    Resources {
        cpu: u64::try_from(in_force.cpu).unwrap_or(0).min(admitted.cpu),
        memory: quantity::bytes(&in_force.memory).unwrap_or(0).min(admitted.memory),
        disk: in_force.disk.as_ref().and_then(|disk| quantity::bytes(disk).ok()).unwrap_or(0).min(admitted.disk),
    }
}

fn owns_phase(entries: &[ManagedFieldsEntry]) -> bool {
    entries
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(names::CLUSTER_MANAGER))
        .filter(|entry| entry.subresource.as_deref() == Some("status"))
        .filter_map(|entry| entry.fields_v1.as_ref())
        .any(|fields| fields.0.pointer("/f:status/f:phase").is_some())
}
