//! The Secret with what cloud-init in a guest is told. It belongs to the virtual machine and goes with it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use kvmoor_crds::guest_data::{NETWORK_DATA_KEY, USER_DATA_KEY};
use kvmoor_crds::{CloudInit, SecretKeyReference, VirtualMachine, names};

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};

/// What cloud-init is told, checked.
#[derive(Clone, Default)]
pub struct GuestData {
    /// User data.
    pub user_data: Option<String>,
    /// Network configuration.
    pub network_config: Option<String>,
}

/// Sizes only: it may hold passwords.
impl fmt::Debug for GuestData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |text: &Option<String>| text.as_ref().map(String::len);
        formatter
            .debug_struct("GuestData")
            .field("user_data_bytes", &size(&self.user_data))
            .field("network_config_bytes", &size(&self.network_config))
            .finish()
    }
}

impl GuestData {
    fn entries(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let user_data = self.user_data.iter().map(|text| (USER_DATA_KEY, text));
        user_data.chain(self.network_config.iter().map(|text| (NETWORK_DATA_KEY, text)))
    }
}

/// The part of the spec: keys, and references to the Secret that is going to be there.
pub fn cloud_init(vm_object: &str, data: &GuestData, ssh_authorized_keys: &[String]) -> Option<CloudInit> {
    let reference = |data: &Option<String>| {
        data.as_ref().map(|_| SecretKeyReference { name: names::guest_data_secret(vm_object), key: None })
    };
    let cloud_init = CloudInit {
        ssh_authorized_keys: ssh_authorized_keys.to_vec(),
        user_data_secret_ref: reference(&data.user_data),
        network_data_secret_ref: reference(&data.network_config),
    };
    (cloud_init != CloudInit::default()).then_some(cloud_init)
}

/// Stores what a new virtual machine is told.
pub async fn store(app: &App, vm: &VirtualMachine, data: &GuestData) -> Result<(), ApiError> {
    let data: BTreeMap<String, ByteString> =
        data.entries().map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    if data.is_empty() {
        return Ok(());
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::guest_data_secret(&vm.name_any())),
            owner_references: Some(vec![owner(vm)]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("kvmoor.dev/guest-data".to_owned()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(app.client.clone(), &vm.namespace().unwrap_or_default());
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    secrets.create(&params, &secret).await.map(drop).map_err(|error| from_kube(Noun::Vm, error))
}

fn owner(vm: &VirtualMachine) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: vm.name_any(),
        uid: vm.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_shows_sizes_only() {
        let data = GuestData { user_data: Some("password".into()), network_config: None };
        assert_eq!(format!("{data:?}"), "GuestData { user_data_bytes: Some(8), network_config_bytes: None }");
    }
}
