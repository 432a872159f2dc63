//! Passwords: what is accepted, and Argon2id in a bounded pool.
//!
//! A hash takes 19 MiB and tens of milliseconds of a CPU, which makes login the cheapest way to exhaust a server. So no
//! more hashes run than there are CPUs, a bounded number waits, and the rest is told to come again.

use std::fmt;
use std::sync::Arc;

use rand::Rng;
use rand::distr::Alphanumeric;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use super::phc::{self, Memory};
use super::workers::Workers;

/// Fewest characters of a new password.
const MIN_CHARS: usize = 8;
/// Most characters of a password.
const MAX_CHARS: usize = 256;

/// A password as somebody sent it. It does not print.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password, example = "password")]
pub struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Password {
    /// A password from text.
    #[cfg(test)]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Nobody's password is longer than this; hashing what somebody sent instead would only cost.
    fn is_short_enough(&self) -> bool {
        self.0.chars().nth(MAX_CHARS).is_none()
    }

    /// Whether it may be somebody's new password. Any characters will do; length is what counts.
    pub fn check_new(&self, username: &str) -> Result<(), &'static str> {
        if self.0.chars().count() < MIN_CHARS {
            return Err("The password must have at least 8 characters");
        }
        if !self.is_short_enough() {
            return Err("The password must have at most 256 characters");
        }
        if self.0.to_lowercase() == username.to_lowercase() {
            return Err("The password must not be the user name");
        }
        Ok(())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// As many hashes as may wait are waiting.
    #[error("too many logins are waiting")]
    Busy,
    /// The hash function failed, or its thread.
    #[error("cannot hash")]
    Hash(#[source] crate::error::BoxError),
}

/// The pool.
#[derive(Debug)]
pub struct Passwords {
    workers: Workers,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    /// A hash of what nobody knows, so that an unknown user costs what a known one does.
    dummy: Arc<str>,
}

/// The right to use one CPU for one hash.
#[derive(Debug)]
pub struct Turn {
    workers: Workers,
    _admitted: OwnedSemaphorePermit,
    running: OwnedSemaphorePermit,
    dummy: Arc<str>,
}

impl Passwords {
    /// A pool that runs `parallel` hashes at a time while at most `queue` wait.
    pub fn new(parallel: usize, queue: usize) -> Result<Self, PasswordError> {
        let unknown: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        Ok(Self {
            workers: Workers::start(parallel).map_err(|error| PasswordError::Hash(error.into()))?,
            running: Arc::new(Semaphore::new(parallel)),
            admitted: Arc::new(Semaphore::new(parallel.saturating_add(queue))),
            dummy: phc::hash(&unknown, &mut Memory::new())?.into(),
        })
    }

    /// Waits for a turn.
    pub async fn turn(&self) -> Result<Turn, PasswordError> {
        let admitted = self.admitted.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        Ok(Turn { workers: self.workers.clone(), _admitted: admitted, running, dummy: self.dummy.clone() })
    }
}

impl Turn {
    /// Whether `password` is the one of `stored`, a hash in PHC string format. Without `stored` it takes as long and
    /// says no.
    pub async fn verify(self, password: Password, stored: Option<String>) -> Result<bool, PasswordError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy.to_string());
        let matches = self
            .blocking(move |memory| {
                let possible = password.is_short_enough();
                let candidate = if possible { password.0.as_str() } else { "" };
                let matches = phc::verify(candidate, &stored, memory)?;
                Ok(possible && matches)
            })
            .await?;
        Ok(known && matches)
    }

    /// The hash of a new password.
    pub async fn hash(self, password: Password) -> Result<String, PasswordError> {
        self.blocking(move |memory| phc::hash(&password.0, memory)).await
    }

    /// Runs on one of the threads. The turn ends with the work, even if nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Memory) -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let Self { workers, _admitted: admitted, running, dummy: _ } = self;
        let outcome = workers.run(move |memory| {
            let outcome = work(memory);
            drop((admitted, running));
            outcome
        });
        outcome.await.ok_or_else(|| PasswordError::Hash("the thread gave no answer".into()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_password_is_accepted_and_bad_ones_are_not() {
        assert_eq!(Password::new("password").check_new("newuser"), Ok(()));
        assert_eq!(Password::new("비밀번호입니다만").check_new("x"), Ok(()));
        assert!(Password::new("short").check_new("x").is_err());
        assert!(Password::new("Adminadmin").check_new("adminADMIN").is_err());
        assert!(Password::new(&"x".repeat(257)).check_new("x").is_err());
    }

    #[test]
    fn does_not_print() {
        assert!(!format!("{:?}", Password::new("hunter42")).contains("hunter"));
    }

    #[tokio::test]
    async fn verifies() {
        let pool = Passwords::new(1, 1).unwrap();
        let stored = pool.turn().await.unwrap().hash(Password::new("password")).await.unwrap();
        let ask = async |text: &str, stored: Option<&String>| {
            pool.turn().await.unwrap().verify(Password::new(text), stored.cloned()).await.unwrap()
        };
        assert!(ask("password", Some(&stored)).await);
        assert!(!ask("Password", Some(&stored)).await);
        assert!(!ask("password", None).await);
    }

    #[tokio::test]
    async fn a_long_password_is_not_its_own_beginning() {
        let pool = Passwords::new(1, 0).unwrap();
        let long = "x".repeat(256);
        let stored = pool.turn().await.unwrap().hash(Password::new(&long)).await.unwrap();
        let longer = Password::new(&format!("{long}y"));
        assert!(!pool.turn().await.unwrap().verify(longer, Some(stored)).await.unwrap());
    }

    #[tokio::test]
    async fn who_finds_the_queue_full_is_told_so() {
        let pool = Passwords::new(1, 0).unwrap();
        let turn = pool.turn().await.unwrap();
        assert!(matches!(pool.turn().await, Err(PasswordError::Busy)));
        drop(turn);
        assert!(pool.turn().await.is_ok());
    }
}
