//! The signing keys in use, read from their Secret again and again so that a new key is known before it signs.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use kvmoor_crds::names;
use tokio::sync::Mutex;

use super::token::{Claims, Keyring, TicketClaims, TokenError};
use crate::error::ApiError;

/// How often the Secret is read.
const EVERY: Duration = Duration::from_secs(60);
/// How often it is read at most because of tokens with unknown keys, which anybody can send.
const ON_DEMAND: Duration = Duration::from_secs(5);

/// The signing keys of this installation.
pub struct SigningKeys {
    secrets: Api<Secret>,
    keyring: RwLock<Arc<Keyring>>,
    last_read: Mutex<Option<Instant>>,
}

impl SigningKeys {
    /// No keys yet.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, system_namespace),
            keyring: RwLock::default(),
            last_read: Mutex::default(),
        }
    }

    /// Reads the Secret for ever. Keys that are in use stay so while it cannot be read.
    pub async fn keep_current(&self) {
        loop {
            let current = self.refresh(Duration::ZERO).await;
            let pause = if current { EVERY } else { Duration::from_secs(1) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether tokens can be made and taken.
    pub fn ready(&self) -> Result<Arc<Keyring>, ApiError> {
        let keyring = self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone();
        if keyring.can_sign() {
            Ok(keyring)
        } else {
            Err(ApiError::unavailable("The server has no keys for sessions yet"))
        }
    }

    /// A token for a user.
    pub fn sign(&self, user_uid: &str, epoch: i64) -> Result<String, ApiError> {
        self.ready()?.sign(user_uid, epoch, Timestamp::now()).map_err(ApiError::internal)
    }

    /// The claims of a token that is ours and in force.
    pub async fn verify(&self, token: &str) -> Result<Claims, ApiError> {
        self.verified(|keyring| keyring.verify(token, Timestamp::now())).await
    }

    /// A ticket for the virtual machine with the UID `vm`, or for the feed of all where that is empty, that opens what
    /// ends with the session at `until`.
    pub fn sign_ticket(&self, user_uid: &str, epoch: i64, until: i64, vm: &str) -> Result<String, ApiError> {
        self.ready()?.sign_ticket(user_uid, epoch, until, vm, Timestamp::now()).map_err(ApiError::internal)
    }

    /// The claims of a ticket that is ours and in force.
    pub async fn verify_ticket(&self, ticket: &str) -> Result<TicketClaims, ApiError> {
        self.verified(|keyring| keyring.verify_ticket(ticket, Timestamp::now())).await
    }

    async fn verified<C>(&self, verify: impl Fn(&Keyring) -> Result<C, TokenError>) -> Result<C, ApiError> {
        let mut outcome = verify(&*self.ready()?);
        if matches!(outcome, Err(TokenError::UnknownKey)) && self.refresh(ON_DEMAND).await {
            outcome = verify(&*self.ready()?);
        }
        outcome.map_err(|error| {
            tracing::debug!(error = %crate::error::describe(&error), "refused a token");
            ApiError::Unauthorized("Invalid or expired token")
        })
    }

    /// Reads the Secret unless it was read within `interval`; says whether it did, with success.
    async fn refresh(&self, interval: Duration) -> bool {
        let mut last_read = self.last_read.lock().await;
        if last_read.is_some_and(|time| time.elapsed() < interval) {
            return false;
        }
        *last_read = Some(Instant::now());
        match self.secrets.get(names::JWT_SECRET).await {
            Ok(secret) => {
                let keyring = Keyring::from_secret(&secret);
                if !keyring.can_sign() {
                    tracing::error!(secret = names::JWT_SECRET, "{}", TokenError::NoCurrentKey);
                    return false;
                }
                self.replace(keyring);
                true
            }
            Err(error) => {
                let error = crate::error::describe(&error);
                tracing::warn!(secret = names::JWT_SECRET, error, "cannot read the signing keys");
                false
            }
        }
    }

    /// Takes these keys.
    pub fn replace(&self, keyring: Keyring) {
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
    }
}
