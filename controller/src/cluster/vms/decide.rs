//! What to do with every virtual machine, given all that is known. Pure.
//!
//! Virtual machines are gone through in the order of their creation, and each decision counts for those after it. So the
//! older one gets what is left of a quota or a host, and one that does not fit does not keep a smaller one out.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kvmoor_crds::Phase;
use kvmoor_crds::conditions::{Finding, Truth, is_true, reasons, types};

use super::admission::{self, Limits};
use super::liveness::Liveness;
use super::placement::{self, Candidate, Need, mebibytes};
use super::source::{self, Refusal, Source, Sources};
use super::status::{self, Change, Desired, Voice};
use super::view::{Class, Request, Vm};
use crate::cluster::resources::{Resources, Usage};

/// Who made a virtual machine that is refused for good has this long to delete it; then it is done here.
const TAKEN_BACK: SignedDuration = SignedDuration::from_secs(20);

/// All that decisions depend on.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Virtual machines, in any order.
    pub vms: Vec<Row<'a>>,
    /// The time, for what is due.
    pub now: Timestamp,
    /// Limits of the namespaces that have a Quota.
    pub limits: BTreeMap<&'a str, Limits>,
    /// Limits of all others.
    pub default_limits: Limits,
    /// Hosts; `allocated` is filled in here.
    pub hosts: Vec<Candidate>,
    /// Whether the node controllers live, of hosts and of nodes that virtual machines are bound to.
    pub liveness: BTreeMap<String, Liveness>,
    /// Images by name.
    pub images: BTreeMap<&'a str, ImageFacts<'a>>,
    /// Classes by name.
    pub classes: BTreeMap<&'a str, Class>,
}

/// A virtual machine and what is under way for it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// What was seen of it.
    pub vm: &'a Vm,
    /// What a write may have given it, where that is not known for sure.
    pub assumed: Option<&'a Assumed>,
    /// Whether nothing may be done with it now. What it has counts all the same.
    pub is_busy: bool,
}

/// What a write may have given a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assumed {
    /// What it may have been admitted with.
    pub admitted: Option<Resources>,
    /// The host it may have been bound to.
    pub node: Option<String>,
}

/// What of an image matters here.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageFacts<'a> {
    /// Architecture of the guest.
    pub architecture: Option<&'a str>,
    /// Size of its disk, in bytes; 0 where no host has it yet.
    pub size: u64,
}

/// What to do with one virtual machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Its UID.
    pub uid: String,
    /// The status to write, first.
    pub status: Option<(Change, Desired)>,
    /// The host whose name and finalizer to write, last.
    pub bind: Option<String>,
    /// Whether to drop the finalizer; nothing else is done then.
    pub release: bool,
    /// Whether to delete it; nothing else is done then.
    pub delete: bool,
}

/// When a virtual machine that is refused for good is deleted, if its maker has not done so.
pub fn deleted_at(vm: &Vm) -> Option<Timestamp> {
    let since = vm.refused_since().filter(|_| !vm.is_deleting())?;
    since.checked_add(TAKEN_BACK).ok()
}

/// Decisions, the oldest virtual machine first, and what each namespace uses when they are carried out.
pub fn decide(mut snapshot: Snapshot<'_>) -> (Vec<Decision>, BTreeMap<String, Usage>) {
    snapshot.vms.sort_by_key(|row| (row.vm.created, &row.vm.name, &row.vm.namespace, &row.vm.uid));
    let rows = std::mem::take(&mut snapshot.vms);
    let mut usage: BTreeMap<String, Usage> = BTreeMap::new();
    for row in &rows {
        if row.charge().is_some() {
            usage.entry(row.vm.namespace.clone()).or_default().add(row.charge());
        }
        if let (Some(node), Some(charge)) = (row.node(), row.charge()) {
            allocate(&mut snapshot.hosts, node, charge);
        }
    }
    let facts = |row: &Row<'_>| {
        let key = (row.vm.namespace.clone(), row.vm.name.clone());
        (key, Source::of(row, &snapshot.images, &snapshot.classes))
    };
    let sources: Sources = rows.iter().map(facts).collect();
    let mut decisions = Vec::new();
    for row in rows.iter().filter(|row| !row.is_busy) {
        let mut ledger = Ledger { snapshot: &mut snapshot, usage: &mut usage, sources: &sources };
        decisions.extend(ledger.decide(row));
    }
    (decisions, usage)
}

impl Row<'_> {
    /// The most that the quota and the host may be charged with for it.
    fn charge(&self) -> Option<Resources> {
        match (self.vm.admitted, self.assumed.and_then(|assumed| assumed.admitted)) {
            (Some(seen), Some(assumed)) => Some(seen.at_most(assumed)),
            (seen, assumed) => seen.or(assumed),
        }
    }

    /// The host that it is, or may be, bound to.
    pub fn node(&self) -> Option<&str> {
        self.vm.node().or_else(|| self.assumed.and_then(|assumed| assumed.node.as_deref()))
    }
}

fn allocate(hosts: &mut [Candidate], node: &str, more: Resources) {
    if let Some(host) = hosts.iter_mut().find(|host| host.name == node) {
        host.allocated = host.allocated.plus(more);
    }
}

