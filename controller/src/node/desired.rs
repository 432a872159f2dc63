//! What is wanted of one virtual machine: the raw object, read once.
//!
//! Pure. Nothing below this file looks at a spec: what is not in [`Desired`] is not acted upon.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kvmoor_crds::guest_data::GuestData;
use kvmoor_crds::{
    Firmware, HostFeature, ImageFormat, ImageSpec, Network, NetworkType, PowerState, Requests, RestartPolicy,
    VirtualMachine, conditions, names, quantity,
};

use super::domain_xml::{Disk, DiskFormat, DomainConfig};
use super::hypervisor::HostFacts;
use super::images::record::Content;
use super::images::{Place, Source};
use super::network_xml::{Link, Nic};
use super::plan::Blocked;
use super::room;
use super::seed::{self, Seed};

/// Size of a root disk where nobody said one.
const DEFAULT_ROOT_BYTES: u64 = 10 << 30;

/// Which virtual machine it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// metadata.uid; the domain's UUID.
    pub uid: String,
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// It is to be there, as described.
    Present(Box<Machine>),
    /// It is to be gone, domain and volumes.
    Absent {
        /// Which one.
        identity: Identity,
        /// Whether the API server itself, not a cache, said that this very object is being deleted. Nothing is
        /// destroyed before.
        confirmed: bool,
    },
}

/// Why an object is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouched {
    /// It is not admitted, so nothing may be given to it.
    NotAdmitted,
    /// All that it had is gone and the status says so; a later write could meet another object of its name.
    Released,
}

/// A spec that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Path of the field.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// A virtual machine as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Which one.
    pub identity: Identity,
    /// The power state to bring about.
    pub power: PowerState,
    /// What to do when the guest goes off by itself.
    pub restart_policy: RestartPolicy,
    /// How long the guest may take to shut down.
    pub grace: Duration,
    /// What to do once.
    pub requests: Requests,
    /// Virtual CPUs, no more than admitted.
    pub cpu: u32,
    /// Memory in MiB, no more than admitted.
    pub memory_mib: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Whether it has a TPM 2.0.
    pub tpm: bool,
    /// What its host must have.
    pub features: Vec<HostFeature>,
    /// Network interfaces.
    pub nics: Vec<Interface>,
    /// What its disks begin as copies of.
    pub source: Option<CloneOf>,
    /// The root disk.
    pub root: Root,
    /// The other disks.
    pub disks: Vec<Extra>,
    /// The size of all disks together that the quota was charged for.
    pub disk_admitted: u64,
    /// The cloud-init seed.
    pub seed: Seed,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the spec.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// What it is connected to.
    pub network: NetworkType,
    /// The host's bridge, with [`NetworkType::Bridge`].
    pub bridge: Option<String>,
}

impl Interface {
    fn config(&self, namespace: &str, host: &HostFacts) -> Result<Nic, Blocked> {
        let link = match self.network {
            NetworkType::Nat => Link::Nat(host.network.clone()),
            NetworkType::Isolated => Link::Isolated(names::isolated_network(namespace)),
            NetworkType::Bridge => {
                let bridge = self.bridge.clone().unwrap_or_default();
                if !host.bridges.contains(&bridge) {
                    return Err(Blocked {
                        reason: "BridgeNotAllowed",
                        message: format!(
                            "The host's administrator has not allowed guests on bridge {bridge} ({}): ask for it, or \
                             make the virtual machine anew with another network",
                            match host.bridges.as_slice() {
                                [] => "no bridge is allowed".to_owned(),
                                allowed => format!("allowed: {}", allowed.join(", ")),
                            }
                        ),
                    });
                }
                Link::Bridge(bridge)
            }
        };
        Ok(Nic { mac: self.mac.clone(), link })
    }
}

/// The root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Name of the volume.
    pub volume: String,
    /// Smallest size, in bytes; the image may be larger.
    pub capacity: u64,
    /// Whether somebody said so; then the image may not be larger.
    pub is_explicit: bool,
    /// What it starts from; blank where there is none.
    pub image: Option<Image>,
    /// The osType for which there is no Image.
    pub unknown_os: Option<String>,
}

/// What a clone is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneOf {
    /// Name of the virtual machine, in the same namespace.
    pub vm_name: String,
    /// Name of one of its snapshots.
    pub snapshot_name: Option<String>,
}

/// The image of a root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name of the Image.
    pub name: String,
    /// Its format.
    pub format: DiskFormat,
    /// How it comes to the host.
    pub origin: Origin,
}

