//! Networks and their filters: blocking calls, one connection each, for the pool of `calls`.

use std::collections::HashSet;

use virt::connect::Connect;
use virt::network::Network;

use super::super::super::super::address_pool::AddressPool;
use super::super::super::super::network_xml::{self, Router};
use super::super::super::super::xml_reader::{attribute, walk};
use super::super::super::HvError;
use super::super::{error, leases};
use crate::fault::side_effect;

/// Defines the filters that interfaces name, for the NAT network of that name. One that is as it should be is left alone
/// by libvirt itself.
pub fn define_filters(connect: &Connect, nat: &str) -> Result<(), HvError> {
    define(connect, &network_xml::filters(&routers(connect, nat)?))
}

/// Defines them anew if the NAT network's addresses are not those that the filter has been defined for: the network may
/// have been made, or made anew, since. Otherwise it only reads, since a definition waits for all guests that are being
/// started.
pub fn renew_filters(connect: &Connect, nat: &str) -> Result<(), HvError> {
    let filters = network_xml::filters(&routers(connect, nat)?);
    let [wanted, _] = filters.each_ref().map(|filter| network_xml::destinations(filter));
    let found = connect.lookup_nwfilter_by_name(network_xml::NAT_FILTER.name).and_then(|filter| filter.xml_desc(0));
    if found.is_ok_and(|found| network_xml::destinations(&found) == wanted) {
        return Ok(());
    }
    tracing::info!(network = nat, "the network has other addresses than before, so guests are filtered anew");
    define(connect, &filters)
}

fn define(connect: &Connect, filters: &[String]) -> Result<(), HvError> {
    for xml in filters {
        connect.define_nwfilter_xml(xml).map_err(|source| error::from("define the network filters", &source))?;
    }
    Ok(())
}

/// The host's addresses in a network; none where there is no such network.
fn routers(connect: &Connect, name: &str) -> Result<Vec<Router>, HvError> {
    Ok(read(connect, name)?.map(|(_, xml)| network_xml::routers(&xml)).unwrap_or_default())
}

/// What the DHCP server of the network of that name has left.
pub fn address_pool(connect: &Connect, name: &str) -> Result<Option<AddressPool>, HvError> {
    let Some((network, xml)) = read(connect, name)? else { return Ok(None) };
    Ok(AddressPool::of(name, &xml, &leases::all(&network)?))
}

/// Makes an isolated network unless it is there, and starts it unless it runs.
pub fn ensure_isolated(connect: &Connect, name: &str) -> Result<(), HvError> {
    let op = "make the isolated network";
    let failed = |source: virt::error::Error| error::from(op, &source);
    let network = match find(connect, name)? {
        Some(network) => network,
        None => {
            let network = connect.define_network_xml(&network_xml::isolated(name)).map_err(failed)?;
            side_effect();
            network
        }
    };
    if !network.is_active().map_err(failed)? {
        network.create().map_err(failed)?;
        side_effect();
    }
    Ok(())
}

fn read(connect: &Connect, name: &str) -> Result<Option<(Network, String)>, HvError> {
    let Some(network) = find(connect, name)? else { return Ok(None) };
    let xml = network.xml_desc(0).map_err(|source| error::from("read the network", &source))?;
    Ok(Some((network, xml)))
}

fn find(connect: &Connect, name: &str) -> Result<Option<Network>, HvError> {
    let networks = connect.list_all_networks(0).map_err(|source| error::from("list the networks", &source))?;
    for network in networks {
        if network.name().map_err(|source| error::from("list the networks", &source))? == name {
            return Ok(Some(network));
        }
    }
    Ok(None)
}

/// Removes the networks whose names start so and that no domain is connected to.
pub fn remove_unused(connect: &Connect, prefix: &str) -> Result<(), HvError> {
    let op = "remove unused networks";
    let failed = |source: virt::error::Error| error::from(op, &source);
    let mut ours = Vec::new();
    for network in connect.list_all_networks(0).map_err(failed)? {
        let name = network.name().map_err(failed)?;
        if name.starts_with(prefix) {
            ours.push((name, network));
        }
    }
    if ours.is_empty() {
        return Ok(());
    }
    let mut used = HashSet::new();
    for domain in connect.list_all_domains(0).map_err(failed)? {
        // One that has gone since uses none.
        let Some(xml) = error::found(op, domain.xml_desc(0))? else { continue };
        used.extend(networks_of(&xml));
    }
    for (name, network) in ours.into_iter().filter(|(name, _)| !used.contains(name)) {
        if network.is_active().map_err(failed)? {
            network.destroy().map_err(failed)?;
            side_effect();
        }
        network.undefine().map_err(failed)?;
        side_effect();
        tracing::info!(network = name, "removed a network that no guest uses any more");
    }
    Ok(())
}

/// The networks that a domain XML names.
fn networks_of(xml: &str) -> Vec<String> {
    let mut found = Vec::new();
    // What cannot be read to its end has named what it has named until there.
    let _ = walk(xml, |path, start, _| {
        if let ([.., "source"], Some(start)) = (path, start) {
            found.extend(attribute(start, "network"));
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domains_networks_are_those_of_its_interfaces() {
        let xml = "<domain><devices><disk><source pool='p' volume='v'/></disk><interface type='network'>\
                   <source network='a' portid='x' bridge='virbr0'/></interface><interface><source bridge='br0'/>\
                   </interface></devices></domain>";
        assert_eq!(networks_of(xml), ["a"]);
    }
}
