//! What the API server counts. `docs/metrics.md` says what each metric means.

use std::time::Duration;

use axum::http::Method;
use kvmoor_telemetry::{Family, Seconds, seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::error::ApiError;

/// The route of requests that belong to none.
const NO_ROUTE: &str = "none";
/// The code of a WebSocket whose peer was gone.
const NO_CODE: &str = "none";
/// Codes that WebSockets are closed with.
const CLOSE_CODES: [Option<u16>; 6] = [Some(1000), Some(1001), Some(1008), Some(1011), Some(1013), None];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: String,
    method: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Open {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    kind: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Login {
    result: &'static str,
}

/// What a WebSocket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Changes of virtual machines.
    Feed,
    /// The console of one.
    Console,
}

impl Socket {
    fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Console => "console",
        }
    }
}

/// What the API server counts. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Answer, Counter>,
    durations: Seconds<Request>,
    sockets: Family<Open, Gauge>,
    closed: Family<Closed, Counter>,
    logins: Family<Login, Counter>,
    over_quota: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: seconds(),
            sockets: Family::default(),
            closed: Family::default(),
            logins: Family::default(),
            over_quota: Counter::default(),
        };
        // What never happened is told as 0, so that its first time shows as an increase.
        for result in ["accepted", "refused", "unapproved", "throttled", "failed"] {
            metrics.logins.get_or_create(&Login { result }).inc_by(0);
        }
        for kind in [Socket::Feed, Socket::Console].map(Socket::as_str) {
            metrics.sockets.get_or_create(&Open { kind }).set(0);
            for code in CLOSE_CODES.map(close_code) {
                metrics.closed.get_or_create(&Closed { kind, code }).inc_by(0);
            }
        }
        metrics
    }
}

impl Metrics {
    /// Puts them where they are served.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests that were answered", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time until the head of the answer",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("websockets_open", "WebSockets that are open", self.sockets.clone());
        registry.register("websockets_closed", "WebSockets that were closed", self.closed.clone());
        registry.register("logins", "Attempts to log in", self.logins.clone());
        registry.register("quota_refusals", "Requests refused because of a quota", self.over_quota.clone());
    }

    /// A request was answered.
    pub fn answered(&self, route: Option<&str>, method: &Method, code: u16, took: Duration) {
        let route = route.unwrap_or(NO_ROUTE).to_owned();
        let method = known(method);
        self.durations.get_or_create(&Request { route: route.clone(), method }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answer { route, method, code }).inc();
    }

    /// A WebSocket was opened; it is as long as the value lives.
    pub fn opened(&self, socket: Socket) -> impl Drop + Send + use<> {
        struct Guard(Gauge);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        let open = self.sockets.get_or_create_owned(&Open { kind: socket.as_str() });
        open.inc();
        Guard(open)
    }

    /// A WebSocket was closed with that code, or its peer was gone.
    pub fn closed(&self, socket: Socket, code: Option<u16>) {
        self.closed.get_or_create(&Closed { kind: socket.as_str(), code: close_code(code) }).inc();
    }

    /// Somebody tried to log in.
    pub fn login<T>(&self, outcome: &Result<T, ApiError>) {
        let result = match outcome {
            Ok(_) => "accepted",
            Err(ApiError::Unauthorized(_)) => "refused",
            Err(ApiError::Forbidden(_)) => "unapproved",
            Err(ApiError::TooManyRequests { .. }) => "throttled",
            Err(_) => "failed",
        };
        self.logins.get_or_create(&Login { result }).inc();
    }

    /// A request was refused because of a quota.
    pub fn over_quota(&self) {
        self.over_quota.inc();
    }
}

fn close_code(code: Option<u16>) -> String {
    code.map_or_else(|| NO_CODE.to_owned(), |code| code.to_string())
}

/// Callers may make up methods; labels may not.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text::encode;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        metrics.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_callers_make_up_is_no_label() {
        let metrics = Metrics::default();
        let made_up = Method::from_bytes(b"BREW").unwrap();
        metrics.answered(None, &made_up, 405, Duration::from_millis(3));
        assert!(text(&metrics).contains(r#"http_requests_total{route="none",method="other",code="405"} 1"#));
    }

    #[test]
    fn a_socket_is_open_until_it_is_dropped() {
        let metrics = Metrics::default();
        let open = metrics.opened(Socket::Console);
        assert!(text(&metrics).contains(r#"websockets_open{kind="console"} 1"#));
        drop(open);
        assert!(text(&metrics).contains(r#"websockets_open{kind="console"} 0"#));
    }

    #[test]
    fn logins_are_told_by_their_outcome() {
        let metrics = Metrics::default();
        metrics.login::<()>(&Err(ApiError::Unauthorized("no")));
        metrics.login(&Ok(()));
        let text = text(&metrics);
        assert!(text.contains(r#"logins_total{result="refused"} 1"#), "{text}");
        assert!(text.contains(r#"logins_total{result="accepted"} 1"#), "{text}");
        assert!(text.contains(r#"logins_total{result="throttled"} 0"#), "{text}");
    }
}
