//! Networks of guests: what an interface is connected to, which frames it may send, and the XML of both. Pure.
//!
//! | type | what it is | other guests |
//! |---|---|---|
//! | NAT | libvirt's network on the host, shared by all; the port of each guest is isolated from every other port of the bridge, so a guest reaches the host's router and nobody beside it; nor does the router pass on what is for another guest | none, whoever's they are |
//! | bridge | a bridge of the host that the administrator has allowed | whoever is on it |
//! | isolated | a segment of the namespace on this host, with nothing else on it: no router, no DHCP, no address of the host's | those of the namespace |
//!
//! Isolated ports are the kernel's own and need no state that could be wrong: no list of a tenant's addresses that lags
//! behind, no rule that a crash leaves out. The price is that guests of one tenant do not reach each other by NAT
//! either; a second, isolated interface is for that.
//!
//! The filters are libvirt's (nwfilter), defined once for a host and named by each interface. On NAT the guest has no
//! address until the network's DHCP server gives it one: only then is the filter complete, with that address in it. What
//! is for the router's address is let through and what is for any other of the network is not: the host would route it
//! back into the network, around the isolation of the ports.
//! Source: <https://libvirt.org/formatnwfilter.html>, <https://libvirt.org/formatdomain.html#network-interfaces>.

use std::net::Ipv4Addr;

use super::xml::Element;
use super::xml_reader::{attribute, walk};

/// Interfaces on the NAT network.
pub const NAT_FILTER: Filter = Filter { name: "kvmoor-nat", uuid: "8f3f0f6e-6c0d-4f0b-8a51-1f1f6b8d7c01" };
/// Interfaces on bridges and isolated segments.
pub const LINK_FILTER: Filter = Filter { name: "kvmoor-link", uuid: "8f3f0f6e-6c0d-4f0b-8a51-1f1f6b8d7c02" };

/// A filter of libvirt's. Its UUID is fixed: libvirt knows a filter by both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Its name.
    pub name: &'static str,
    uuid: &'static str,
}

/// A network interface of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its MAC address.
    pub mac: String,
    /// What it is connected to.
    pub link: Link,
}

/// What an interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The libvirt network of that name, which does NAT.
    Nat(String),
    /// The host's bridge of that name.
    Bridge(String),
    /// The libvirt network of that name, which goes nowhere.
    Isolated(String),
}

impl Nic {
    /// The element of the domain XML.
    pub fn to_element(&self) -> Element {
        let (kind, source, name, filter) = match &self.link {
            Link::Nat(network) => ("network", "network", network, NAT_FILTER),
            Link::Bridge(bridge) => ("bridge", "bridge", bridge, LINK_FILTER),
            Link::Isolated(network) => ("network", "network", network, LINK_FILTER),
        };
        let filter = Element::new("filterref").attr("filter", filter.name);
        let element = Element::new("interface")
            .attr("type", kind)
            .child(Element::new("mac").attr("address", &self.mac))
            .child(Element::new("source").attr(source, name))
            .child(Element::new("model").attr("type", "virtio"));
        match self.link {
            Link::Nat(_) => element
                .child(filter.child(Element::new("parameter").attr("name", "CTRL_IP_LEARNING").attr("value", "dhcp")))
                .child(Element::new("port").attr("isolated", "yes")),
            Link::Bridge(_) | Link::Isolated(_) => element.child(filter),
        }
    }
}

/// A network that goes nowhere.
pub fn isolated(name: &str) -> String {
    Element::new("network").child(Element::with_text("name", name)).render()
}

/// All filters, for a NAT network in which the host is router under these addresses.
pub fn filters(routers: &[Router]) -> [String; 2] {
    [nat_filter(routers).render(), link_filter().render()]
}

/// The host as router of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    address: Ipv4Addr,
    prefix: u8,
}

impl Router {
    fn network(self) -> Ipv4Addr {
        let hosts = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or_default();
        Ipv4Addr::from_bits(self.address.to_bits() & !hosts)
    }
}

/// The host's IPv4 addresses in a libvirt network, from its XML. IPv6 does not pass the filter.
pub fn routers(network_xml: &str) -> Vec<Router> {
    let mut found = Vec::new();
    let visited = walk(network_xml, |path, start, _| {
        if let (["network", "ip"], Some(start)) = (path, start) {
            let of = |name| attribute(start, name);
            let address: Option<Ipv4Addr> = of("address").and_then(|text| text.parse().ok());
            found.extend(address.map(|address| {
                let mask = of("netmask")
                    .and_then(|text| text.parse::<Ipv4Addr>().ok())
                    .map(|mask| mask.to_bits().leading_ones());
                let prefix =
                    of("prefix").and_then(|text| text.parse().ok()).or(mask.and_then(|mask| u8::try_from(mask).ok()));
                Router { address, prefix: prefix.filter(|prefix| *prefix <= 32).unwrap_or_else(|| classful(address)) }
            }));
        }
    });
    visited.map(|()| found).unwrap_or_default()
}

