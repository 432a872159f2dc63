//! Connections: accepted within limits, decrypted, and their requests passed on once the caller is known.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Refusal};
use super::{Agent, stats, vnc};

/// Connections at a time.
const CONNECTIONS: usize = 512;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Probes of a connection on which nothing comes, so that a console whose other end is gone ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, agent: Arc<Agent>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, agent) = (tls.clone(), Arc::clone(&agent));
        tokio::spawn(async move {
            let stop = agent.stop.clone();
            if let Some(Err(error)) = stop.run_until_cancelled(connection(stream, tls, agent)).await {
                tracing::debug!(error, "a connection broke off");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, agent: Arc<Agent>) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(text)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(text)?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream))
        .await
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(text)?;
    let service = service_fn(move |request| {
        let agent = Arc::clone(&agent);
        async move { Ok::<_, Infallible>(answer(&agent, request).await.unwrap_or_else(Refusal::into_answer)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(|error| error.to_string())
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    agent.callers.admit(request.headers()).await?;
    let path = request.uri().path().to_owned();
    let Some((uid, what)) = route(&path) else { return Err(Refusal::not_found()) };
    match (request.method(), what) {
        (&Method::GET, "stats") => stats::get(agent, uid).await,
        (&Method::GET, "vnc") => vnc::get(agent, uid, request).await,
        _ => Err(Refusal::not_found()),
    }
}

/// The UID and what is asked of it. A UID is a UUID: nothing else reaches libvirt.
fn route(path: &str) -> Option<(&str, &str)> {
    let (uid, what) = path.strip_prefix("/v1/vms/")?.split_once('/')?;
    let is_uuid = uid.len() == 36 && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_uuid.then_some((uid, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_are_looked_up() {
        let uid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(route(&kvmoor_crds::agent::stats_path(uid)), Some((uid, "stats")));
        assert_eq!(route(&kvmoor_crds::agent::vnc_path(uid)), Some((uid, "vnc")));
        for path in ["/", "/v1/vms/x/stats", "/v1/vms/../stats", "/v1/vms/", "/v1/vms//stats"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
