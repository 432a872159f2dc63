//! The one error of the REST API and the body it becomes.
//!
//! What a caller reads and what an operator reads are apart: causes never enter a body. They travel in an extension of
//! the response, and the access log writes them once, beside the request id.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error of whatever origin.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// A virtual machine.
    Vm,
    /// A snapshot.
    Snapshot,
    /// A disk beside the root disk.
    Disk,
    /// A user.
    User,
    /// An image.
    Image,
    /// A quota.
    Quota,
    /// A host.
    Host,
    /// An endpoint of this API.
    Endpoint,
}

impl Noun {
    /// The word in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Snapshot => "Snapshot",
            Self::Disk => "Disk",
            Self::User => "User",
            Self::Image => "Image",
            Self::Quota => "Quota",
            Self::Host => "Host",
            Self::Endpoint => "Endpoint",
        }
    }
}

/// Why a request has no other answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request cannot be understood or asks for what cannot be; the sentence says what to change.
    #[error("{0}")]
    Invalid(String),
    /// 401: no session.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// 403: a session, but not the right.
    #[error("{0}")]
    Forbidden(String),
    /// 403: more than the quota.
    #[error("{0}")]
    OverQuota(String),
    /// 404: not there, or somebody else's.
    #[error("{} not found", .0.as_str())]
    NotFound(Noun),
    /// 404: something that the request names is not there; the sentence says what is.
    #[error("{0}")]
    Missing(String),
    /// 405
    #[error("This endpoint does not take that method")]
    MethodNotAllowed,
    /// 409: the state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// 413
    #[error("{0}")]
    TooLarge(String),
    /// 415
    #[error("Send the body as Content-Type: application/json")]
    UnsupportedMediaType,
    /// 429
    #[error("{message}")]
    TooManyRequests {
        /// What there was too much of.
        message: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// 500: a fault of this server or its installation.
    #[error("An unexpected error occurred")]
    Internal(#[source] BoxError),
    /// 503: something that this server needs does not answer.
    #[error("{message}")]
    Unavailable {
        /// What does not answer, for the caller.
        message: &'static str,
        /// Why, for the log.
        #[source]
        cause: Option<BoxError>,
    },
}

/// The body of every error.
#[derive(Debug, Serialize, Deserialize, ToSchema, PartialEq, Eq)]
#[schema(example = json!({"error": "Invalid request", "message": "CPU must be greater than 0"}))]
pub struct ErrorBody {
    /// The kind of error; one word or two for each status code.
    pub error: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// That a quota was the reason, for those who count.
#[derive(Debug, Clone, Copy)]
pub struct OverQuota;

/// The cause of an error, for the access log. Never part of a body.
#[derive(Debug, Clone)]
pub struct Cause(pub String);

impl ApiError {
    /// 503 with a sentence and nothing for the log.
    pub fn unavailable(message: &'static str) -> Self {
        Self::Unavailable { message, cause: None }
    }

    /// 500 because of what should not happen.
    pub fn internal(cause: impl Into<BoxError>) -> Self {
        Self::Internal(cause.into())
    }

    /// Status code and `error` of the body.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "Invalid request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden(_) | Self::OverQuota(_) => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::NotFound(_) | Self::Missing(_) => (StatusCode::NOT_FOUND, "Not Found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"),
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, "Too Many Requests"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self {
            Self::Internal(cause) => Some(Cause(describe(cause.as_ref()))),
            Self::Unavailable { cause, .. } => cause.as_ref().map(|cause| Cause(describe(cause.as_ref()))),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error) = self.kind();
        let body = ErrorBody { error: error.to_owned(), message: self.to_string() };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match &self {
            Self::Unauthorized(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TooManyRequests { retry_after, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(*retry_after)));
            }
            Self::Unavailable { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1_u64));
            }
            _ => {}
        }
        if matches!(self, Self::OverQuota(_)) {
            response.extensions_mut().insert(OverQuota);
        }
        if let Some(cause) = self.cause() {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// Seconds, rounded up and at least 1, as `Retry-After` wants them.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

/// What a failed call of the Kubernetes API means for the caller, `noun` being what the call was about.
pub fn from_kube(noun: Noun, error: kube::Error) -> ApiError {
    let kube::Error::Api(status) = error else {
        return ApiError::Unavailable { message: "The Kubernetes API cannot be reached", cause: Some(Box::new(error)) };
    };
    if status.is_not_found() {
        return ApiError::NotFound(noun);
    }
    if status.is_already_exists() {
        return ApiError::Conflict(format!("{} already exists", noun.as_str()));
    }
    if status.is_conflict() {
        return ApiError::Conflict(format!(
            "{} was changed by somebody else at the same time; try again",
            noun.as_str()
        ));
    }
    if let Some(refusal) = policy_refusal(&status.message) {
        return refused(refusal.to_owned());
    }
    if status.is_invalid() {
        return ApiError::Invalid(validation_message(&status));
    }
    if status.is_forbidden() && status.message.contains("is being terminated") {
        return ApiError::Conflict("The namespace is being deleted".to_owned());
    }
    match status.code {
        429 | 500 | 502..=504 => {
            let message = "The Kubernetes API cannot answer at the moment";
            ApiError::Unavailable { message, cause: Some(api_cause(&status)) }
        }
        // Also 401 and 403: that this server may not do it is a fault of its installation.
        _ => ApiError::Internal(api_cause(&status)),
    }
}

/// The answer to what may not be, for the reason in that sentence.
pub fn refused(sentence: String) -> ApiError {
    let begin = "quota exceeded";
    if sentence.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin)) {
        ApiError::OverQuota(sentence)
    } else {
        ApiError::Forbidden(sentence)
    }
}

