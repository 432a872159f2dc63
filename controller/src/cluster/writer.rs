//! Writes, and the reads around them: only while the Lease is held, with a deadline, and with an outcome that says
//! whether the write can have happened.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use kube::core::Status;
use tokio::time::Instant;

use crate::cluster::leader::Claim;
use crate::fault;
use crate::metrics::Reconciles;

/// How long one call may take, if the Lease allows it.
const DEADLINE: Duration = kvmoor_crds::client::DEADLINE;

/// All reasons of failures, for those who count.
const REASONS: [&str; 6] = ["unled", "conflict", "gone", "refused", "unanswered", "failed"];

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The Lease is not held for sure: nothing was sent.
    #[error("the Lease is not held any more")]
    Unled,
    /// The object changed meanwhile: nothing was written.
    #[error("the object changed meanwhile")]
    Conflict,
    /// The object is gone: nothing was written.
    #[error("the object is gone")]
    Gone,
    /// The API server refused it: nothing was written.
    #[error("the API server refused it: {}", .0.message)]
    Refused(Box<Status>),
    /// No answer in time: it may have been written.
    #[error("no answer in time")]
    Unanswered,
    /// No usable answer: it may have been written.
    #[error("no usable answer")]
    Failed(#[source] kube::Error),
}

impl WriteError {
    /// In a word, for those who count.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unled => "unled",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Unanswered => "unanswered",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether the write may have happened, or may still happen.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unanswered | Self::Failed(_))
    }
}

/// What every write goes through.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    claim: Claim,
    reconciles: Reconciles,
}

impl Writer {
    /// Writes as long as the claim holds.
    pub fn new(client: Client, claim: Claim, reconciles: Reconciles) -> Self {
        Self { client, claim, reconciles }
    }

    /// The same for a loop, whose failures are counted by its name.
    pub fn of(&self, controller: &'static str) -> Self {
        let reconciles = self.reconciles.of(controller);
        reconciles.expect(&REASONS);
        Self { reconciles, ..self.clone() }
    }

    /// The reconciles of the loop that writes.
    pub fn reconciles(&self) -> Reconciles {
        self.reconciles.clone()
    }

    /// The client, for making an `Api`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A call that changes something.
    ///
    /// # Errors
    /// Says whether it can have happened.
    pub async fn write<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        let answer = self.read(call).await?;
        fault::side_effect();
        Ok(answer)
    }

    /// A call that changes nothing.
    ///
    /// # Errors
    /// When there is no answer, or not a good one.
    pub async fn read<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        let result = self.attempt(call).await;
        if let Err(error) = &result {
            self.reconciles.failed(error.reason());
        }
        result
    }

    async fn attempt<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        let now = Instant::now();
        let until = self.claim.expires().min(now + DEADLINE);
        if until <= now {
            return Err(WriteError::Unled);
        }
        match tokio::time::timeout_at(until, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(refusal(status)),
            Ok(Err(error)) => Err(WriteError::Failed(error)),
            Err(_) => Err(WriteError::Unanswered),
        }
    }
}

fn refusal(status: Box<Status>) -> WriteError {
    match status.code {
        404 => WriteError::Gone,
        409 => WriteError::Conflict,
        400..=499 => WriteError::Refused(status),
        _ => WriteError::Failed(kube::Error::Api(status)),
    }
}
