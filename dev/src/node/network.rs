//! The network of a node: a namespace of its own, so that kube-proxy's rules and the pods' interfaces are nowhere else
//! and gone with it, and a pair of interfaces that leads from the machine into it.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;

use crate::{
    instance::{Instance, NetworkRecord},
    libvirt_host,
    process::{ProcessId, run},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Where libvirt hosts end: the numbers below are theirs.
const FIRST_INDEX: usize = 64;

/// Three networks: of the link between machine and node, of the pods, and of the Services.
#[derive(Clone, Debug)]
pub(super) struct Networks {
    link: NetworkRecord,
    pods: NetworkRecord,
    services: NetworkRecord,
}

impl Networks {
    /// Chooses and records networks that nothing on the machine uses.
    pub(super) fn reserve(instance: &Instance) -> Result<Self> {
        let reserve =
            |number| libvirt_host::reserve_network(&instance.id, FIRST_INDEX + number, None, &instance.recorder);
        Ok(Self { link: reserve(0)?, pods: reserve(1)?, services: reserve(2)? })
    }

    /// The machine's address on the link.
    pub(super) fn machine(&self) -> Ipv4Addr {
        host(self.link.subnet, 1)
    }

    /// The node's address on the link.
    pub(super) fn node(&self) -> Ipv4Addr {
        host(self.link.subnet, 2)
    }

    /// The /24 of the pods.
    pub(super) fn pods(&self) -> Ipv4Addr {
        self.pods.subnet
    }

    /// The /24 of the Services.
    pub(super) fn services(&self) -> Ipv4Addr {
        self.services.subnet
    }

    /// Joins the machine and the network namespace of `holder`, and makes pods and Services reachable from here.
    pub(super) async fn connect(&self, holder: ProcessId) -> Result<()> {
        let (link, pid) = (self.link.bridge.as_str(), holder.pid.to_string());
        let (machine, node) = (self.machine(), self.node());
        ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &pid]).await?;
        ip(&["address", "add", &format!("{machine}/24"), "dev", link]).await?;
        ip(&["link", "set", link, "up"]).await?;
        let inside = ["--target", &pid, "--net", "--", "ip"];
        let inside = async |words: &[&str]| run("nsenter", &[&inside[..], words].concat(), DEADLINE).await;
        inside(&["address", "add", &format!("{node}/24"), "dev", "eth0"]).await?;
        inside(&["link", "set", "eth0", "up"]).await?;
        inside(&["route", "add", "default", "via", &machine.to_string()]).await?;
        for network in [self.pods(), self.services()] {
            ip(&["route", "add", &format!("{network}/24"), "via", &node.to_string()]).await?;
        }
        Ok(())
    }
}

async fn ip(words: &[&str]) -> Result<()> {
    run("ip", words, DEADLINE).await?;
    Ok(())
}

fn host(network: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = network.octets();
    Ipv4Addr::new(a, b, c, last)
}
