//! Creating a virtual machine: the object is written, the cluster controller counts it against the quota and gives it
//! its number, and only then is there an answer. What is refused is taken back; should this server die before, the cluster
//! controller does that, by an annotation.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use kvmoor_crds::{PowerState, RootDisk, VirtualMachine, VirtualMachineSpec, names, quantity};
use serde_json::json;

use super::clone::CloneOf;
use super::disks::NewDisk;
use super::guest_data::{self, GuestData};
use super::name;
use super::verdict::{Verdict, refusal};
use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};
use crate::store::Stored;

/// How long the cluster controller may take to admit or refuse.
pub const ADMISSION: Duration = Duration::from_secs(5);
/// How long an answer waits at most for the cache to have forgotten what was taken back.
const GONE: Duration = Duration::from_secs(2);
/// Fresh names tried when one is taken.
const NAMES: u32 = 3;

/// A virtual machine to create, checked.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// Name for people.
    pub name: String,
    /// CPUs and memory.
    pub size: Size,
    /// Image.
    pub os_type: Option<String>,
    /// Size of the root disk in MiB.
    pub disk: Option<u64>,
    /// Disks beside it.
    pub disks: Vec<NewDisk>,
    /// Public keys for the guest's account.
    pub ssh_authorized_keys: Vec<String>,
    /// What cloud-init is to be told beyond that.
    pub guest_data: GuestData,
    /// Whether to start it.
    pub start: bool,
    /// What it is a clone of; what that says of disks and networks holds then.
    pub clone_of: Option<CloneOf>,
}

/// CPUs and memory of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// In numbers.
    Numbers {
        /// Virtual CPUs.
        cpu: i32,
        /// Memory in MiB.
        memory: u64,
    },
    /// Those of a class.
    Class(String),
}

impl NewVm {
    /// The object, with a fresh name.
    fn object(&self) -> Result<VirtualMachine, ApiError> {
        // Through JSON, so that everything not asked for here has the default that the schema has.
        let minimal = match &self.size {
            Size::Numbers { cpu, memory } => json!({ "cpu": cpu, "memory": quantity::from_mib(*memory) }),
            Size::Class(class) => json!({ "className": class }),
        };
        let defaults: VirtualMachineSpec = serde_json::from_value(minimal).map_err(ApiError::internal)?;
        let spec = VirtualMachineSpec {
            display_name: Some(self.name.clone()),
            os_type: self.os_type.clone(),
            disk: self.disk.map(|mib| RootDisk { size: Some(quantity::from_mib(mib)) }),
            disks: self.disks.iter().map(NewDisk::in_spec).collect(),
            power_state: if self.start { PowerState::Running } else { PowerState::Stopped },
            ..defaults
        };
        let spec = match &self.clone_of {
            None => spec,
            Some(clone_of) => clone_of.complete(spec),
        };
        let mut object = VirtualMachine::new(&name::generate(&self.name), spec);
        let cloud_init = guest_data::cloud_init(&object.name_any(), &self.guest_data, &self.ssh_authorized_keys);
        object.spec.cloud_init = cloud_init;
        object.annotations_mut().insert(names::REFUSE_OVER_QUOTA_ANNOTATION.to_owned(), "true".to_owned());
        Ok(object)
    }
}

/// Creates `new` in `namespace` and answers when it is admitted and has its number. Not to be dropped before its end:
/// what is refused would stay.
pub async fn create(app: &App, namespace: &str, new: &NewVm) -> Result<Arc<VirtualMachine>, ApiError> {
    let api: Api<VirtualMachine> = Api::namespaced(app.client.clone(), namespace);
    let created = post(app, &api, new).await?;
    let uid = created.uid().unwrap_or_default();
    // At once, so that it is there when the host asks for it.
    if let Err(error) = guest_data::store(app, &created, &new.guest_data).await {
        take_back(&api, &created.name_any(), Some(uid)).await;
        return Err(error);
    }
    let generation = created.metadata.generation.unwrap_or_default();
    let outcome = app
        .stores
        .vms()?
        .wait(ADMISSION, |vms| {
            let vm = vms.by_uid(&uid)?;
            match Verdict::of(vm, generation)? {
                Verdict::Admitted if vm.id().is_none() => None,
                Verdict::Admitted => Some(Ok(vm.clone())),
                Verdict::Refused { reason, message } => Some(Err(refusal(&reason, message))),
            }
        })
        .await;
    let late = || ApiError::unavailable("No cluster controller has admitted the VM in time; it was not created");
    match outcome.unwrap_or_else(|| Err(late())) {
        Ok(vm) => Ok(vm),
        Err(error) => {
            take_back(&api, &created.name_any(), Some(uid.clone())).await;
            // What the caller is told not to have must not be in its next listing.
            app.stores.vms()?.wait(GONE, |vms| vms.by_uid(&uid).is_none().then_some(())).await;
            Err(error)
        }
    }
}

