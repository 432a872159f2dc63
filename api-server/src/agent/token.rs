//! The token by which the node controllers know this server: short-lived, for their audience alone, so that it is of no
//! use with the Kubernetes API.

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use kvmoor_crds::agent::AUDIENCE;
use tokio::sync::Mutex;

use crate::error::BoxError;

/// This server's service account.
const ACCOUNT: &str = "kvmoor-api-server";
/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// When a new one is asked for.
const RENEW: Duration = Duration::from_secs(40 * 60);
/// A token as old as this may not arrive in time.
const LAST_USE: Duration = Duration::from_secs(59 * 60);
/// After a failure it is not tried again for this long as long as the old one is good.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps a token.
pub struct AgentToken {
    accounts: Api<ServiceAccount>,
    held: Mutex<Option<Held>>,
}

struct Held {
    token: String,
    since: Instant,
    tried: Instant,
}

impl AgentToken {
    /// None yet.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self { accounts: Api::namespaced(client, system_namespace), held: Mutex::default() }
    }

    /// A token that is good.
    pub async fn get(&self) -> Result<String, BoxError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(held) = held.as_mut() {
            let age = now.duration_since(held.since);
            let due = age >= RENEW && now.duration_since(held.tried) >= RETRY;
            if !due && age < LAST_USE {
                return Ok(held.token.clone());
            }
            held.tried = now;
        }
        match self.request().await {
            Ok(token) => {
                *held = Some(Held { token: token.clone(), since: now, tried: now });
                Ok(token)
            }
            Err(error) => match held.as_ref() {
                Some(held) if now.duration_since(held.since) < LAST_USE => Ok(held.token.clone()),
                _ => Err(error),
            },
        }
    }

    /// Asks for a new one at the next use.
    pub async fn forget(&self) {
        *self.held.lock().await = None;
    }

    async fn request(&self) -> Result<String, BoxError> {
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(LIFETIME.as_secs().cast_signed()),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self.accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
        Ok(answer.status.ok_or("the answer to a TokenRequest has no status")?.token)
    }
}