/// How an image comes to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The host has it, as the volume of that name.
    BuiltIn {
        /// Name of the volume.
        volume: String,
    },
    /// The host fetches it, or is sent it.
    Import(Source),
    /// Not at all; the text says why.
    Unusable(String),
}

impl Origin {
    /// How the Image of that name comes to a host.
    pub fn of(name: &str, spec: &ImageSpec) -> Self {
        let place = match &spec.url {
            Some(url) => Place::Url(url.clone()),
            None if spec.uploaded => Place::Upload { image: name.to_owned() },
            None => return Self::BuiltIn { volume: names::image_volume(name, spec.format) },
        };
        let Some(sha256) = &spec.sha256 else { return Self::Unusable("it has no sha256".to_owned()) };
        match Content::new(sha256, disk_format(spec.format)) {
            Some(content) => Self::Import(Source { place, content }),
            None => Self::Unusable("its sha256 is not 64 lower-case hexadecimal digits".to_owned()),
        }
    }
}

fn disk_format(format: ImageFormat) -> DiskFormat {
    match format {
        ImageFormat::Qcow2 => DiskFormat::Qcow2,
        ImageFormat::Raw => DiskFormat::Raw,
    }
}

/// A disk beside the root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Name of the volume.
    pub volume: String,
    /// Name of the disk, which the guest sees as serial number.
    pub name: String,
    /// Size in bytes.
    pub capacity: u64,
}

impl Desired {
    /// Tells attempts at the same thing from attempts after something was changed.
    pub fn revision(&self, generation: Option<i64>) -> String {
        let generation = generation.unwrap_or_default();
        match self {
            Self::Present(machine) => {
                format!("{generation}/{}/{}/{}", machine.cpu, machine.memory_mib, machine.disk_admitted)
            }
            Self::Absent { .. } => generation.to_string(),
        }
    }

    /// Which virtual machine it is.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Present(machine) => &machine.identity,
            Self::Absent { identity, .. } => identity,
        }
    }
}

impl Machine {
    /// What its domain is made from on a host, with those of its disks that are usable, or why it cannot be.
    pub fn config(&self, host: &HostFacts, usable: &[String]) -> Result<DomainConfig, Blocked> {
        let unusable = |message| Blocked { reason: "VirtualizationUnusable", message };
        let virt = host.virt.clone().map_err(unusable)?;
        let nics = self.nics.iter().map(|nic| nic.config(&self.identity.namespace, host));
        if let Some(lacking) = self.features.iter().find(|feature| !host.guests.features.contains(feature)) {
            let message =
                format!("The host does not have {}; install it there, or choose another host", lacking.describe());
            return Err(Blocked { reason: "FeatureMissing", message });
        }
        let disk = |volume: &str, format, serial: Option<&str>, read_only| Disk {
            volume: volume.to_owned(),
            format,
            serial: serial.map(str::to_owned),
            read_only,
        };
        let mut disks = vec![disk(&self.root.volume, DiskFormat::Qcow2, None, false)];
        let extras = self.disks.iter().filter(|extra| usable.contains(&extra.name));
        disks.extend(extras.map(|extra| disk(&extra.volume, DiskFormat::Qcow2, Some(&extra.name), false)));
        disks.push(disk(&self.seed.volume, DiskFormat::Raw, None, true));
        Ok(DomainConfig {
            uid: self.identity.uid.clone(),
            virt,
            arch: host.architecture.clone(),
            cpu: self.cpu,
            max_cpu: room::cpus(self.cpu, host.guests.max_cpus),
            memory_mib: self.memory_mib,
            memory_room: room::memory(self.memory_mib, host.memory).filter(|_| host.guests.max_cpus > 0),
            firmware: self.firmware,
            tpm: self.tpm,
            pool: host.pool.clone(),
            disks,
            nics: nics.collect::<Result<_, _>>()?,
        })
    }
}

