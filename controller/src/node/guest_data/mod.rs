//! What a guest is to be told beyond its spec, asked of the cluster controller whenever a seed is to be written. Nothing
//! is kept, and this host has no right to read it anywhere else.

mod call;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kvmoor_crds::guest_data::{ADDRESS_ANNOTATION, Answer, CERTIFICATE_ANNOTATION, GuestData, Lack, SERVER_NAME};
use kvmoor_crds::names;
use kvmoor_crds::pinned::Endpoint;

use super::desired::Identity;
use call::CallError;

/// How long it may take in all.
const DEADLINE: Duration = Duration::from_secs(8);

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Told {
    /// Nobody asked, since no seed is to be written.
    #[default]
    NotAsked,
    /// All of it.
    Data(GuestData),
    /// Something that the spec names is not there, or not good.
    Lack(Lack),
    /// The cluster controller does not say; the text says why.
    Silent(String),
}

/// The cluster controller, as a source of guests' data.
pub struct Source {
    leases: Api<Lease>,
    token_file: PathBuf,
    known: Mutex<Option<Endpoint>>,
}

impl Source {
    /// The leader of that installation, to which this host proves itself by the token in that file.
    pub fn new(client: Client, system_namespace: &str, token_file: PathBuf) -> Self {
        Self { leases: Api::namespaced(client, system_namespace), token_file, known: Mutex::default() }
    }

    /// What a guest is to be told.
    pub async fn of(&self, vm: &Identity) -> Told {
        match tokio::time::timeout(DEADLINE, self.ask(vm)).await {
            Ok(Ok(Answer::Data(data))) => Told::Data(data),
            Ok(Ok(Answer::Lack(lack))) => Told::Lack(lack),
            Ok(Err(error)) => {
                tracing::warn!(vm.uid = vm.uid, %error, "cannot ask what the guest is to be told");
                Told::Silent(error.to_string())
            }
            Err(_) => Told::Silent(format!("no answer within {} s", DEADLINE.as_secs())),
        }
    }

    async fn ask(&self, vm: &Identity) -> Result<Answer, CallError> {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(endpoint) = known {
            match call::get(&endpoint, &self.token_file, vm).await {
                // Another may lead by now.
                Err(CallError::Unreachable(_)) => {}
                outcome => return outcome,
            }
        }
        let endpoint = self.look_up().await?;
        *self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(endpoint.clone());
        call::get(&endpoint, &self.token_file, vm).await
    }

    async fn look_up(&self) -> Result<Endpoint, CallError> {
        let lease =
            self.leases.get_opt(names::LEADER_LEASE).await.map_err(|error| CallError::Lease(error.to_string()))?;
        let annotations = lease.and_then(|lease| lease.metadata.annotations).unwrap_or_default();
        let of = |key: &str| annotations.get(key).cloned();
        let told = of(ADDRESS_ANNOTATION).as_deref().and_then(split);
        match (told, of(CERTIFICATE_ANNOTATION)) {
            (Some((address, port)), Some(certificate)) => {
                Ok(Endpoint { address, port, certificate, server_name: SERVER_NAME })
            }
            _ => Err(CallError::Lease("no cluster controller has told where it listens".to_owned())),
        }
    }
}

/// The address, or the name, and the port that the annotation has.
fn split(text: &str) -> Option<(String, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), address.port()));
    }
    let (name, port) = text.rsplit_once(':')?;
    Some((name.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_at_an_address_or_a_name() {
        let split = |text| split(text).map(|(address, port)| format!("{address} {port}"));
        assert_eq!(split("192.0.2.1:18447").as_deref(), Some("192.0.2.1 18447"));
        assert_eq!(split("[2001:db8::1]:18447").as_deref(), Some("2001:db8::1 18447"));
        assert_eq!(split("leader.example.org:18447").as_deref(), Some("leader.example.org 18447"));
        assert_eq!(split("leader.example.org"), None);
        assert_eq!(split("leader.example.org:x"), None);
    }
}