/// What libvirt takes where the XML does not say it.
fn classful(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..=127, ..] => 8,
        [128..=191, ..] => 16,
        _ => 24,
    }
}

/// What a filter's XML says of where IPv4 may go, in libvirt's words or in ours: whether it is as it is to be.
pub fn destinations(filter_xml: &str) -> Vec<(String, String, String)> {
    let mut action = String::new();
    let mut found = Vec::new();
    let visited = walk(filter_xml, |path, start, _| match (path, start) {
        (["filter", "rule"], Some(start)) => action = attribute(start, "action").unwrap_or_default(),
        (["filter", "rule", "ip"], Some(start)) => {
            let of = |name| attribute(start, name).unwrap_or_default();
            found.extend(attribute(start, "dstipaddr").map(|address| (action.clone(), address, of("dstipmask"))));
        }
        _ => {}
    });
    visited.map(|()| found).unwrap_or_default()
}

/// Frames from the guest have its own MAC address, and its own IPv4 address once it has one; it is no DHCP server, and
/// nothing but IPv4 and ARP passes, since the network has nothing else. Of the network it reaches the router alone, and
/// link-local addresses not at all: what answers there is the host's, such as a cloud's metadata with its credentials.
fn nat_filter(routers: &[Router]) -> Element {
    let unspecified = "0.0.0.0";
    let to = |address: Ipv4Addr| ip().attr("dstipaddr", address);
    let within = |network: Ipv4Addr, prefix: u8| to(network).attr("dstipmask", prefix);
    let link_local = within(Ipv4Addr::new(169, 254, 0, 0), 16);
    let reached = routers.iter().map(|router| Rule::accept(to(router.address)));
    let neighbours = routers.iter().map(|router| Rule::drop(within(router.network(), router.prefix)));
    with_rules(
        NAT_FILTER,
        [
            Rule::drop(mac().attr("match", "no").attr("srcmacaddr", "$MAC")),
            Rule::drop(dhcp_answer()),
            Rule::accept(
                ip().attr("srcipaddr", unspecified)
                    .attr("protocol", "udp")
                    .attr("srcportstart", "68")
                    .attr("srcportend", "68")
                    .attr("dstportstart", "67")
                    .attr("dstportend", "67"),
            ),
            Rule::drop(ip().attr("match", "no").attr("srcipaddr", "$IP")),
            Rule::drop(arp().attr("match", "no").attr("arpsrcmacaddr", "$MAC")),
            // A guest that asks whether its address is taken.
            Rule::accept(arp().attr("arpsrcipaddr", unspecified)),
            Rule::drop(arp().attr("match", "no").attr("arpsrcipaddr", "$IP")),
        ]
        .into_iter()
        .chain(reached)
        .chain(neighbours)
        .chain([
            Rule::drop(link_local),
            Rule::both("accept", mac().attr("protocolid", "ipv4")),
            Rule::both("accept", mac().attr("protocolid", "arp")),
            Rule::both("drop", mac()),
        ]),
    )
}

/// Frames from the guest have its own MAC address, and it is neither DHCP server nor IPv6 router. Which addresses it may
/// have is not known here.
fn link_filter() -> Element {
    let router = |kind: &str| Element::new("ipv6").attr("protocol", "icmpv6").attr("type", kind).attr("typeend", kind);
    let dhcp6 = Element::new("ipv6").attr("protocol", "udp").attr("srcportstart", "547").attr("srcportend", "547");
    with_rules(
        LINK_FILTER,
        [
            Rule::drop(mac().attr("match", "no").attr("srcmacaddr", "$MAC")),
            Rule::drop(arp().attr("match", "no").attr("arpsrcmacaddr", "$MAC")),
            Rule::drop(dhcp_answer()),
            Rule::drop(dhcp6),
            Rule::drop(router("134")),
            Rule::drop(router("137")),
            Rule::both("accept", mac()),
        ],
    )
}

struct Rule {
    action: &'static str,
    direction: &'static str,
    what: Element,
}

impl Rule {
    /// Of what the guest sends.
    fn drop(what: Element) -> Self {
        Self { action: "drop", direction: "out", what }
    }

    fn accept(what: Element) -> Self {
        Self { action: "accept", direction: "out", what }
    }