/// Reads an object. `image` looks an Image up by name. The outer result is about the spec, the inner about whether there
/// is anything to do at all.
pub fn parse(
    object: &VirtualMachine,
    image: impl FnOnce(&str) -> Option<ImageSpec>,
) -> Result<Result<Desired, Untouched>, Invalid> {
    let identity = identity(object)?;
    let status = object.status.as_ref();
    if object.metadata.deletion_timestamp.is_some() {
        let released =
            status.is_some_and(|status| conditions::is_true(&status.conditions, conditions::types::RELEASED));
        // The spec is not read: a bad one must not keep anybody from deleting it.
        return Ok(if released {
            Err(Untouched::Released)
        } else {
            Ok(Desired::Absent { identity, confirmed: false })
        });
    }
    let Some(admitted) = status.and_then(|status| status.admitted.as_ref()) else {
        return Ok(Err(Untouched::NotAdmitted));
    };
    let spec = &object.spec;
    let uid = identity.uid.as_str();
    // What a class stands for is known from the admission alone.
    let (cpu, memory) = object.size().unwrap_or((admitted.cpu, &admitted.memory));
    let memory = bytes("spec.memory", memory)?.min(bytes("status.admitted.memory", &admitted.memory)?);
    let cpu = u32::try_from(cpu.min(admitted.cpu)).ok().filter(|cpu| *cpu > 0);
    let cpu = cpu.ok_or_else(|| Invalid { field: "spec.cpu", message: "must be at least 1".to_owned() })?;
    let size = spec.disk.as_ref().and_then(|disk| disk.size.as_ref());
    let sized = size.or(admitted.root_disk.as_ref());
    let source = spec.source.as_ref();
    let source =
        source.map(|source| CloneOf { vm_name: source.vm_name.clone(), snapshot_name: source.snapshot_name.clone() });
    // What a clone's disk stands on is its source's.
    let os_type = spec.os_type.as_deref().filter(|_| source.is_none());
    let root = Root { is_explicit: size.is_some(), ..root(os_type, sized, uid, image)? };
    let disks = spec.disks.iter().map(|disk| {
        Ok(Extra {
            volume: names::extra_volume(uid, &disk.name),
            name: disk.name.clone(),
            capacity: quantity::sectors(bytes("spec.disks[].size", &disk.size)?),
        })
    });
    let cloud_init = spec.cloud_init.clone().unwrap_or_default();
    Ok(Ok(Desired::Present(Box::new(Machine {
        power: spec.power_state,
        restart_policy: spec.restart_policy,
        grace: Duration::from_secs(u64::try_from(spec.termination_grace_period_seconds).unwrap_or_default()),
        requests: spec.requests,
        cpu,
        memory_mib: memory.div_ceil(quantity::MIB).max(1),
        firmware: spec.firmware,
        tpm: spec.tpm,
        features: spec.host_features(),
        nics: spec.networks.iter().map(|network| interface(uid, network)).collect(),
        source,
        root,
        disks: disks.collect::<Result<_, _>>()?,
        disk_admitted: bytes("status.admitted.disk", &admitted.disk)?,
        seed: Seed {
            volume: names::seed_volume(uid),
            instance_id: seed::instance_id(uid, spec.requests.reprovision),
            host_name: identity.name.clone(),
            ssh_authorized_keys: cloud_init.ssh_authorized_keys,
            user_data_from: cloud_init.user_data_secret_ref,
            network_data_from: cloud_init.network_data_secret_ref,
            told: GuestData::default(),
        },
        identity,
    }))))
}

fn interface(uid: &str, network: &Network) -> Interface {
    Interface {
        name: network.name.clone(),
        mac: names::mac_address(uid, &network.name),
        network: network.type_,
        bridge: network.bridge.clone(),
    }
}

fn identity(object: &VirtualMachine) -> Result<Identity, Invalid> {
    let missing = |field| Invalid { field, message: "is missing".to_owned() };
    let metadata = &object.metadata;
    let uid = metadata.uid.clone().ok_or_else(|| missing("metadata.uid"))?;
    // The UID names domain and volumes, and is the domain's UUID: whatever else it may be, it must be one.
    let uid = uuid::Uuid::try_parse(&uid)
        .map(|uuid| uuid.to_string())
        .map_err(|_| Invalid { field: "metadata.uid", message: "is not a UUID".to_owned() })?;
    Ok(Identity {
        uid,
        namespace: metadata.namespace.clone().ok_or_else(|| missing("metadata.namespace"))?,
        name: metadata.name.clone().ok_or_else(|| missing("metadata.name"))?,
    })
}

fn root(
    os_type: Option<&str>,
    size: Option<&Quantity>,
    uid: &str,
    image: impl FnOnce(&str) -> Option<ImageSpec>,
) -> Result<Root, Invalid> {
    let found = os_type.and_then(|name| Some((name, image(name)?)));
    let minimum = match found.as_ref().and_then(|(_, spec)| spec.minimum_disk.as_ref()) {
        Some(minimum) => bytes("minimumDisk of the Image", minimum)?,
        None => 0,
    };
    let asked = size.map(|size| bytes("spec.disk.size", size)).transpose()?.unwrap_or(DEFAULT_ROOT_BYTES);
    Ok(Root {
        volume: names::root_volume(uid),
        capacity: quantity::sectors(asked.max(minimum)),
        is_explicit: false,
        unknown_os: os_type.filter(|_| found.is_none()).map(str::to_owned),
        image: found.map(|(name, spec)| Image {
            name: name.to_owned(),
            format: disk_format(spec.format),
            origin: Origin::of(name, &spec),
        }),
    })
}

