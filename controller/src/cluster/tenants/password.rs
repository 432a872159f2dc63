//! The Secret with an admin's password hash, made from the Secret with its password.
//!
//! Beside the hash that logins are checked against, which the admin may change, it keeps that of the password it was last
//! made from. So labels that an upgrade writes to the Secret with the password change nothing, and another password does.

use std::collections::BTreeMap;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kvmoor_crds::names;

use super::admin::Credentials;
use super::plan::MANAGED_BY;
use crate::cluster::writer::{WriteError, Writer};

/// Why a password was not set.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The Secret cannot be read or written.
    #[error("cannot access the Secret with the password's hash")]
    Access(#[from] WriteError),
    /// The password cannot be hashed.
    #[error("cannot hash the password: {0}")]
    Hash(String),
    /// The task that hashes died.
    #[error("the task that hashes the password died")]
    Died(#[from] tokio::task::JoinError),
}

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// No hash.
    Nothing,
    /// The hash of the password in the Secret, or what the admin made of it since.
    Current,
    /// The hash of another password.
    Other,
}

/// Whether there is a hash, and whether it was made from the password that is in the Secret now.
///
/// # Errors
/// When the Secret with the hash cannot be read.
pub async fn look(
    writer: &Writer,
    namespace: &str,
    user_object: &str,
    credentials: &Credentials,
) -> Result<Present, PasswordError> {
    let api: Api<Secret> = Api::namespaced(writer.client(), namespace);
    let Some(secret) = writer.read(api.get_opt(&names::password_secret(user_object))).await? else {
        return Ok(Present::Nothing);
    };
    let source = secret.data.and_then(|mut data| data.remove(names::PASSWORD_SOURCE_KEY));
    let password = credentials.password.clone();
    let is_current =
        tokio::task::spawn_blocking(move || source.is_some_and(|source| is_of(&source.0, &password))).await?;
    Ok(if is_current { Present::Current } else { Present::Other })
}

/// Writes the hash of the password.
///
/// # Errors
/// When that is not known to have been done.
pub async fn set(
    writer: &Writer,
    namespace: &str,
    user_object: &str,
    credentials: &Credentials,
) -> Result<(), PasswordError> {
    let api: Api<Secret> = Api::namespaced(writer.client(), namespace);
    let name = names::password_secret(user_object);
    let password = credentials.password.clone();
    let hash = tokio::task::spawn_blocking(move || hash(&password)).await??;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(
            [names::PASSWORD_HASH_KEY, names::PASSWORD_SOURCE_KEY]
                .map(|key| (key.to_owned(), ByteString(hash.clone().into_bytes())))
                .into(),
        ),
        ..Secret::default()
    };
    // Forced: the API server writes the hash too, when the admin changes the password.
    let params = PatchParams::apply(names::CLUSTER_MANAGER).force();
    writer.write(api.patch(&name, &params, &Patch::Apply(secret))).await?;
    Ok(())
}

/// Argon2id with m=19456, t=2, p=1, which are the crate's defaults and the API server's.
fn hash(password: &str) -> Result<String, PasswordError> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| PasswordError::Hash(error.to_string()))
}

/// Whether that is the hash of the password.
fn is_of(hash: &[u8], password: &str) -> bool {
    let hash = std::str::from_utf8(hash).ok().and_then(|text| PasswordHash::new(text).ok());
    hash.is_some_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_known_by_its_password() {
        let made = hash("correct horse").unwrap();
        assert!(is_of(made.as_bytes(), "correct horse"));
        assert!(!is_of(made.as_bytes(), "battery staple"));
        assert!(!is_of(b"", ""), "no hash is of no password");
    }

    #[test]
    fn hashes_as_agreed() {
        let first = hash("correct horse").unwrap();
        assert!(first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{first}");
        assert_ne!(first, hash("correct horse").unwrap());
    }
}
