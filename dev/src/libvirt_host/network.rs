//! A NAT network for a host: on a /24 and a bridge that nothing on the machine uses, and gone without a trace at the end.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;

use crate::instance::{self, Lock, NetworkRecord, Recorder};

/// The third bytes of 192.168.0.0/16 to choose from: above what routers and libvirt's own default take.
const CANDIDATES: std::ops::RangeInclusive<u8> = 130..=250;

/// An IPv4 network in use: address and prefix length.
type Net = (Ipv4Addr, u32);

/// Chooses and records a network for host `index` of a cluster. `wish` is the one it had before.
pub(crate) fn reserve(cluster: &str, index: usize, wish: Option<Ipv4Addr>, to: &Recorder) -> Result<NetworkRecord> {
    let root = instance::runtime_root();
    let _lock = Lock::take(&root.join("networks.lock"), std::time::Duration::from_secs(30))?;
    let mut used = in_use()?;
    used.extend(reserved(&root).into_iter().map(|subnet| (subnet, 24)));
    let start = u8::from_str_radix(cluster.get(..2).unwrap_or_default(), 16).unwrap_or_default();
    let subnet = choose(wish, start, &used).context("no free /24 in 192.168.0.0/16 for the guests")?;
    let network = NetworkRecord { bridge: format!("kvm-{cluster}-{index}"), subnet };
    to.network(network.clone())?;
    Ok(network)
}

fn choose(wish: Option<Ipv4Addr>, start: u8, used: &[Net]) -> Option<Ipv4Addr> {
    let count = CANDIDATES.len();
    let from = usize::from(start) % count;
    let candidates = CANDIDATES.cycle_from(from).map(|third| Ipv4Addr::new(192, 168, third, 0));
    wish.into_iter().chain(candidates).find(|subnet| !used.iter().any(|net| overlap((*subnet, 24), *net)))
}

trait CycleFrom {
    fn cycle_from(self, from: usize) -> impl Iterator<Item = u8>;
}

impl CycleFrom for std::ops::RangeInclusive<u8> {
    fn cycle_from(self, from: usize) -> impl Iterator<Item = u8> {
        let count = self.len();
        self.cycle().skip(from).take(count)
    }
}

fn overlap(a: Net, b: Net) -> bool {
    let length = a.1.min(b.1);
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    a.0.to_bits() & mask == b.0.to_bits() & mask
}

/// Networks of interfaces and routes. The default route does not count: it overlaps with everything.
fn in_use() -> Result<Vec<Net>> {
    let mut used = routes(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    for interface in getifaddrs().context("list the interfaces")? {
        let address = interface.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|it| it.ip());
        let mask = interface.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|it| it.ip());
        if let Some(address) = address {
            used.push((address, mask.map_or(32, |mask| mask.to_bits().leading_ones())));
        }
    }
    Ok(used)
}

/// Destinations of `/proc/net/route`, whose numbers are hexadecimal in the machine's own byte order.
fn routes(table: &str) -> Vec<Net> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let route = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let destination = number(fields.nth(1)?)?;
        let mask = number(fields.nth(5)?)?;
        (mask != 0).then(|| (Ipv4Addr::from_bits(destination), mask.leading_ones()))
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// Networks that other clusters have reserved, also before their bridges exist.
fn reserved(root: &Path) -> Vec<Ipv4Addr> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let states = entries.flatten().filter_map(|entry| instance::State::read(&entry.path()).ok().flatten());
    states.flat_map(|state| state.networks).map(|network| network.subnet).collect()
}

/// Removes bridges and firewall rules that libvirt made for `networks`. What is absent already is no error.
pub(crate) fn remove_networks(networks: &[NetworkRecord]) {
    for network in networks {
        if Path::new("/sys/class/net").join(&network.bridge).exists() {
            quiet("ip", &["link", "delete", &network.bridge]);
        }
    }
    let bridges = networks.iter().map(|network| network.bridge.clone());
    let subnets = networks.iter().map(|network| format!("{}/24", network.subnet));
    remove_rules(&bridges.chain(subnets).collect::<Vec<_>>());
}

/// Removes the firewall rules in which one of `words` stands.
fn remove_rules(words: &[String]) {
    if words.is_empty() {
        return;
    }
    for program in ["iptables", "ip6tables"] {
        for table in ["filter", "nat", "mangle"] {
            let rules = quiet(program, &["-w", "5", "-t", table, "-S"]);
            for rule in deletions(&rules, words) {
                let mut args = vec!["-w", "5", "-t", table];
                args.extend(&rule);
                quiet(program, &args);
            }
        }
    }
}