/// The snapshot with the decisions so far counted in.
struct Ledger<'l, 'a> {
    snapshot: &'l mut Snapshot<'a>,
    usage: &'l mut BTreeMap<String, Usage>,
    sources: &'l Sources,
}

impl Ledger<'_, '_> {
    fn decide(&mut self, row: &Row<'_>) -> Option<Decision> {
        let vm = row.vm;
        if vm.is_deleting() {
            return self.decide_deleting(vm);
        }
        if deleted_at(vm).is_some_and(|due| due <= self.snapshot.now) {
            return Some(Decision { uid: vm.uid.clone(), status: None, bind: None, release: false, delete: true });
        }
        let (admitted, admission) = self.admit(row);
        let refused = matches!(admission.status, Truth::False);
        let mut desired = Desired { admitted, root_disk: self.root_disk(vm), ..Desired::default() };
        let mut bind = None;
        let obstacle = match (vm.node(), admitted) {
            (Some(node), _) => {
                desired.scheduled = Some(placed(node));
                bind = (!vm.has_finalizer()).then(|| node.to_owned());
                None
            }
            (None, Some(admitted)) => match self.place(row, admitted) {
                Ok(node) => {
                    desired.scheduled = Some(placed(&node));
                    bind = Some(node);
                    None
                }
                Err(why) => {
                    let unschedulable = Finding::new(types::SCHEDULED, false, reasons::UNSCHEDULABLE, why);
                    desired.scheduled = Some(unschedulable.clone());
                    Some(unschedulable)
                }
            },
            (None, None) => refused.then(|| admission.clone()),
        };
        desired.admission = Some(admission);
        if let Some(node) = vm.node() {
            self.reach(vm, node, &mut desired);
        } else if let Some(obstacle) = obstacle {
            desired.voice = waiting(obstacle.reason, obstacle.message);
        } else if vm.owns_phase {
            desired.voice = waiting(reasons::PLACED, "waits for its host to take it up".to_owned());
        }
        self.decision(vm, desired, bind)
    }

    /// A virtual machine that is being deleted keeps what it has until it is gone.
    fn decide_deleting(&mut self, vm: &Vm) -> Option<Decision> {
        let is_released = vm.node().is_none() || is_true(vm.conditions(), types::RELEASED);
        if vm.has_finalizer() && is_released {
            return Some(Decision { uid: vm.uid.clone(), status: None, bind: None, release: true, delete: false });
        }
        let (node, _id) = (vm.node()?, vm.id()?);
        let mut desired = Desired { admitted: vm.admitted, root_disk: self.root_disk(vm), ..Desired::default() };
        self.reach(vm, node, &mut desired);
        self.decision(vm, desired, None)
    }

    fn decision(&self, vm: &Vm, desired: Desired, bind: Option<String>) -> Option<Decision> {
        let status = match status::compare(vm, &desired) {
            Change::None => None,
            change => Some((change, desired)),
        };
        let uid = vm.uid.clone();
        (status.is_some() || bind.is_some()).then_some(Decision { uid, status, bind, release: false, delete: false })
    }

    /// What the virtual machine is admitted with from now on, and what to say about it.
    fn admit(&mut self, row: &Row<'_>) -> (Option<Resources>, Finding) {
        let vm = row.vm;
        let refuse = |reason, message| (vm.admitted, Finding::new(types::ADMITTED, false, reason, message));
        let request = match &vm.requested {
            Ok(request) => request,
            Err(error) => return refuse(reasons::INVALID_SPEC, error.to_string()),
        };
        if let (Some(_), Some(verdict)) = (vm.refused_since(), vm.condition(types::ADMITTED)) {
            return refuse(reasons::QUOTA_EXCEEDED, verdict.message.clone());
        }
        let request = match self.resolve(vm, request) {
            Ok((request, _)) => request,
            Err((reason, message)) => return refuse(reason, message),
        };
        let image = vm.object.spec.os_type.as_deref().and_then(|name| self.snapshot.images.get(name));
        let mut requested = request.with_image(image.map_or(0, |image| image.size));
        // What a guest has counts until it has not: CPUs and memory until its restart, disks until they are gone.
        requested = requested.at_most(vm.held);
        let charge = row.charge();
        let limits = *self.snapshot.limits.get(vm.namespace.as_str()).unwrap_or(&self.snapshot.default_limits);
        let mut others = self.usage.get(&vm.namespace).copied().unwrap_or_default();
        others.remove(charge);
        if let Err(excess) = admission::judge(&limits, others, vm.admitted, requested) {
            return refuse(reasons::QUOTA_EXCEEDED, excess);
        }
        if let Err(lack) = self.fits_host(row, requested) {
            return refuse(reasons::HOST_FULL, lack);
        }
        // What shrinks is free for others only when that is written.
        let charged = charge.unwrap_or_default().at_most(requested);
        others.add(Some(charged));
        self.usage.insert(vm.namespace.clone(), others);
        if let (Some(node), Some(before)) = (row.node(), charge) {
            allocate(&mut self.snapshot.hosts, node, charged.minus(before));
        }
        (Some(requested), Finding::new(types::ADMITTED, true, reasons::WITHIN_QUOTA, "within quota"))
    }

