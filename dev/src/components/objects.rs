//! The objects that an installation consists of: definitions, rights, policies, nodes, secrets and the image `tiny`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};
use kvmoor_crds::names;
use serde_json::{Value, json};

use super::{
    SYSTEM_NAMESPACE,
    apply::{apply, apply_crds},
    checkout,
};
use crate::{cluster::Admin, random};

/// The name of the image that every cluster has.
pub const TINY: &str = "tiny";

/// Applies all of it; repeatable.
pub(super) async fn install(client: &Client, nodes: &[String], admin: &Admin) -> Result<()> {
    apply_crds(client, checkout::documents("crds")?).await?;
    apply(client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE } })).await?;
    for document in checkout::documents("rbac")?.into_iter().chain(checkout::documents("policies")?) {
        apply(client, document).await?;
    }
    for name in nodes {
        apply(client, node(name)).await?;
    }
    signing_key(client).await?;
    let data = json!({ "username": admin.username, "password": admin.password });
    apply(client, secret(names::ADMIN_SECRET, json!({}), data)).await?;
    Ok(())
}

/// Declares the image that [`crate::image::upload`] puts into each host's pool.
pub(crate) async fn tiny_image(client: &Client) -> Result<()> {
    let image = json!({
        "apiVersion": "kvmoor.dev/v1alpha1",
        "kind": "Image",
        "metadata": { "name": TINY },
        "spec": { "displayName": "Tiny Linux", "builtIn": true, "format": "qcow2", "architecture": "x86_64" },
    });
    apply(client, image).await?;
    Ok(())
}

fn node(name: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
    });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } })
}

fn secret(name: &str, annotations: Value, data: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": SYSTEM_NAMESPACE, "annotations": annotations },
        "stringData": data,
    })
}

/// The key that signs sessions; kept when it is there, or everybody would be logged out.
async fn signing_key(client: &Client) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    if secrets.get_opt(names::JWT_SECRET).await.context("get the signing keys")?.is_some() {
        return Ok(());
    }
    const KEY: &str = "k1";
    let data = BTreeMap::from([(KEY, ByteString(random::key().to_vec()))]);
    let mut secret = secret(names::JWT_SECRET, json!({ names::CURRENT_KEY_ANNOTATION: KEY }), json!({}));
    if let Some(object) = secret.as_object_mut() {
        object.insert("data".into(), json!(data));
    }
    apply(client, secret).await?;
    Ok(())
}
