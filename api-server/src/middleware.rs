//! What happens around every request: an id, a log line, a deadline, and no panic that anybody sees.

use std::any::Any;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument, Span, field};

use crate::app::AppState;
use crate::error::{ApiError, Cause, OverQuota};
use crate::metrics::Metrics;

/// The header with the id of a request, in the request and in the answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a handler may take, the reading of the body included.
pub const HANDLER: Duration = Duration::from_secs(30);
/// Where images are uploaded.
pub const UPLOAD: &str = "/api/images/{name}/content";
/// Most characters of an id that a caller brings.
const MAX_ID: usize = 128;

/// Gives the request its id, or keeps the one it came with, writes the log line and counts.
pub async fn log(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address);
    // The path alone: a query string may hold a token.
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|matched| matched.as_str().to_owned());
    let span = tracing::info_span!("request", request.id = %id, user.id = field::Empty);
    let begin = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = begin.elapsed();
    record(&span, &method, &path, route.as_deref(), peer, &response, took);
    metrics.answered(route.as_deref(), &method, response.status().as_u16(), took);
    if response.extensions().get::<OverQuota>().is_some() {
        metrics.over_quota();
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn request_id(request: &Request) -> String {
    let sane = |id: &&str| {
        (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let brought = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
    brought.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn record(
    span: &Span,
    method: &http::Method,
    path: &str,
    route: Option<&str>,
    peer: Option<SocketAddr>,
    response: &Response,
    took: Duration,
) {
    let _entered = span.enter();
    let status = response.status().as_u16();
    let duration_ms = took.as_secs_f64() * 1000.0;
    let cause = response.extensions().get::<Cause>().map(|Cause(text)| text.as_str());
    let peer = peer.map(|address| address.to_string());
    if response.status().is_server_error() {
        tracing::error!(%method, path, route, peer, status, duration_ms, cause, "answered");
    } else {
        tracing::info!(%method, path, route, peer, status, duration_ms, "answered");
    }
}

/// Makes each answer the last of its connection once the server is told to stop, so that no request is under way on one
/// that is closed later. Upgraded connections are told in their own way.
pub async fn last_answer(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if app.drain.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Ends what takes too long. An upload takes what it takes: it has deadlines for nothing coming and nothing being taken.
pub async fn deadline(request: Request, next: Next) -> Response {
    if request.extensions().get::<MatchedPath>().is_some_and(|matched| matched.as_str() == UPLOAD) {
        return next.run(request).await;
    }
    let answer = tokio::time::timeout(HANDLER, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::unavailable("The request took too long").into_response())
}

/// The answer to a request whose handler panicked.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panic: {}", text.unwrap_or("without a message"))).into_response()
}
