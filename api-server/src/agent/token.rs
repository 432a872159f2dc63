//! The tokens by which the node controllers know this server: short-lived, and one for each host. So what a host is shown
//! is of no use at another, nor with the Kubernetes API.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use kvmoor_crds::agent::audience;

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

/// Keeps tokens.
pub struct AgentTokens {
    accounts: Api<ServiceAccount>,
    /// By the names of hosts. One that is asked for keeps no other host's waiting.
    held: Mutex<HashMap<String, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

struct Held {
    token: String,
    since: Instant,
    tried: Instant,
}

impl AgentTokens {
    /// None yet.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self { accounts: Api::namespaced(client, system_namespace), held: Mutex::default() }
    }

    fn slot(&self, host: &str) -> Slot {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(host.to_owned()).or_default())
    }

    /// A token that is good at that host.
    pub async fn get(&self, host: &str) -> Result<String, BoxError> {
        let slot = self.slot(host);
        let mut held = slot.lock().await;
        let now = Instant::now();
        if let Some(held) = held.as_mut() {
            let age = now.duration_since(held.since);
            let due = age >= RENEW && now.duration_since(held.tried) >= RETRY;
            if !due && age < LAST_USE {
                return Ok(held.token.clone());
            }
            held.tried = now;
        }
        match self.request(host).await {
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
    pub async fn forget(&self, host: &str) {
        *self.slot(host).lock().await = None;
    }

    async fn request(&self, host: &str) -> Result<String, BoxError> {
        let spec = TokenRequestSpec {
            audiences: vec![audience(host)],
            expiration_seconds: Some(LIFETIME.as_secs().cast_signed()),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self.accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
        Ok(answer.status.ok_or("the answer to a TokenRequest has no status")?.token)
    }
}
