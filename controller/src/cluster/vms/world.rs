//! All that is known of virtual machines and hosts, as the watches and the answers to our writes tell it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::{Resource, ResourceExt as _};
use kvmoor_crds::conditions::{is_true, types};
use kvmoor_crds::{Host, Image, Quota, VirtualMachine, VirtualMachineClass, quantity};
use tokio::time::Instant;

use super::admission::{DEFAULT_LIMITS, Limits};
use super::decide::{ImageFacts, Row, Snapshot};
use super::liveness::Renewals;
use super::placement::Candidate;
use super::view::{Class, Vm};
use crate::cluster::mirror::{Change, Mirror, View};
use crate::cluster::resources::Resources;

/// What one of the watches tells.
#[derive(Debug)]
pub enum Input {
    /// Of a virtual machine.
    Vm(Box<Change<VirtualMachine>>),
    /// Of a Quota.
    Quota(Change<Quota>),
    /// Of a Host.
    Host(Change<Host>),
    /// Of a Node.
    Node(Box<Change<Node>>),
    /// Of an Image.
    Image(Change<Image>),
    /// Of a VirtualMachineClass.
    Class(Change<VirtualMachineClass>),
    /// Of a Lease in the system namespace.
    Lease(Change<Lease>),
}

/// What of a Node matters here.
#[derive(Debug)]
struct NodeFacts {
    name: String,
    labels: BTreeMap<String, String>,
    is_cordoned: bool,
}

impl View<Node> for NodeFacts {
    fn of(node: Node, _previous: Option<&Self>) -> Self {
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        Self { name: node.name_any(), labels: node.metadata.labels.unwrap_or_default(), is_cordoned }
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct World {
    /// Virtual machines.
    pub vms: Mirror<Vm>,
    /// Renewals of the hosts' Leases.
    pub renewals: Renewals,
    quotas: Mirror<Quota>,
    hosts: Mirror<Host>,
    nodes: Mirror<NodeFacts>,
    images: Mirror<Image>,
    classes: Mirror<VirtualMachineClass>,
    leases: Mirror<Lease>,
}

impl World {
    /// Whether everything has been seen once. Before that, nothing may be decided.
    pub fn is_complete(&self) -> bool {
        let Self { vms, renewals: _, quotas, hosts, nodes, images, classes, leases } = self;
        vms.is_complete()
            && quotas.is_complete()
            && hosts.is_complete()
            && nodes.is_complete()
            && images.is_complete()
            && classes.is_complete()
            && leases.is_complete()
    }

    /// Takes in what a watch tells; answers the UIDs of virtual machines that are gone.
    pub fn apply(&mut self, input: Input, now: Instant, wall: Timestamp) -> Vec<String> {
        match input {
            Input::Vm(change) => return self.vms.apply(*change),
            Input::Quota(change) => drop(self.quotas.apply(change)),
            Input::Host(change) => drop(self.hosts.apply(change)),
            Input::Node(change) => drop(self.nodes.apply(*change)),
            Input::Image(change) => drop(self.images.apply(change)),
            Input::Class(change) => drop(self.classes.apply(change)),
            Input::Lease(change) => {
                if let Change::Present(lease) = &change {
                    self.renewals.see(lease, now, wall);
                }
                self.leases.apply(change);
            }
        }
        Vec::new()
    }

    /// Everything that decisions depend on, with the rows of the virtual machines still to be filled in by `row`.
    pub fn snapshot<'a>(
        &'a mut self,
        system_namespace: &str,
        now: Instant,
        row: impl Fn(&'a Vm) -> Row<'a>,
    ) -> Snapshot<'a> {
        let Self { vms, renewals, quotas, hosts, nodes, images, classes, leases: _ } = self;
        renewals.expect(vms.values().filter_map(|vm| vm.node()), now);
        renewals.expect(hosts.values().filter_map(|host| host.meta().name.as_deref()), now);
        let mut limits = BTreeMap::new();
        for quota in quotas.values() {
            if let Some(namespace) = quota.metadata.namespace.as_deref() {
                limits.insert(namespace, Limits::or_nothing(quota));
            }
        }
        let mut liveness = BTreeMap::new();
        for node in vms.values().filter_map(|vm| vm.node()) {
            if !liveness.contains_key(node) {
                liveness.insert(node.to_owned(), renewals.of(node, now));
            }
        }
        let hosts: Vec<&Host> = hosts.values().map(|host| &**host).collect();
        Snapshot {
            vms: vms.values().map(|vm| row(vm)).collect(),
            now: Timestamp::now(),
            // The default Quota is made by the leader; until it is there, its values hold.
            default_limits: limits.get(system_namespace).copied().unwrap_or(DEFAULT_LIMITS),
            limits,
            hosts: hosts.iter().map(|host| candidate(host, nodes, renewals, now)).collect(),
            liveness,
            images: images.values().filter_map(|image| image_facts(image, &hosts)).collect(),
            classes: classes.values().filter_map(|class| class_facts(class)).collect(),
        }
    }
}

fn candidate(host: &Host, nodes: &Mirror<NodeFacts>, renewals: &Renewals, now: Instant) -> Candidate {
    let name = host.name_any();
    let node = nodes.values().find(|node| node.name == name);
    let status = host.status.as_ref();
    let capacity =
        status.and_then(|status| status.capacity.as_ref()).map_or_else(Resources::default, |capacity| Resources {
            cpu: u64::try_from(capacity.cpu).unwrap_or(0),
            memory: quantity::bytes(&capacity.memory).unwrap_or(0),
            disk: 0,
        });
    Candidate {
        liveness: renewals.of(&name, now),
        libvirt_connected: status.is_some_and(|status| is_true(&status.conditions, types::LIBVIRT_CONNECTED)),
        cordoned: host.spec.unschedulable || node.is_some_and(|node| node.is_cordoned),
        labels: node.map(|node| node.labels.clone()),
        architecture: status.and_then(|status| status.architecture.clone()),
        features: status.map(|status| status.features.clone()).unwrap_or_default(),
        capacity,
        allocated: Resources::default(),
        name,
    }
}

fn class_facts(class: &VirtualMachineClass) -> Option<(&str, Class)> {
    Some((class.metadata.name.as_deref()?, Class::of(&class.spec)?))
}

fn image_facts<'a>(image: &'a Image, hosts: &[&Host]) -> Option<(&'a str, ImageFacts<'a>)> {
    let name = image.metadata.name.as_deref()?;
    let statuses = hosts.iter().filter_map(|host| host.status.as_ref());
    let copies = statuses.flat_map(|status| &status.images).filter(|copy| copy.name == name);
    let size = copies.filter_map(|copy| u64::try_from(copy.virtual_size).ok()).max().unwrap_or(0);
    // No root disk is made smaller.
    let minimum = image.spec.minimum_disk.as_ref().and_then(|minimum| quantity::bytes(minimum).ok());
    let size = size.max(minimum.unwrap_or(0));
    Some((name, ImageFacts { architecture: image.spec.architecture.as_deref(), size }))
}