/// Removes the bridges of a host's other networks, which Kvmoor made, with their rules, and the frame filters of
/// interfaces that are gone.
pub(crate) fn remove_leftovers(run: &Path) {
    let entries = fs::read_dir(run.join("network")).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let bridges: Vec<String> = files.filter_map(|xml| bridge_of(&xml).map(str::to_owned)).collect();
    for bridge in &bridges {
        quiet("ip", &["link", "delete", bridge, "type", "bridge"]);
    }
    remove_rules(&bridges);
    let filters = quiet("ebtables", &["-t", "nat", "-L"]);
    let is_gone = |interface: &str| !Path::new("/sys/class/net").join(interface).exists();
    for (chain, flag, interface, target) in filter_jumps(&filters).filter(|jump| is_gone(jump.2)) {
        quiet("ebtables", &["-t", "nat", "-D", chain, flag, interface, "-j", target]);
        quiet("ebtables", &["-t", "nat", "-F", target]);
        quiet("ebtables", &["-t", "nat", "-X", target]);
    }
}

/// The bridge that the status of a network names.
fn bridge_of(xml: &str) -> Option<&str> {
    xml.split_once("<bridge name='")?.1.split('\'').next().filter(|name| !name.is_empty())
}

/// Chain, flag, interface and target of each rule with which libvirt's filter of an interface begins.
fn filter_jumps(listing: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    let mut chain = "";
    listing.lines().filter_map(move |line| {
        if let Some(rest) = line.strip_prefix("Bridge chain: ") {
            chain = rest.split(',').next().unwrap_or_default();
        }
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [flag @ ("-i" | "-o"), interface, "-j", target] if target.starts_with("libvirt-") => {
                Some((chain, *flag, *interface, *target))
            }
            _ => None,
        }
    })
}

/// The arguments that delete each rule of `rules` (as `iptables -S` prints them) in which one of `words` stands.
fn deletions<'r>(rules: &'r str, words: &[String]) -> Vec<Vec<&'r str>> {
    let ours = |word: &&str| words.iter().any(|ours| ours == word);
    let rule = |line: &'r str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ("-A", rest) = words.split_first().map(|(first, rest)| (*first, rest))? else { return None };
        rest.iter().any(ours).then(|| std::iter::once("-D").chain(rest.iter().copied()).collect())
    };
    rules.lines().filter_map(rule).collect()
}

fn quiet(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_in_use_is_not_chosen() {
        let at = |third| Ipv4Addr::new(192, 168, third, 0);
        assert_eq!(choose(None, 0, &[]), Some(at(130)));
        assert_eq!(choose(None, 0, &[(at(130), 24), (Ipv4Addr::new(192, 168, 131, 7), 32)]), Some(at(132)));
        assert_eq!(choose(None, 120, &[(at(250), 24)]), Some(at(130)), "wraps around");
        assert_eq!(choose(Some(at(200)), 0, &[]), Some(at(200)));
        assert_eq!(choose(Some(at(200)), 0, &[(at(200), 24)]), Some(at(130)));
        assert_eq!(choose(None, 0, &[(Ipv4Addr::new(192, 168, 0, 0), 16)]), None);
    }

    #[test]
    fn routes_are_read_but_not_the_default_one() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(routes(table), [(Ipv4Addr::new(192, 0, 2, 0), 24)]);
        }
    }

    #[test]
    fn bridges_and_filters_are_found_where_libvirt_tells_of_them() {
        assert_eq!(bridge_of("<network><bridge name='virbr1' stp='on'/></network>"), Some("virbr1"));
        assert_eq!(bridge_of("<network/>"), None);
        let listing = "Bridge chain: PREROUTING, entries: 1, policy: ACCEPT\n-i vnet0 -j libvirt-I-vnet0\n\n\
                       Bridge chain: libvirt-I-vnet0, entries: 1, policy: RETURN\n-p ARP -j ACCEPT\n-j DROP\n";
        let jumps: Vec<_> = filter_jumps(listing).collect();
        assert_eq!(jumps, [("PREROUTING", "-i", "vnet0", "libvirt-I-vnet0")]);
    }

    #[test]
    fn only_rules_about_our_networks_are_deleted() {
        let ours = ["kvm-1-0".to_owned(), "192.168.131.0/24".to_owned()];
        let rules = "-N LIBVIRT_INP\n\
                     -A LIBVIRT_INP -i kvm-1-0 -p udp -m udp --dport 53 -j ACCEPT\n\
                     -A LIBVIRT_INP -i kvm-1-01 -p udp -m udp --dport 53 -j ACCEPT\n\
                     -A LIBVIRT_PRT -s 192.168.131.0/24 -d 224.0.0.0/24 -j RETURN\n";
        let deletions = deletions(rules, &ours);
        assert_eq!(deletions.len(), 2);
        assert_eq!(deletions[0].join(" "), "-D LIBVIRT_INP -i kvm-1-0 -p udp -m udp --dport 53 -j ACCEPT");
    }
}
