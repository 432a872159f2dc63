//! Whether the DHCP server of the NAT network has an address left: why a guest that asks for one may get none. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::xml_reader::{attribute, walk};

/// The addresses that a network's DHCP server gives away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    /// The network.
    pub network: String,
    /// How many there are.
    pub size: u64,
    /// How many of them nobody has and nobody is to have.
    pub left: u64,
}

impl AddressPool {
    /// From the network's XML and the addresses that are leased; `None` where the server gives away no address but to
    /// those for whom it is reserved. There are never more leases than addresses in the ranges, as libvirt sets
    /// dnsmasq's `dhcp-lease-max`, whatever addresses they are of.
    pub fn of(network: &str, network_xml: &str, leased: &[IpAddr]) -> Option<Self> {
        let (mut ranges, mut reserved) = (Vec::new(), Vec::new());
        walk(network_xml, |path, start, _| {
            let address = |name| start.and_then(|start| attribute(start, name)?.parse::<Ipv4Addr>().ok());
            match path {
                ["network", "ip", "dhcp", "range"] => {
                    ranges.extend(address("start").zip(address("end")).map(|(start, end)| start..=end));
                }
                ["network", "ip", "dhcp", "host"] => reserved.extend(address("ip")),
                _ => {}
            }
        })?;
        let length = |range: &std::ops::RangeInclusive<Ipv4Addr>| {
            u64::from(range.end().to_bits()).saturating_sub(range.start().to_bits().into()).saturating_add(1)
        };
        let size = ranges.iter().map(length).fold(0, u64::saturating_add);
        let reserved = reserved.into_iter().filter(|address| ranges.iter().any(|range| range.contains(address)));
        let taken: HashSet<IpAddr> = reserved.map(IpAddr::V4).chain(leased.iter().copied()).collect();
        let left = size.saturating_sub(taken.iter().filter(|address| address.is_ipv4()).count().try_into().ok()?);
        (size > 0).then(|| Self { network: network.to_owned(), size, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leased_and_reserved_addresses_are_not_left() {
        let pool = |dhcp: &str, leased: &[&str]| {
            let xml =
                format!("<network><ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>{dhcp}</dhcp></ip></network>");
            let leased: Vec<IpAddr> = leased.iter().map(|address| address.parse().unwrap()).collect();
            AddressPool::of("n", &xml, &leased).map(|pool| (pool.size, pool.left))
        };
        let range = "<range start='10.0.0.2' end='10.0.0.5'/>";
        assert_eq!(pool(range, &[]), Some((4, 4)));
        assert_eq!(pool(range, &["10.0.0.3", "10.0.0.3", "fd00::3"]), Some((4, 3)));
        assert_eq!(pool(&format!("{range}<host mac='m' ip='10.0.0.2'/>"), &["10.0.0.2", "10.0.0.3"]), Some((4, 2)));
        assert_eq!(
            pool(&format!("{range}<host mac='m' ip='10.0.0.9'/>"), &["10.0.0.9"]),
            Some((4, 3)),
            "one lease less"
        );
        assert_eq!(pool(range, &["10.0.0.7", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]), Some((4, 0)));
        assert_eq!(pool(&format!("{range}<range start='10.0.0.9' end='10.0.0.9'/>"), &[]), Some((5, 5)));
        assert_eq!(pool("<range start='0.0.0.0' end='255.255.255.255'/>", &[]), Some((1 << 32, 1 << 32)));
        for none in ["", "<host mac='m' ip='10.0.0.2'/>", "<range start='fd00::1' end='fd00::2'/>"] {
            assert_eq!(pool(none, &[]), None, "{none}");
        }
        assert_eq!(AddressPool::of("n", "<network>", &[]), None);
    }
}
