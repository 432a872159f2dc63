//! One call of the cluster controller, over a connection that shows exactly the certificate in the leader's Lease.

use std::path::Path;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use kvmoor_crds::guest_data::{self, Answer};
use kvmoor_crds::pinned::Endpoint;
use serde::Deserialize;

use super::super::desired::Identity;
use crate::https::client;

/// Most bytes of an answer: the largest data in base64, and 64 keys of 8 KiB.
const LARGEST: usize = 2 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Where the leader is cannot be found out.
    #[error("where the cluster controller listens is not known: {0}")]
    Lease(String),
    /// The token cannot be read.
    #[error("the token for the cluster controller cannot be read from {0}: {1}")]
    Token(String, std::io::Error),
    /// There is no connection, or it broke off.
    #[error("the cluster controller cannot be reached: {0}")]
    Unreachable(String),
    /// It refused.
    #[error("the cluster controller refuses: {0}: {1}")]
    Refused(StatusCode, String),
    /// The answer cannot be read. Its text is not shown: it may hold a secret.
    #[error("the cluster controller's answer cannot be read")]
    Unreadable,
}

/// Asks.
pub async fn get(endpoint: &Endpoint, token_file: &Path, vm: &Identity) -> Result<Answer, CallError> {
    // Read each time: the kubelet puts a new one there before the old one ends.
    let token = tokio::fs::read_to_string(token_file).await;
    let token = token.map_err(|error| CallError::Token(token_file.display().to_string(), error))?;
    let path = guest_data::path(&vm.namespace, &vm.name, &vm.uid);
    let (status, body) =
        exchange(endpoint, &path, &token).await.map_err(|error| CallError::Unreachable(error.to_string()))?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|_| CallError::Unreadable);
    }
    #[derive(Deserialize, Default)]
    struct Refusal {
        message: String,
    }
    let message = serde_json::from_slice::<Refusal>(&body).unwrap_or_default().message;
    Err(CallError::Refused(status, message))
}

async fn exchange(
    endpoint: &Endpoint,
    path: &str,
    token: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (answer, _connection) = client::get(endpoint, path, token).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes();
    Ok((status, body))
}
