//! The data of guests, for the hosts that they are on: user data and network configurations from Secrets, and the keys
//! of users.
//!
//! Every replica serves, since nothing is decided here; the hosts ask the leader, whose Lease says where it listens and
//! with which certificate. Who asks must be a node controller, proved by a token that was issued for its node, and gets
//! what belongs to a virtual machine that is bound to that node, read at that moment. Nothing is kept.

mod caller;
mod lookup;
mod pick;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::Context as _;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use kube::Client;
use kvmoor_crds::guest_data::{ADDRESS_ANNOTATION, CERTIFICATE_ANNOTATION, PORT, SERVER_NAME};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::https::answer::{Answer, Refusal, json};
use crate::https::certificate;
use crate::https::server::{Handler, serve};

/// Where it listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), PORT);
/// An address of documentation: nothing is sent there, but there is a route to it wherever there is one to anywhere.
const ANYWHERE: &str = "192.0.2.1";

/// Begins to listen; returns the annotations of the Lease that tell of it, and the server.
///
/// # Errors
/// If the address cannot be listened on, is not known to others, or no certificate can be made.
pub async fn start(
    listen: SocketAddr,
    address: Option<String>,
    client: Client,
    system_namespace: &str,
    stop: CancellationToken,
) -> anyhow::Result<(BTreeMap<String, String>, impl Future<Output = ()> + Send + use<>)> {
    let certificate::Identity { certificate, tls } = certificate::make(SERVER_NAME)?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let local = listener.local_addr()?;
    let address = match address {
        Some(address) => address,
        None => own_address(local.ip()).context("say with --guest-data-address where the hosts reach this process")?,
    };
    let address = match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, local.port()).to_string(),
        Err(_) => format!("{address}:{}", local.port()),
    };
    tracing::info!(%local, advertised = address, "serving the data of guests");
    let annotations =
        BTreeMap::from([(ADDRESS_ANNOTATION.to_owned(), address), (CERTIFICATE_ANNOTATION.to_owned(), certificate)]);
    let server = Server {
        callers: caller::node_controllers(client.clone(), system_namespace),
        lookup: lookup::Lookup::new(client, system_namespace),
    };
    Ok((annotations, serve(listener, TlsAcceptor::from(tls), Arc::new(server), stop)))
}

/// The address that it listens on if it is one, else the one that this machine is reached under by its network.
fn own_address(local: IpAddr) -> std::io::Result<String> {
    if !local.is_unspecified() {
        return Ok(local.to_string());
    }
    let towards = std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_else(|_| ANYWHERE.to_owned());
    let any = if towards.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect((towards.as_str(), 9))?;
    Ok(socket.local_addr()?.ip().to_string())
}

struct Server {
    callers: caller::Callers,
    lookup: lookup::Lookup,
}

impl Handler for Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let node = self.callers.admit(request.headers()).await?;
        let wanted = route(request.uri().path()).filter(|_| request.method() == Method::GET);
        let wanted = wanted.ok_or_else(Refusal::not_found)?;
        Ok(json(StatusCode::OK, &self.lookup.data(&node, wanted).await?))
    }
}

/// Which virtual machine is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

/// Names are those of Kubernetes and a UID is a UUID: nothing else becomes part of another path.
fn route(path: &str) -> Option<Wanted<'_>> {
    let parts: Vec<&str> = path.strip_prefix("/v1/namespaces/")?.split('/').collect();
    let [namespace, "vms", name, uid, "guest-data"] = parts.as_slice() else { return None };
    let is_name = |text: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        !text.is_empty() && text.len() <= 253 && text.bytes().all(inner) && !text.starts_with('.')
    };
    let is_uuid = uid.len() == 36 && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (is_name(namespace) && is_name(name) && is_uuid).then_some(Wanted { namespace, name, uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_uuids_are_looked_up() {
        let uid = "550e8400-e29b-41d4-a716-446655440000";
        let path = kvmoor_crds::guest_data::path("ns", "web.1", uid);
        assert_eq!(route(&path), Some(Wanted { namespace: "ns", name: "web.1", uid }));
        for path in [
            "/",
            "/v1/namespaces/ns/vms/web/x/guest-data",
            &format!("/v1/namespaces/../vms/web/{uid}/guest-data"),
            &format!("/v1/namespaces/ns/vms//{uid}/guest-data"),
            &format!("/v1/namespaces/ns/vms/a%2Fb/{uid}/guest-data"),
            &format!("/v1/namespaces/ns/vms/web/{uid}/guest-data/more"),
        ] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn an_address_that_is_certain_is_told_as_it_is() {
        assert_eq!(own_address("127.0.0.1".parse().unwrap()).unwrap(), "127.0.0.1");
    }
}
