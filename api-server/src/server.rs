//! Serving, with limits that `axum::serve` has not: a time for the head of a request and a number of connections; and
//! with TLS or without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take to arrive, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// Most bytes of a connection that may wait in the kernel to be sent.
const UNSENT_BYTES: u32 = 64 << 10;
/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests may go on when the server is to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Why a connection broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no TLS handshake")]
    Handshake(#[source] std::io::Error),
    #[error("the TLS handshake took too long")]
    Slow,
    #[error("HTTP")]
    Http(#[from] hyper::Error),
}

/// Serves until `stop`, at most `connections` connections at a time, and then lets requests end.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections: usize,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(connections));
    let open = TaskTracker::new();
    while let Some((stream, peer, slot)) = stop.run_until_cancelled(next(&listener, &slots)).await {
        let connection = connection(stream, peer, tls.clone(), router.clone(), stop.clone());
        open.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error = %crate::error::describe(&error), "a connection broke off");
            }
            drop(slot);
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!(connections = open.len(), "requests were still going on when the time to stop was over");
    }
}

/// The next connection, when there is room for one.
async fn next(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let accepted = match slots.clone().acquire_owned().await {
            Ok(slot) => listener.accept().await.map(|(stream, peer)| (stream, peer, slot)),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        };
        match accepted {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end; after `stop` that is the end of the request that is going on.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Broken> {
    // Answers are small and somebody waits for them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot turn off Nagle's algorithm");
    }
    // What a reader is slow to take waits where it is counted, in bounded queues, not in the kernel.
    if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%peer, %error, "cannot bound what waits in the kernel");
    }
    let Some(tls) = tls else { return Ok(exchange(stream, peer, router, stop).await?) };
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await.map_err(|_| Broken::Slow)?;
    Ok(exchange(stream.map_err(Broken::Handshake)?, peer, router, stop).await?)
}

/// Requests and answers.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}
