//! The address for Prometheus and for probes.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | everything in the registry, as OpenMetrics for those who ask for it and in the older text format else |
//! | `/livez` | 200 as long as the process can answer at all |
//! | `/readyz` | 200 when it can do its work, else 503 |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time: a few Prometheus servers and the kubelet.
const CONNECTIONS: usize = 64;
/// How long the head of a request may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(70);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// How long a connection may last, so that nobody holds one for ever; a scraper makes another.
const CONNECTION: Duration = Duration::from_secs(600);
/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics; choose another --metrics-address")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// An address that is listened on, where nothing is answered yet.
#[derive(Debug)]
pub struct Listener(TcpListener);

struct Served<R> {
    registry: Registry,
    ready: R,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the address is taken or not one of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local, listener) = bound.map_err(|source| BindError { address, source })?;
        tracing::info!(address = %local, "serving metrics");
        Ok(Self(listener))
    }

    /// Answers until it is dropped. `ready` says whether the process can do its work.
    pub async fn serve<R>(self, registry: Registry, ready: R)
    where
        R: Fn() -> bool + Send + Sync + 'static,
    {
        let served = Arc::new(Served { registry, ready });
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    let served = Arc::clone(&served);
                    tokio::spawn(async move {
                        let served = tokio::time::timeout(CONNECTION, connection(stream, served)).await;
                        if let Ok(Err(error)) = served {
                            tracing::debug!(%peer, %error, "a connection for metrics broke off");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection<R>(stream: TcpStream, served: Arc<Served<R>>) -> Result<(), hyper::Error>
where
    R: Fn() -> bool + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let served = Arc::clone(&served);
        async move {
            let openmetrics = request.headers().get(ACCEPT).is_some_and(takes_openmetrics);
            Ok::<_, Infallible>(answer(&served, request.method(), request.uri().path(), openmetrics))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    http.serve_connection(TokioIo::new(stream), service).await
}

fn takes_openmetrics(accept: &HeaderValue) -> bool {
    accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
}

fn answer<R: Fn() -> bool>(
    served: &Served<R>,
    method: &Method,
    path: &str,
    openmetrics: bool,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/metrics" => metrics(&served.registry, openmetrics),
        "/livez" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if (served.ready)() => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"),
    }
}

fn metrics(registry: &Registry, openmetrics: bool) -> Response<Full<Bytes>> {
    let mut body = String::new();
    let (encoded, content_type) = match openmetrics {
        true => (text::encode(&mut body, registry), OPENMETRICS),
        false => (prometheus_text::encode(&mut body, registry), TEXT),
    };
    match encoded {
        Ok(()) => response(StatusCode::OK, content_type, body.into()),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "a metric cannot be written\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, PLAIN, Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::registry::of_process;

    async fn get(ready: bool, path: &str, openmetrics: bool) -> (u16, String) {
        let served = Served { registry: of_process("test"), ready: move || ready };
        let answer = answer(&served, &Method::GET, path, openmetrics);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_come_in_both_formats() {
        let (status, text) = get(true, "/metrics", false).await;
        assert_eq!(status, 200);
        assert!(text.contains("# TYPE kvmoor_build_info gauge\n"), "{text}");
        assert!(text.contains(r#"kvmoor_build_info{component="test",version=""#), "{text}");
        let (_, text) = get(true, "/metrics", true).await;
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn a_process_that_cannot_work_is_alive_and_not_ready() {
        assert_eq!(get(false, "/livez", false).await.0, 200);
        assert_eq!(get(false, "/readyz", false).await.0, 503);
        assert_eq!(get(true, "/readyz", false).await.0, 200);
        assert_eq!(get(true, "/", false).await.0, 404);
    }

    #[test]
    fn only_what_the_scraper_takes_is_openmetrics() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(takes_openmetrics(&HeaderValue::from_static(prometheus)));
        assert!(!takes_openmetrics(&HeaderValue::from_static("*/*")));
    }
}
