//! What a guest agent has said, of that which is taken. Pure.

use std::net::IpAddr;

use kvmoor_crds::{GUEST_TEXT, GuestOsInfo};

use super::super::hypervisor::Lease;

/// Most addresses of an interface.
const MOST_ADDRESSES: usize = 8;

/// What a guest agent has said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestReport {
    /// Of the operating system.
    pub os: GuestOsInfo,
    /// Addresses of the virtual machine's own interfaces.
    pub addresses: Vec<Lease>,
}

impl GuestReport {
    /// Takes a text by libvirt's name of it. What is not known is left out.
    pub fn take(&mut self, key: &str, text: &str) {
        let os = &mut self.os;
        let field = match key {
            "hostname" => &mut os.hostname,
            "os.name" => &mut os.name,
            "os.id" => &mut os.id,
            "os.pretty-name" => &mut os.pretty_name,
            "os.version" => &mut os.version,
            "os.version-id" => &mut os.version_id,
            "os.kernel-release" => &mut os.kernel_release,
            "os.kernel-version" => &mut os.kernel_version,
            "os.machine" => &mut os.machine,
            _ => return,
        };
        *field = Some(clean(text)).filter(|text| !text.is_empty());
    }
}

/// A guest's text as it may be shown: on one line, without what moves the cursor or turns the direction of writing, and
/// of bounded length.
pub fn clean(text: &str) -> String {
    let shown = text.chars().filter(|character| !character.is_control() && !is_invisible(*character));
    shown.take(GUEST_TEXT).collect::<String>().trim().to_owned()
}

/// Characters that are not seen and change how others are.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// Of the addresses that a guest says it has, those of these interfaces by which it can be reached, a few of each.
pub fn usable(mut said: Vec<Lease>, macs: &[String]) -> Vec<Lease> {
    said.retain(|lease| is_reachable(&lease.address));
    said.sort_by_key(|lease| (lease.address.is_ipv6(), lease.address));
    let of = |mac: &String| {
        let mut own: Vec<IpAddr> =
            said.iter().filter(|lease| lease.mac.eq_ignore_ascii_case(mac)).map(|lease| lease.address).collect();
        own.dedup();
        own.truncate(MOST_ADDRESSES);
        own.into_iter().map(|address| Lease { mac: mac.clone(), address }).collect::<Vec<_>>()
    };
    macs.iter().flat_map(of).collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets().starts_with(&[0]),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !is_local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut report = GuestReport::default();
        for (key, text) in [("os.name", "Debian"), ("os.variant", "x"), ("user.count", "3"), ("hostname", "\n\u{1b}")] {
            report.take(key, text);
        }
        assert_eq!(report.os, GuestOsInfo { name: Some("Debian".into()), ..GuestOsInfo::default() });
    }

    #[test]
    fn texts_are_shown_as_they_are() {
        assert_eq!(clean("12 (bookworm)\n"), "12 (bookworm)");
        assert_eq!(clean("\u{1b}[2Jroot\u{202e}nimda\0"), "[2Jrootnimda");
        assert_eq!(clean(&"ä".repeat(1000)).chars().count(), GUEST_TEXT);
    }

    #[test]
    fn addresses_are_of_the_own_interfaces_and_few() {
        let lease = |mac: &str, address: &str| Lease { mac: mac.into(), address: address.parse().unwrap() };
        let macs = ["52:54:00:00:00:aa".to_owned(), "52:54:00:00:00:bb".to_owned()];
        let mut said = vec![
            lease("52:54:00:00:00:BB", "fd00::1"),
            lease("52:54:00:00:00:BB", "10.0.0.2"),
            lease("52:54:00:00:00:bb", "10.0.0.2"),
            lease("02:42:00:00:00:01", "172.17.0.1"),
        ];
        for address in ["127.0.0.1", "::1", "fe80::1", "169.254.0.1", "0.0.0.0", "::", "224.0.0.1", "::ffff:8.8.8.8"] {
            said.push(lease("52:54:00:00:00:bb", address));
        }
        let found = usable(said, &macs);
        assert_eq!(found, [lease("52:54:00:00:00:bb", "10.0.0.2"), lease("52:54:00:00:00:bb", "fd00::1")]);
        let many = (1..=200).map(|number| lease("52:54:00:00:00:aa", &format!("10.0.0.{number}"))).collect();
        assert_eq!(usable(many, &macs).len(), MOST_ADDRESSES);
    }

    proptest! {
        /// The schema takes whatever a guest says.
        #[test]
        fn no_text_is_too_long_or_has_control_characters(text in any::<String>()) {
            let clean = clean(&text);
            prop_assert!(clean.chars().count() <= GUEST_TEXT && !clean.chars().any(char::is_control));
        }
    }
}
