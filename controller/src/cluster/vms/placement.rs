//! Which host takes a virtual machine. Pure.

use std::collections::BTreeMap;

use kvmoor_crds::HostFeature;
use kvmoor_crds::quantity::{self, MIB};

use super::liveness::Liveness;
use crate::cluster::resources::Resources;

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the Host and its Node.
    pub name: String,
    /// Whether its node controller lives.
    pub liveness: Liveness,
    /// Whether libvirt answers there.
    pub libvirt_connected: bool,
    /// Whether the Host or the Node is marked unschedulable.
    pub cordoned: bool,
    /// Labels of the Node; nothing where there is no such Node.
    pub labels: Option<BTreeMap<String, String>>,
    /// Architecture of the guests.
    pub architecture: Option<String>,
    /// What guests can have there beyond the common.
    pub features: Vec<HostFeature>,
    /// What all guests together may have; CPUs with overcommitment.
    pub capacity: Resources,
    /// What the virtual machines bound to it were admitted with.
    pub allocated: Resources,
}

/// What a virtual machine needs of a host.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// CPUs and memory.
    pub resources: Resources,
    /// Labels that the Node must have.
    pub selector: &'a BTreeMap<String, String>,
    /// Architecture of the image, if it has one.
    pub architecture: Option<&'a str>,
    /// What it is to have beyond the common.
    pub features: &'a [HostFeature],
}

/// Why a host does not fit. The first that holds counts, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Misfit {
    Lost,
    WithoutNode,
    LibvirtDown,
    Cordoned,
    Selector,
    Architecture,
    Feature(HostFeature),
    Cpu { free: u64 },
    Memory { free: u64 },
}

/// Chooses a host: of those that fit the one that is least allocated afterwards, by name among equals.
///
/// # Errors
/// A sentence that says how many hosts do not fit for which reason.
pub fn choose<'a>(hosts: &'a [Candidate], need: &Need<'_>) -> Result<&'a Candidate, String> {
    let mut misfits = Vec::new();
    let mut best: Option<(u64, &Candidate)> = None;
    for host in hosts {
        match misfit(host, need) {
            Some(reason) => misfits.push(reason),
            None => {
                let score = load(host, need.resources);
                if best.is_none_or(|(least, other)| (score, &host.name) < (least, &other.name)) {
                    best = Some((score, host));
                }
            }
        }
    }
    best.map(|(_, host)| host).ok_or_else(|| explain(&misfits, need))
}

fn misfit(host: &Candidate, need: &Need<'_>) -> Option<Misfit> {
    let Some(labels) = &host.labels else { return Some(Misfit::WithoutNode) };
    let free = host.capacity.minus(host.allocated);
    if host.liveness != Liveness::Live {
        Some(Misfit::Lost)
    } else if !host.libvirt_connected {
        Some(Misfit::LibvirtDown)
    } else if host.cordoned {
        Some(Misfit::Cordoned)
    } else if need.selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
        Some(Misfit::Selector)
    } else if need.architecture.is_some_and(|needed| host.architecture.as_deref() != Some(needed)) {
        Some(Misfit::Architecture)
    } else if let Some(lacking) = need.features.iter().find(|feature| !host.features.contains(feature)) {
        Some(Misfit::Feature(*lacking))
    } else if free.cpu < need.resources.cpu {
        Some(Misfit::Cpu { free: free.cpu })
    } else if free.memory < need.resources.memory {
        Some(Misfit::Memory { free: free.memory })
    } else {
        None
    }
}

/// How full the host would be, in hundredths of a percent, CPUs and memory counting the same.
fn load(host: &Candidate, more: Resources) -> u64 {
    let after = host.allocated.plus(more);
    let share =
        |used: u64, of: u64| u128::from(used).saturating_mul(10_000).checked_div(u128::from(of)).unwrap_or(10_000);
    let sum = share(after.cpu, host.capacity.cpu) + share(after.memory, host.capacity.memory);
    u64::try_from(sum / 2).unwrap_or(u64::MAX)
}

fn explain(misfits: &[Misfit], need: &Need<'_>) -> String {
    if misfits.is_empty() {
        return "0/0 hosts fit: no KVM host has registered".to_owned();
    }
    // One entry a kind: how many, and the most that any of them has free.
    let mut kinds: BTreeMap<&'static str, (usize, Misfit)> = BTreeMap::new();
    for misfit in misfits {
        kinds
            .entry(key(*misfit))
            .and_modify(|(count, most)| (*count, *most) = (*count + 1, (*most).max(*misfit)))
            .or_insert((1, *misfit));
    }
    let reasons: Vec<String> = kinds.values().map(|(count, most)| phrase(*count, *most, need)).collect();
    format!("0/{} hosts fit: {}", misfits.len(), reasons.join(", "))
}

fn key(misfit: Misfit) -> &'static str {
    match misfit {
        Misfit::Lost => "lost",
        Misfit::WithoutNode => "without node",
        Misfit::LibvirtDown => "libvirt",
        Misfit::Cordoned => "cordoned",
        Misfit::Selector => "selector",
        Misfit::Architecture => "architecture",
        Misfit::Feature(_) => "feature",
        Misfit::Cpu { .. } => "cpu",
        Misfit::Memory { .. } => "memory",
    }
}

