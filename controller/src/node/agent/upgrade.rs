//! The HTTP upgrade that the bytes of a console follow.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::answer::{Answer, Refusal, whole};

/// Refuses a request that does not ask for an upgrade to `protocol`.
pub fn check(headers: &HeaderMap, protocol: &'static str) -> Result<(), Refusal> {
    let value = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if value.is_some_and(|value| value.eq_ignore_ascii_case(protocol)) {
        Ok(())
    } else {
        Err(Refusal::bad_request(&format!("this is served over an upgrade to {protocol}")))
    }
}

/// The answer after which `protocol` is spoken.
pub fn answer(protocol: &'static str) -> Answer {
    let mut answer = whole(Vec::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    answer
}