async fn post(app: &App, api: &Api<VirtualMachine>, new: &NewVm) -> Result<VirtualMachine, ApiError> {
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    let mut left = NAMES;
    loop {
        let object = new.object()?;
        left = left.saturating_sub(1);
        match api.create(&params, &object).await {
            Ok(created) => return Ok(created),
            Err(kube::Error::Api(status)) if status.is_already_exists() && left > 0 => {}
            Err(error) => {
                if may_have_happened(&error) {
                    // The name is of this request alone, so whatever has it by now is what was asked for here.
                    let (api, name) = (api.clone(), object.name_any());
                    app.tasks.spawn(async move { take_back(&api, &name, None).await });
                }
                return Err(from_kube(Noun::Vm, error));
            }
        }
    }
}

/// Whether a write that failed may have been done all the same: there was no answer, or one that does not say.
fn may_have_happened(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Deletes what the caller is told not to have.
async fn take_back(api: &Api<VirtualMachine>, name: &str, uid: Option<String>) {
    let params = DeleteParams {
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    for pause in [50, 500, 2000] {
        match api.delete(name, &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return,
            Err(error) => {
                let error = crate::error::describe(&error);
                tracing::warn!(vm.name = name, error, "cannot take back a virtual machine yet");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
    tracing::error!(vm.name = name, "a virtual machine stays that its caller was told not to have");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_example_becomes_an_object() {
        let new = NewVm {
            name: "My VM".into(),
            size: Size::Numbers { cpu: 2, memory: 2048 },
            os_type: Some("ubuntu-desktop".into()),
            disk: None,
            disks: vec![NewDisk { name: "data".into(), size: 1024 }],
            ssh_authorized_keys: vec![],
            guest_data: GuestData::default(),
            start: true,
            clone_of: None,
        };
        let object = new.object().unwrap();
        assert!(object.name_any().starts_with("my-vm-"));
        assert_eq!(object.annotations()["kvmoor.dev/refuse-over-quota"], "true");
        let spec = serde_json::to_value(&object.spec).unwrap();
        assert_eq!(spec.get("displayName"), Some(&json!("My VM")));
        assert_eq!(spec.get("memory"), Some(&json!("2Gi")));
        assert_eq!(spec.get("powerState"), Some(&json!("Running")));
        assert_eq!(spec.get("cloudInit"), None);
        assert_eq!(spec.get("disks"), Some(&json!([{ "name": "data", "size": "1Gi" }])));
        assert_eq!(spec.get("networks"), Some(&json!([{ "name": "default", "type": "Nat" }])));
        let told = GuestData { user_data: Some("#!/bin/sh".into()), network_config: None };
        let told = NewVm { guest_data: told, ..new.clone() }.object().unwrap();
        let spec = serde_json::to_string(&told.spec).unwrap();
        assert!(!spec.contains("/bin/sh"), "user data is in no custom resource: {spec}");
        let reference = told.spec.cloud_init.clone().unwrap().user_data_secret_ref.unwrap();
        assert_eq!(reference.name, names::guest_data_secret(&told.name_any()));
        let off = NewVm { start: false, size: Size::Class("small".into()), ..new }.object().unwrap();
        assert_eq!(off.spec.power_state, PowerState::Stopped);
        let spec = serde_json::to_value(&off.spec).unwrap();
        assert_eq!((spec.get("className"), spec.get("cpu"), spec.get("memory")), (Some(&json!("small")), None, None));
    }
}
