//! What is answered, and why not.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serde::Serialize;

/// An answer.
pub type Answer = Response<Body>;
/// Its body: whole, or as it comes.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why there is no other answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it means for the caller.
    pub status: StatusCode,
    /// Why, in a sentence for a user.
    pub message: String,
}

impl Refusal {
    /// With that status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 401
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403
    pub fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such virtual machine here")
    }

    /// 409
    pub fn conflict(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 429
    pub fn too_many(message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// 503
    pub fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 400
    pub fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The answer.
    pub fn into_answer(self) -> Answer {
        json(self.status, &serde_json::json!({ "message": self.message }))
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // What is answered are our own types, which serialise.
    let mut answer = whole(serde_json::to_vec(body).unwrap_or_default());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// An answer in bytes.
pub fn raw(bytes: Vec<u8>) -> Answer {
    let mut answer = whole(bytes);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

/// An answer of those bytes.
pub fn whole(bytes: Vec<u8>) -> Answer {
    Response::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync())
}
