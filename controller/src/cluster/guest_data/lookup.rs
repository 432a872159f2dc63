//! Reads what one virtual machine needs from the Kubernetes API.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client};
use kvmoor_crds::guest_data::{Answer, GuestData, Lack, LackKind};
use kvmoor_crds::{SecretKeyReference, User, VirtualMachine, names};

use super::Wanted;
use super::pick::{self, Kind};
use crate::https::answer::Refusal;

/// How long the Kubernetes API may take for one answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Reads.
pub struct Lookup {
    client: Client,
    system_namespace: String,
}

impl Lookup {
    /// For the installation in that namespace.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self { client, system_namespace: system_namespace.to_owned() }
    }

    /// What a virtual machine needs, if it is bound to `node`.
    pub async fn data(&self, node: &str, wanted: Wanted<'_>) -> Result<Answer, Refusal> {
        let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), wanted.namespace);
        let (vm, keys) = tokio::join!(read(vms.get_opt(wanted.name)), self.keys(wanted.namespace));
        let vm = vm?.ok_or_else(Refusal::not_found)?;
        pick::belongs_to(&vm, wanted.uid, node)?;
        let cloud_init = vm.spec.cloud_init.unwrap_or_default();
        let (user, network) = tokio::join!(
            self.secret(wanted.namespace, cloud_init.user_data_secret_ref.as_ref(), Kind::UserData),
            self.secret(wanted.namespace, cloud_init.network_data_secret_ref.as_ref(), Kind::NetworkData),
        );
        let (user_data, network_data) = match (user?, network?) {
            (Ok(user_data), Ok(network_data)) => (user_data, network_data),
            (Err(lack), _) | (_, Err(lack)) => return Ok(Answer::Lack(lack)),
        };
        Ok(Answer::Data(GuestData { user_data, network_data, ssh_authorized_keys: keys? }))
    }

    /// Keys of the user that the namespace belongs to.
    async fn keys(&self, namespace: &str) -> Result<Vec<String>, Refusal> {
        let Some(object) = names::user_of_namespace(namespace) else { return Ok(Vec::new()) };
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let users: Api<User> = Api::all(self.client.clone());
        let (namespace, user) = tokio::join!(read(namespaces.get_opt(namespace)), read(users.get_opt(object)));
        Ok(pick::keys(namespace?.as_ref(), user?))
    }

    async fn secret(
        &self,
        namespace: &str,
        reference: Option<&SecretKeyReference>,
        kind: Kind,
    ) -> Result<Result<Option<ByteString>, Lack>, Refusal> {
        let Some(reference) = reference else { return Ok(Ok(None)) };
        if namespace == self.system_namespace {
            let message = format!("Guests are told nothing of the Secrets in namespace {namespace}; use another one");
            return Ok(Err(Lack { kind: LackKind::Missing, message }));
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = read(secrets.get_opt(&reference.name)).await?;
        Ok(pick::value(secret, reference, kind).map(Some))
    }
}

async fn read<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            // The text of an error of the Kubernetes API has names, never what a Secret holds.
            tracing::warn!(%error, "cannot read what a guest is to be told");
            Err(Refusal::unavailable("the Kubernetes API does not give what the guest is to be told"))
        }
        Err(_) => Err(Refusal::unavailable("the Kubernetes API does not give in time what the guest is to be told")),
    }
}