    /// The request in numbers, and the least size of the root disk where class or source say it and the spec does not.
    /// That stays what it was admitted with, whatever they say by now.
    fn resolve(&self, vm: &Vm, request: &Request) -> Result<(Request, Option<u64>), Refusal> {
        let resolved = request.resolve(&self.snapshot.classes);
        let (resolved, of_class) = resolved.map_err(|missing| (reasons::CLASS_NOT_FOUND, missing))?;
        let implied = match (&vm.object.spec.source, vm.admitted) {
            (_, Some(_)) => vm.admitted_root_disk(),
            (None, None) => of_class,
            (Some(source), None) => {
                let of_source = source::judge(self.sources, &vm.namespace, &source.vm_name, &vm.object.spec)?;
                Some(of_source.max(of_class.unwrap_or(0)))
            }
        };
        if request.has_root_disk() { Ok((resolved, None)) } else { Ok((resolved.with_root_disk(implied), implied)) }
    }

    /// The least size of the root disk that its class or source says.
    fn root_disk(&self, vm: &Vm) -> Option<u64> {
        match vm.admitted {
            Some(_) => vm.admitted_root_disk(),
            None => self.resolve(vm, vm.requested.as_ref().ok()?).ok()?.1,
        }
    }

    /// Whether the host of a virtual machine has room for its growth.
    fn fits_host(&self, row: &Row<'_>, requested: Resources) -> Result<(), String> {
        let (Some(node), Some(present)) = (row.vm.node(), row.vm.admitted) else { return Ok(()) };
        let Some(host) = self.snapshot.hosts.iter().find(|host| host.name == node) else { return Ok(()) };
        let free = host.capacity.minus(host.allocated);
        let growth = requested.minus(present);
        if growth.cpu > 0 && growth.cpu > free.cpu {
            return Err(format!("host {node} has {} CPUs free of {} more needed", free.cpu, growth.cpu));
        }
        if growth.memory > 0 && growth.memory > free.memory {
            let (free, growth) = (mebibytes(free.memory), mebibytes(growth.memory));
            return Err(format!("host {node} has {free} memory free of {growth} more needed"));
        }
        Ok(())
    }

    fn place(&mut self, row: &Row<'_>, resources: Resources) -> Result<String, String> {
        let spec = &row.vm.object.spec;
        if let Some(node) = row.node() {
            // A write that was not answered may have bound it: the same host, or none until that is known.
            return Ok(node.to_owned());
        }
        let image = spec.os_type.as_deref().and_then(|name| self.snapshot.images.get(name));
        let architecture = image.and_then(|image| image.architecture);
        let features = spec.host_features();
        let need = Need { resources, selector: &spec.node_selector, architecture, features: &features };
        let node = match &spec.source {
            None => placement::choose(&self.snapshot.hosts, &need)?.name.clone(),
            Some(source) => {
                // No other host has the disks.
                let node = source::host(self.sources, &row.vm.namespace, &source.vm_name)?;
                let hosts: Vec<_> = self.snapshot.hosts.iter().filter(|host| host.name == node).cloned().collect();
                let chosen = placement::choose(&hosts, &need).map(|host| host.name.clone());
                chosen.map_err(|why| format!("it goes to {node}, the host of its source {}: {why}", source.vm_name))?
            }
        };
        allocate(&mut self.snapshot.hosts, &node, resources);
        Ok(node)
    }

    /// What to say about a host that is lost or back.
    fn reach(&self, vm: &Vm, node: &str, desired: &mut Desired) {
        let before = vm.condition(types::HOST_REACHABLE).map(|condition| condition.status.as_str());
        match self.snapshot.liveness.get(node).copied().unwrap_or(Liveness::Doubtful) {
            Liveness::Lost => {
                let message = format!(
                    "the node controller of host {node} does not renew its Lease: whether the virtual machine runs is not known; it is not moved"
                );
                let lost = Finding::new(types::HOST_REACHABLE, false, reasons::NODE_LOST, message.clone());
                desired.reachable = Some(lost);
                // A host that writes its own word after it was given up is not contradicted.
                if before != Some("False") || vm.owns_phase {
                    let ready = Finding::new(types::READY, Truth::Unknown, reasons::NODE_LOST, message.clone());
                    desired.voice = Voice::Say { phase: Phase::Unknown, message, ready };
                }
            }
            Liveness::Live if before == Some("False") => {
                let back = format!("the node controller of host {node} renews its Lease");
                desired.reachable = Some(Finding::new(types::HOST_REACHABLE, true, "LeaseRenewed", back));
            }
            Liveness::Live | Liveness::Doubtful => {}
        }
    }
}

fn placed(node: &str) -> Finding {
    Finding::new(types::SCHEDULED, true, reasons::PLACED, format!("placed on host {node}"))
}

fn waiting(reason: &'static str, message: String) -> Voice {
    let ready = Finding::new(types::READY, false, reason, message.clone());
    Voice::Say { phase: Phase::Pending, message, ready }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
