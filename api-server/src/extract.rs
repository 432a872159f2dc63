//! Bodies and query strings, with the API's own errors in place of axum's.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// A JSON body. Types are exact and unknown fields are refused where the type says so.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge("The request body is larger than 1 MiB".to_owned()),
            _ => ApiError::Invalid("The request body ended too early".to_owned()),
        })?;
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::Invalid("The request body is not UTF-8".to_owned()))?;
    let invalid = |error: serde_json::Error| {
        let what = if error.is_data() { "does not fit" } else { "is not JSON" };
        ApiError::Invalid(format!("The request body {what}: {error}"))
    };
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        // The API's reference writes a comment into one of its examples, so line comments are no error.
        Err(error) if error.is_syntax() && text.contains("//") => {
            serde_json::from_str(&without_line_comments(text)).map_err(|_| invalid(error))
        }
        Err(error) => Err(invalid(error)),
    }
}

/// The text without `// …` outside of strings.
fn without_line_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => in_string = !in_string,
            '\\' if in_string => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            '/' if !in_string && chars.peek() == Some(&'/') => {
                while chars.next_if(|next| *next != '\n').is_some() {}
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

/// The query string.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|rejection| ApiError::Invalid(format!("The query string does not fit: {}", rejection.body_text())))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Example {
        action: String,
    }

    #[test]
    fn the_references_own_comment_is_taken() {
        let text = "{\n  \"action\": \"start\"  // start, stop, restart, delete, resize\n}";
        assert_eq!(parse::<Example>(text.as_bytes()).unwrap().action, "start");
    }

    #[test]
    fn strings_keep_their_slashes() {
        let text = r#"{"action": "a//b\"//c"} // "end"#;
        assert_eq!(parse::<Example>(text.as_bytes()).unwrap().action, r#"a//b"//c"#);
    }

    #[test]
    fn the_rest_is_refused_with_the_place() {
        for text in ["", "{", "[]", "null", r#"{"action": 1}"#, r#"{"action":"a","x":1}"#, r#"{"action":"a"}{}"#] {
            assert!(matches!(parse::<Example>(text.as_bytes()), Err(ApiError::Invalid(_))), "{text}");
        }
        assert!(matches!(parse::<Example>(&[0xff]), Err(ApiError::Invalid(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse::<serde_json::Value>(deep.as_bytes()), Err(ApiError::Invalid(_))));
        let error = parse::<Example>(br#"{"actoin": "start"}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `actoin`") && error.contains("line 1"), "{error}");
    }
}
