//! Which addresses images may come from. Pure.
//!
//! Whoever may create an Image has this process connect to an address of their choice, from inside the cluster. So only
//! what is reachable for everybody is allowed; the operator can allow more, and deny ranges of the cluster that look
//! public. The check is made on the addresses that are connected to, see `fetch`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What is not for everybody, in IPv4: <https://www.iana.org/assignments/iana-ipv4-special-registry>.
const SPECIAL_V4: [(Ipv4Addr, u8, &str); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared with a provider"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];
/// In IPv6 the other way round: what is for everybody …
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// … and what of that is not.
const SPECIAL_V6: [(Ipv6Addr, u8, &str); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation"),
];

/// An address that nothing is fetched from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not for everybody.
    #[error(
        "{address} is {why}, and images are not fetched from there; the setting KVMOOR_IMAGE_SOURCES_ALLOWED can allow it"
    )]
    Special {
        /// The address.
        address: IpAddr,
        /// What it is instead.
        why: &'static str,
    },
    /// The operator does not want it, whatever else is allowed.
    #[error("{0} is denied by the setting KVMOOR_IMAGE_SOURCES_DENIED")]
    Denied(IpAddr),
}

/// What is allowed.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl Guard {
    /// What is for everybody, and `allowed`, without `denied`.
    pub fn new(allowed: Vec<IpNet>, denied: Vec<IpNet>) -> Self {
        Self { allowed, denied }
    }

    /// Checks an address.
    ///
    /// # Errors
    /// If nothing is to be fetched from there.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let as_written = address;
        // An address in another's clothes is judged as what it leads to.
        let address = disguised(address).unwrap_or(address);
        if self.denied.iter().any(|net| net.contains(&address) || net.contains(&as_written)) {
            return Err(Refused::Denied(as_written));
        }
        if self.allowed.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        match special(address) {
            Some(why) => Err(Refused::Special { address: as_written, why }),
            None => Ok(()),
        }
    }
}

fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let within = |net: Ipv4Addr, bits: u8| {
                let differing = net.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(bits)
            };
            SPECIAL_V4.iter().find(|(net, bits, _)| within(*net, *bits)).map(|(_, _, why)| *why)
        }
        IpAddr::V6(address) => {
            let within = |net: Ipv6Addr, bits: u8| {
                let differing = net.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(bits)
            };
            if address.is_loopback() {
                return Some("loopback");
            }
            if !within(GLOBAL_V6.0, GLOBAL_V6.1) {
                return Some("private or link-local");
            }
            SPECIAL_V6.iter().find(|(net, bits, _)| within(*net, *bits)).map(|(_, _, why)| *why)
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: v4-mapped, v4-compatible, NAT64 or 6to4.
fn disguised(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let from = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(from(high, low))
        }
        // Not `::` and `::1`.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, address: &str) -> bool {
        guard.check(address.parse().unwrap()).is_ok()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_what_is_for_everybody() {
        let guard = Guard::default();
        for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"] {
            assert!(check(&guard, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "100::1",
            "64:ff9b:1::1",
        ] {
            assert!(!check(&guard, address), "{address}");
        }
    }

    #[test]
    fn no_disguise_helps() {
        let guard = Guard::default();
        for address in ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::1"] {
            assert!(!check(&guard, address), "{address}");
        }
        assert!(check(&guard, "::ffff:1.1.1.1"));
    }

    #[test]
    fn the_operator_allows_and_denies_and_to_deny_wins() {
        let guard = Guard::new(nets(&["10.0.0.0/8", "fd00::/8"]), nets(&["10.96.0.0/12", "1.2.3.0/24"]));
        assert!(check(&guard, "10.1.1.1") && check(&guard, "fd00::1") && check(&guard, "::ffff:10.1.1.1"));
        for address in ["10.96.0.1", "::ffff:10.96.0.1", "1.2.3.4", "192.168.0.1"] {
            assert!(!check(&guard, address), "{address}");
        }
        let said = |address: &str| guard.check(address.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(said("1.2.3.4"), "1.2.3.4 is denied by the setting KVMOOR_IMAGE_SOURCES_DENIED");
        assert!(said("192.168.0.1").contains("KVMOOR_IMAGE_SOURCES_ALLOWED can allow it"));
        let whole = Guard::new(Vec::new(), nets(&["64:ff9b::/96"]));
        assert!(!check(&whole, "64:ff9b::1.1.1.1") && check(&whole, "1.1.1.1"), "what is denied as it is written");
    }
}
