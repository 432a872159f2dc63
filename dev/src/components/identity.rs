//! What a component proves its identity with: a token of its own service account, and a kubeconfig that names it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Node, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use kvmoor_crds::{agent, guest_data};

use super::SYSTEM_NAMESPACE;
use crate::{
    control_plane::{
        ControlPlane,
        kubeconfig::{self, Identity},
    },
    files,
};

/// A token is good for a day; [`Credentials::renew`] is due well before.
const LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// A service account's token in a file, with a kubeconfig that reads it.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    account: &'static str,
    /// The Node that the token is bound to.
    node: Option<String>,
    kubeconfig: PathBuf,
    token: PathBuf,
    /// Of a node's: the token for the cluster controller.
    cluster_token: PathBuf,
    /// Of a node's: the token for other hosts.
    peer_token: PathBuf,
}

impl Credentials {
    /// Makes token and kubeconfig in `dir` for the component `name`.
    pub(super) async fn make(
        plane: &ControlPlane,
        client: &Client,
        dir: &Path,
        name: &str,
        account: &'static str,
        node: Option<String>,
    ) -> Result<Self> {
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        let token = dir.join(format!("{name}.token"));
        let cluster_token = dir.join(format!("{name}.cluster-token"));
        let peer_token = dir.join(format!("{name}.peer-token"));
        let credentials = Self { account, node, kubeconfig, token, cluster_token, peer_token };
        credentials.renew(client).await?;
        let identity = Identity::TokenFile(&credentials.token);
        kubeconfig::write(&credentials.kubeconfig, &plane.server(), &plane.authority(), &identity)?;
        Ok(credentials)
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(super) fn cluster_token(&self) -> &Path {
        &self.cluster_token
    }

    pub(super) fn peer_token(&self) -> &Path {
        &self.peer_token
    }

    /// Asks for a new token and puts it in the place of the old one. Clients read the file again by themselves.
    pub(crate) async fn renew(&self, client: &Client) -> Result<()> {
        let context = || format!("a token for {}", self.account);
        let token = self.request(client, Vec::new()).await.with_context(context)?;
        files::write_private(&self.token, token)?;
        if self.node.is_some() {
            for (audience, file) in
                [(guest_data::AUDIENCE, &self.cluster_token), (agent::PEER_AUDIENCE, &self.peer_token)]
            {
                let token = self.request(client, vec![audience.to_owned()]).await.with_context(context)?;
                files::write_private(file, token)?;
            }
        }
        Ok(())
    }

    async fn request(&self, client: &Client, audiences: Vec<String>) -> Result<String> {
        let bound_object_ref = match &self.node {
            Some(name) => Some(node_reference(client, name).await?),
            None => None,
        };
        let spec = TokenRequestSpec { audiences, bound_object_ref, expiration_seconds: Some(LIFETIME_SECONDS) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let answer = accounts.create_token_request(self.account, &PostParams::default(), &request).await?;
        Ok(answer.status.context("the answer has no status")?.token)
    }
}

async fn node_reference(client: &Client, name: &str) -> Result<BoundObjectReference> {
    let node = Api::<Node>::all(client.clone()).get(name).await.with_context(|| format!("get node {name}"))?;
    Ok(BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: node.metadata.uid,
    })
}
