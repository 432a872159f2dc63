//! What the host serves over HTTPS: to the API server measurements, displays, serial consoles and boot logs of its virtual
//! machines, and it takes the files of images from it; to other hosts, the files of images.
//!
//! Both sides prove themselves. The API server and other hosts bring a token of their service account for our audience,
//! which the Kubernetes API confirms (`caller`); this side has a certificate made at its start, whose key never leaves the process
//! and which stands in the Host, where only this node may write.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use kvmoor_crds::HostAddress;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

mod answer;
mod caller;
mod consoles;
mod cpu;
mod images;
mod lines;
mod log;
mod serial;
mod server;
mod stats;
mod upgrade;
mod vnc;

use super::args::Args;
use super::hypervisor::libvirt::Libvirt;
use super::images::Importer;
use crate::https::{certificate, server as https};
use caller::Callers;

/// How long it may take to ask for the node's address.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is told of this server in the Host.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: HostAddress,
    /// Its certificate, in PEM.
    pub certificate: String,
}

/// What all requests share.
struct Agent {
    hypervisor: Arc<Libvirt>,
    importer: Importer,
    callers: Callers,
    cpu: cpu::Samples,
    displays: consoles::Consoles,
    terminals: consoles::Consoles,
    lines: lines::Lines,
    serial_logs: PathBuf,
    /// How many images may be given at once.
    given: Arc<Semaphore>,
    /// Cancelled when the process is to end.
    stop: CancellationToken,
}

/// What the server works with.
pub struct Serving {
    /// Says whose tokens are.
    pub client: Client,
    /// Has the virtual machines.
    pub hypervisor: Arc<Libvirt>,
    /// Takes images.
    pub importer: Importer,
    /// Cancelled when the process is to end.
    pub stop: CancellationToken,
}

/// Begins to listen; returns what to tell of it, and the server.
///
/// # Errors
/// If the address cannot be listened on or no certificate can be made.
pub async fn start(
    args: &Args,
    system_namespace: &str,
    Serving { client, hypervisor, importer, stop }: Serving,
) -> anyhow::Result<(Endpoint, impl Future<Output = ()> + Send + use<>)> {
    let certificate::Identity { certificate, tls } = certificate::make(kvmoor_crds::agent::SERVER_NAME)?;
    let listener = TcpListener::bind(args.agent_listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.agent_listen))?;
    let local = listener.local_addr()?;
    let address = match &args.agent_address {
        Some(address) => address.clone(),
        None => address(&client, &args.node_name, local).await,
    };
    tracing::info!(address = %local, advertised = address, "serving measurements and consoles");
    let address = HostAddress { address, port: i32::from(local.port()) };
    let agent = Arc::new(Agent {
        hypervisor,
        importer,
        callers: caller::callers(client, system_namespace, &args.node_name),
        cpu: cpu::Samples::default(),
        displays: consoles::Consoles::default(),
        terminals: consoles::Consoles::default(),
        lines: lines::Lines::default(),
        serial_logs: args.serial_logs.clone(),
        given: Arc::new(Semaphore::new(images::GIVEN_AT_ONCE)),
        stop: stop.clone(),
    });
    Ok((Endpoint { address, certificate }, https::serve(listener, TlsAcceptor::from(tls), agent, stop)))
}

/// Where this host is reached: the address that it listens on if it is one, else the Node's internal one.
async fn address(client: &Client, node_name: &str, local: SocketAddr) -> String {
    if !local.ip().is_unspecified() {
        return local.ip().to_string();
    }
    let api: Api<Node> = Api::all(client.clone());
    let node = tokio::time::timeout(DEADLINE, api.get_opt(node_name)).await;
    let addresses = match node {
        Ok(Ok(node)) => node.and_then(|node| node.status).and_then(|status| status.addresses).unwrap_or_default(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let internal = addresses.into_iter().filter(|address| address.type_ == "InternalIP");
    let mut internal = internal.filter(|address| address.address.parse::<IpAddr>().is_ok());
    // A node is named as its host is.
    internal.next().map_or_else(|| node_name.to_owned(), |address| address.address)
}