fn bytes(field: &'static str, value: &Quantity) -> Result<u64, Invalid> {
    quantity::bytes(value).map_err(|error| Invalid { field, message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(patch: serde_json::Value) -> VirtualMachine {
        let mut object = serde_json::json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": "web", "namespace": "ns", "uid": "550e8400-e29b-41d4-a716-446655440000" },
            "spec": { "cpu": 2, "memory": "1Gi", "osType": "tiny" },
            "status": { "admitted": { "cpu": 2, "memory": "1Gi", "disk": "10Gi" } }
        });
        merge(&mut object, patch);
        serde_json::from_value(object).unwrap()
    }

    fn merge(target: &mut serde_json::Value, patch: serde_json::Value) {
        match patch {
            serde_json::Value::Object(entries) if target.is_object() => {
                for (key, value) in entries {
                    merge(&mut target[key], value);
                }
            }
            other => *target = other,
        }
    }

    fn tiny(name: &str) -> Option<ImageSpec> {
        (name == "tiny")
            .then(|| serde_json::from_value(serde_json::json!({"builtIn": true, "minimumDisk": "20Gi"})).unwrap())
    }

    fn machine(patch: serde_json::Value) -> Machine {
        match parse(&object(patch), tiny) {
            Ok(Ok(Desired::Present(machine))) => *machine,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gives_no_more_than_admitted() {
        let larger = machine(serde_json::json!({"spec": {"cpu": 8, "memory": "8Gi"}}));
        assert_eq!((larger.cpu, larger.memory_mib), (2, 1024));
        let smaller = machine(serde_json::json!({"spec": {"cpu": 1, "memory": "512.5Mi"}}));
        assert_eq!((smaller.cpu, smaller.memory_mib), (1, 513));
    }

    #[test]
    fn a_class_is_what_it_was_admitted_as() {
        let classed = machine(serde_json::json!({
            "spec": { "cpu": 0, "memory": "", "className": "small", "osType": null },
            "status": { "admitted": { "rootDisk": "20Gi" } },
        }));
        assert_eq!((classed.cpu, classed.memory_mib, classed.root.capacity), (2, 1024, 20 << 30));
    }

    #[test]
    fn root_disk_is_the_largest_of_what_is_asked_and_needed() {
        assert_eq!(machine(serde_json::json!({})).root.capacity, 20 << 30);
        assert_eq!(machine(serde_json::json!({"spec": {"disk": {"size": "30Gi"}}})).root.capacity, 30 << 30);
        let blank = machine(serde_json::json!({"spec": {"osType": "ubuntu"}})).root;
        assert_eq!((blank.capacity, blank.image, blank.unknown_os.as_deref()), (10 << 30, None, Some("ubuntu")));
    }

    #[test]
    fn leaves_alone_what_is_not_admitted_or_already_released() {
        assert_eq!(parse(&object(serde_json::json!({"status": null})), tiny), Ok(Err(Untouched::NotAdmitted)));
        let deleted =
            serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"memory": "x"}});
        assert!(matches!(parse(&object(deleted.clone()), tiny), Ok(Ok(Desired::Absent { confirmed: false, .. }))));
        let mut released = object(deleted);
        let found = conditions::Finding::new(conditions::types::RELEASED, true, "Released", "");
        released.status.as_mut().unwrap().conditions =
            vec![found.into_condition(&[], None, jiff::Timestamp::UNIX_EPOCH)];
        assert_eq!(parse(&released, tiny), Ok(Err(Untouched::Released)));
    }

    #[test]
    fn says_which_field_cannot_be_followed() {
        for (patch, field) in [
            (serde_json::json!({"spec": {"memory": "much"}}), "spec.memory"),
            (serde_json::json!({"spec": {"cpu": 0}}), "spec.cpu"),
            (serde_json::json!({"metadata": {"uid": "../../etc"}}), "metadata.uid"),
        ] {
            assert_eq!(parse(&object(patch), tiny).map_err(|invalid| invalid.field), Err(field));
        }
    }
}