fn phrase(count: usize, most: Misfit, need: &Need<'_>) -> String {
    let have = if count == 1 { "has" } else { "have at most" };
    match most {
        Misfit::Lost => format!("{count} not renewing {} Lease", if count == 1 { "its" } else { "their" }),
        Misfit::WithoutNode => format!("{count} without a Node of that name"),
        Misfit::LibvirtDown => format!("{count} without a connection to libvirt"),
        Misfit::Cordoned => format!("{count} cordoned"),
        Misfit::Selector => format!("{count} without the labels of nodeSelector"),
        Misfit::Architecture => {
            format!("{count} of another architecture than {}", need.architecture.unwrap_or_default())
        }
        Misfit::Feature(feature) => format!("{count} without {}", feature.describe()),
        Misfit::Cpu { free } => format!("{count} {have} {free} CPUs free of {} needed", need.resources.cpu),
        Misfit::Memory { free } => {
            format!("{count} {have} {} memory free of {} needed", mebibytes(free), mebibytes(need.resources.memory))
        }
    }
}

/// Whole MiB, rounded down: more digits help nobody.
pub fn mebibytes(bytes: u64) -> String {
    match bytes / MIB {
        0 => "0Mi".to_owned(),
        mib => quantity::from_mib(mib).0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(name: &str) -> Candidate {
        Candidate {
            name: name.to_owned(),
            liveness: Liveness::Live,
            libvirt_connected: true,
            cordoned: false,
            labels: Some(BTreeMap::from([("disk".to_owned(), "ssd".to_owned())])),
            architecture: Some("x86_64".to_owned()),
            features: vec![HostFeature::Uefi],
            capacity: Resources { cpu: 8, memory: 8 * GIB, disk: 0 },
            allocated: Resources::default(),
        }
    }

    fn need(cpu: u64, memory: u64, selector: &BTreeMap<String, String>) -> Need<'_> {
        Need { resources: Resources { cpu, memory, disk: 0 }, selector, architecture: None, features: &[] }
    }

    #[test]
    fn the_least_allocated_takes_it_and_the_name_decides_among_equals() {
        let anywhere = BTreeMap::new();
        let full = Candidate { allocated: Resources { cpu: 4, memory: GIB, disk: 0 }, ..host("a") };
        let hosts = [full, host("c"), host("b")];
        assert_eq!(choose(&hosts, &need(1, GIB, &anywhere)).unwrap().name, "b");
        assert_eq!(choose(&hosts[..1], &need(4, 7 * GIB, &anywhere)).unwrap().name, "a");
    }

    #[test]
    fn says_why_none_fits() {
        let anywhere = BTreeMap::new();
        let small = |name: &str, memory| Candidate { capacity: Resources { cpu: 8, memory, disk: 0 }, ..host(name) };
        let hosts = [Candidate { cordoned: true, ..host("a") }, small("b", GIB / 2)];
        assert_eq!(
            choose(&hosts, &need(1, 2 * GIB, &anywhere)).unwrap_err(),
            "0/2 hosts fit: 1 cordoned, 1 has 512Mi memory free of 2Gi needed"
        );
        let hosts = [small("a", GIB / 2), small("b", GIB), small("c", 0)];
        assert_eq!(
            choose(&hosts, &need(1, 2 * GIB, &anywhere)).unwrap_err(),
            "0/3 hosts fit: 3 have at most 1Gi memory free of 2Gi needed"
        );
        assert_eq!(choose(&[], &need(1, GIB, &anywhere)).unwrap_err(), "0/0 hosts fit: no KVM host has registered");
    }

    #[test]
    fn each_reason_keeps_a_host_out() {
        let anywhere = BTreeMap::new();
        let selector = BTreeMap::from([("disk".to_owned(), "hdd".to_owned())]);
        let cases = [
            (Candidate { liveness: Liveness::Doubtful, ..host("a") }, "not renewing its Lease"),
            (Candidate { liveness: Liveness::Lost, ..host("a") }, "not renewing its Lease"),
            (Candidate { libvirt_connected: false, ..host("a") }, "without a connection to libvirt"),
            (Candidate { cordoned: true, ..host("a") }, "cordoned"),
            (Candidate { labels: None, ..host("a") }, "without a Node of that name"),
            (
                Candidate { allocated: Resources { cpu: 7, memory: 0, disk: 0 }, ..host("a") },
                "1 has 1 CPUs free of 2 needed",
            ),
        ];
        for (host, reason) in cases {
            let error = choose(std::slice::from_ref(&host), &need(2, GIB, &anywhere)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let error = choose(&[host("a")], &need(1, GIB, &selector)).unwrap_err();
        assert!(error.contains("nodeSelector"), "{error}");
        let arm = Need { architecture: Some("aarch64"), ..need(1, GIB, &anywhere) };
        assert!(choose(&[host("a")], &arm).unwrap_err().contains("aarch64"));
        let with = |features| choose(&[host("a")], &Need { features, ..need(1, GIB, &anywhere) }).map(|_| ());
        assert_eq!(with(&[HostFeature::Uefi]), Ok(()));
        assert_eq!(with(&[HostFeature::Uefi, HostFeature::Tpm]), Err("0/1 hosts fit: 1 without a TPM 2.0".to_owned()));
    }
}
