//! Server-side apply of whatever object a file holds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::time::timeout;

const MANAGER: &str = "kvmoor-dev";
const REQUEST: Duration = Duration::from_secs(30);
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Applies one object. Its place is cluster-wide unless it names a namespace.
pub(super) async fn apply(client: &Client, document: Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(document)?;
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let name = object.metadata.name.clone().context("an object without a name")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(MANAGER).force();
    let applied = timeout(REQUEST, api.patch(&name, &params, &Patch::Apply(&object))).await;
    let what = || format!("apply {} {name}", types.kind);
    applied.with_context(what)?.with_context(what)
}

/// Applies CustomResourceDefinitions and waits until the API serves them.
pub(super) async fn apply_crds(client: &Client, documents: Vec<Value>) -> Result<()> {
    let mut names = Vec::new();
    for document in documents {
        names.extend(apply(client, document).await?.metadata.name);
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in names {
        let established = await_condition(api.clone(), &name, is_crd_established());
        timeout(ESTABLISHED, established).await.with_context(|| format!("{name} is not established"))??;
    }
    Ok(())
}
