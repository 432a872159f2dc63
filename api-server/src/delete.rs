//! Deleting the object that the caller has seen, and none that has its name by now.

use std::fmt::Debug;

use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Noun, from_kube};

/// Deletes exactly this object. One that is being deleted or just gone is no error.
pub async fn delete_exactly<K>(api: &Api<K>, object: &K, noun: Noun) -> Result<(), ApiError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    match api.delete(&object.name_any(), &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(from_kube(noun, error)),
    }
}