/// The sentence of a ValidatingAdmissionPolicy, if it refused.
fn policy_refusal(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("ValidatingAdmissionPolicy")?;
    rest.split_once("denied request: ").map(|(_, sentence)| sentence)
}

/// What the schema and its rules say, without the names of Kubernetes' own that surround it.
fn validation_message(status: &kube::core::Status) -> String {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let sentences: Vec<_> = causes
        .iter()
        .map(|cause| match cause.field.strip_prefix("spec.").unwrap_or(&cause.field) {
            "" => cause.message.clone(),
            field => format!("{field}: {}", cause.message),
        })
        .collect();
    if sentences.is_empty() {
        "The Kubernetes API refused the object as invalid".to_owned()
    } else {
        sentences.join("; ")
    }
}

/// `kube::Error` prints its source twice; this prints it once.
fn api_cause(status: &kube::core::Status) -> BoxError {
    format!("Kubernetes API: {} {}: {}", status.code, status.reason, status.message).into()
}

/// An error and its sources in one line, without what kube's errors repeat of theirs.
pub fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = own_text(error);
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = own_text(inner);
        if !text.contains(&inner_text) {
            let _ = write!(text, ": {inner_text}");
        }
        // What is below an answer of the Kubernetes API is the same answer again.
        source = if inner.is::<kube::Error>() { None } else { inner.source() };
    }
    text
}

fn own_text(error: &(dyn StdError + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref() {
        return api_cause(status).to_string();
    }
    match error.downcast_ref() {
        Some(watcher::Error::InitialListFailed(_)) => "cannot list".to_owned(),
        Some(watcher::Error::WatchStartFailed(_)) => "cannot begin to watch".to_owned(),
        Some(watcher::Error::WatchFailed(_)) => "the watch broke off".to_owned(),
        Some(watcher::Error::WatchError(status)) => format!("the watch ended: {}", status.message),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    async fn body(error: ApiError) -> (u16, ErrorBody) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn bodies_are_those_of_the_contract() {
        let cases = [
            (
                ApiError::Invalid("CPU must be greater than 0".into()),
                400,
                "Invalid request",
                "CPU must be greater than 0",
            ),
            (ApiError::Unauthorized("Invalid or expired token"), 401, "Unauthorized", "Invalid or expired token"),
            (ApiError::Forbidden("Admin access required".into()), 403, "Forbidden", "Admin access required"),
            (ApiError::NotFound(Noun::Vm), 404, "Not Found", "VM not found"),
            (ApiError::internal("secret"), 500, "Internal Server Error", "An unexpected error occurred"),
        ];
        for (given, status, error, message) in cases {
            let expected = ErrorBody { error: error.into(), message: message.into() };
            assert_eq!(body(given).await, (status, expected));
        }
    }

    #[test]
    fn causes_stay_out_of_the_body_and_reach_the_log() {
        let response = ApiError::internal("the disk of host-1 is full").into_response();
        assert_eq!(response.extensions().get::<Cause>().unwrap().0, "the disk of host-1 is full");
    }

    #[test]
    fn retry_after_is_never_zero() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1500)), 2);
        assert_eq!(whole_seconds(Duration::ZERO), 1);
    }

    fn failure(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[test]
    fn kubernetes_answers_are_mapped() {
        assert!(matches!(from_kube(Noun::Vm, failure(404, "NotFound", "x")), ApiError::NotFound(Noun::Vm)));
        assert!(matches!(from_kube(Noun::User, failure(409, "AlreadyExists", "x")), ApiError::Conflict(_)));
        assert!(matches!(from_kube(Noun::Vm, failure(409, "Conflict", "x")), ApiError::Conflict(_)));
        assert!(matches!(from_kube(Noun::Vm, failure(403, "Forbidden", "no RBAC")), ApiError::Internal(_)));
        assert!(matches!(from_kube(Noun::Vm, failure(401, "Unauthorized", "x")), ApiError::Internal(_)));
        assert!(matches!(from_kube(Noun::Vm, failure(503, "ServiceUnavailable", "x")), ApiError::Unavailable { .. }));
        let policy = "virtualmachines \"x\" is forbidden: ValidatingAdmissionPolicy 'quota' with binding 'quota' denied request: quota exceeded: 11 of 10 VMs";
        let ApiError::OverQuota(message) = from_kube(Noun::Vm, failure(403, "Forbidden", policy)) else {
            panic!("a policy's refusal is the caller's business")
        };
        assert_eq!(message, "quota exceeded: 11 of 10 VMs");
    }

    #[test]
    fn logs_say_what_kubernetes_said_once() {
        let text = describe(&watcher::Error::WatchStartFailed(failure(403, "Forbidden", "no RBAC")));
        assert_eq!(text, "cannot begin to watch: Kubernetes API: 403 Forbidden: no RBAC");
    }

    #[test]
    fn schema_violations_become_sentences() {
        let cause = StatusCause {
            reason: "FieldValueInvalid".into(),
            message: "memory must be at least 16Mi".into(),
            field: "spec.memory".into(),
        };
        let details = StatusDetails {
            name: "x".into(),
            group: "kvmoor.dev".into(),
            kind: "VirtualMachine".into(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 0,
        };
        let status = Status::failure("VirtualMachine.kvmoor.dev \"x\" is invalid", "Invalid")
            .with_code(422)
            .with_details(details);
        let ApiError::Invalid(message) = from_kube(Noun::Vm, kube::Error::Api(status.boxed())) else { panic!() };
        assert_eq!(message, "memory: memory must be at least 16Mi");
    }
}