    fn both(action: &'static str, what: Element) -> Self {
        Self { action, direction: "inout", what }
    }
}

/// The rules are asked in this order.
fn with_rules(filter: Filter, rules: impl IntoIterator<Item = Rule>) -> Element {
    let rules = rules.into_iter().zip((-900..).step_by(10)).map(|(rule, priority): (Rule, i32)| {
        Element::new("rule")
            .attr("action", rule.action)
            .attr("direction", rule.direction)
            .attr("priority", priority)
            .child(rule.what)
    });
    Element::new("filter")
        .attr("name", filter.name)
        .attr("chain", "root")
        .child(Element::with_text("uuid", filter.uuid))
        .children(rules)
}

fn mac() -> Element {
    Element::new("mac")
}

fn ip() -> Element {
    Element::new("ip")
}

fn arp() -> Element {
    Element::new("arp")
}

fn dhcp_answer() -> Element {
    ip().attr("protocol", "udp").attr("srcportstart", "67").attr("srcportend", "67")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::xml::shape;
    use super::*;

    fn nic(link: Link) -> String {
        Nic { mac: "m".into(), link }.to_element().render()
    }

    #[test]
    fn every_interface_has_a_filter_and_nat_an_isolated_port() {
        assert_eq!(
            nic(Link::Nat("n".into())),
            "<interface type=\"network\"><mac address=\"m\"/><source network=\"n\"/><model type=\"virtio\"/>\
             <filterref filter=\"kvmoor-nat\"><parameter name=\"CTRL_IP_LEARNING\" value=\"dhcp\"/></filterref>\
             <port isolated=\"yes\"/></interface>"
        );
        assert_eq!(
            nic(Link::Bridge("br0".into())),
            "<interface type=\"bridge\"><mac address=\"m\"/><source bridge=\"br0\"/><model type=\"virtio\"/>\
             <filterref filter=\"kvmoor-link\"/></interface>"
        );
        assert!(nic(Link::Isolated("n".into())).contains("<source network=\"n\"/>"));
        assert_eq!(isolated("n"), "<network><name>n</name></network>", "no address, no DHCP, no way out");
    }

    #[test]
    fn rules_are_asked_in_the_order_of_their_priorities() {
        for filter in filters(&routers(NETWORK)) {
            let priorities: Vec<i32> = filter
                .split("priority=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
                .collect();
            assert!(priorities.is_sorted() && priorities.first() == Some(&-900), "{priorities:?}");
        }
    }

    const NETWORK: &str = "<network><name>default</name><dns><host ip='10.0.0.1'/></dns>\
        <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.9'/></dhcp></ip>\
        <ip family='ipv4' address='10.9.8.7' prefix='20'/><ip address='172.16.3.4'/><ip family='ipv6' address='fd00::1' prefix='64'/>\
        </network>";

    #[test]
    fn of_the_nat_network_a_guest_reaches_the_router_alone() {
        let networks: Vec<_> =
            routers(NETWORK).iter().map(|router| format!("{}/{}", router.network(), router.prefix)).collect();
        assert_eq!(networks, ["192.168.122.0/24", "10.9.0.0/20", "172.16.0.0/16"]);
        let one = [Router { address: Ipv4Addr::new(192, 168, 122, 1), prefix: 24 }];
        let [nat, link] = filters(&one);
        let said = |action: &str, address: &str, mask: &str| (action.to_owned(), address.to_owned(), mask.to_owned());
        let local = said("drop", "169.254.0.0", "16");
        let expected = [said("accept", "192.168.122.1", ""), said("drop", "192.168.122.0", "24"), local.clone()];
        assert_eq!(destinations(&nat), expected);
        assert_eq!(destinations(&filters(&[])[0]), [local]);
        assert_eq!(destinations(&link), []);
        for whole in [0, 32] {
            assert_eq!(
                Router { prefix: whole, ..one[0] }.network().to_bits(),
                if whole == 0 { 0 } else { one[0].address.to_bits() }
            );
        }
        assert_eq!(routers("<network>"), [], "what is no XML has none");
    }

    proptest! {
        #[test]
        fn any_text_gives_the_same_tree(text in any::<String>()) {
            let links = [Link::Nat, Link::Bridge, Link::Isolated];
            for link in links {
                let of = |text: &str| shape::of(&Nic { mac: text.into(), link: link(text.into()) }.to_element().render());
                prop_assert_eq!(of(&text), of("plain"));
            }
            prop_assert_eq!(shape::of(&isolated(&text)), shape::of(&isolated("plain")));
        }
    }
}
