//! `POST /api/vms/{id}/clone`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kube::ResourceExt;
use serde::Deserialize;
use utoipa::ToSchema;

use super::create::{SshKey, keys, yes};
use super::show;
use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::Vm;
use crate::number::{optional_whole, some_whole};
use crate::openapi::OverQuota;
use crate::vm::clone::{NewClone, prepare};
use crate::vm::create::create;
use crate::vm::validate;

/// A clone to make. What is left out is as its source has it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CloneVM)]
pub struct CloneVm {
    /// Name for people, free text.
    #[schema(
        example = "My VM 2",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: String,
    /// Number of a snapshot of the virtual machine: the disks are as they were then. Without it, as they are.
    #[schema(example = 1, minimum = 1)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub snapshot_id: Option<i64>,
    /// Virtual CPUs.
    #[schema(example = 2, minimum = 1, maximum = 512, nullable = false)]
    #[serde(default, deserialize_with = "some_whole")]
    pub cpu: Option<i64>,
    /// Memory in MiB.
    #[schema(example = 2048, minimum = 16, maximum = 16777216, nullable = false)]
    #[serde(default, deserialize_with = "some_whole")]
    pub memory: Option<i64>,
    /// Size of the disk in MiB; at least the source's.
    #[schema(example = 20480, minimum = 1, maximum = 67108864)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub disk: Option<i64>,
    /// Public keys that may log in to the guest, in the format of authorized_keys.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub ssh_authorized_keys: Option<Vec<SshKey>>,
    /// What cloud-init in the guest is told. It is not the source's where it is left out: what came of that is in the
    /// disks.
    #[schema(example = "#cloud-config\nruncmd: [[touch, /hello]]\n", max_length = 524288)]
    pub user_data: Option<String>,
    /// Network configuration for cloud-init. Without it every interface asks for an address by DHCP.
    #[schema(max_length = 65536)]
    pub network_config: Option<String>,
    /// Whether to start it when it has its disks.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub start: bool,
}

impl CloneVm {
    fn check(self) -> Result<NewClone, ApiError> {
        let Self { name, snapshot_id, cpu, memory, disk, ssh_authorized_keys, user_data, network_config, start } = self;
        validate::name(&name)?;
        Ok(NewClone {
            name,
            snapshot_id,
            cpu: cpu.map(validate::cpu).transpose()?,
            memory: memory.map(validate::memory).transpose()?,
            disk: disk.map(validate::disk).transpose()?,
            ssh_authorized_keys: ssh_authorized_keys.map(keys).transpose()?,
            guest_data: validate::guest_data(user_data, network_config)?,
            start,
        })
    }
}

/// Clone a virtual machine that is off, and start the clone
///
/// It belongs to whom its source belongs to, and begins with copies of all its disks. Until they are copied, which
/// `message` tells of, the source is not started.
#[utoipa::path(
    post,
    path = "/vms/{id}/clone",
    operation_id = "clone_vm",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    request_body = CloneVm,
    responses(
        (status = 201, description = "The clone, within quota; its disks are copied, then it starts", body = Vm),
        OverQuota,
        (status = 409, description = "The virtual machine is not off, the snapshot is not taken, or the disk of the clone is to be smaller", body = ErrorBody),
    )
)]
pub async fn clone_vm(
    State(app): State<AppState>,
    target: OwnedVm,
    Body(body): Body<CloneVm>,
) -> Result<(StatusCode, Json<Vm>), ApiError> {
    let new = prepare(&app, &target.vm, body.check()?).await?;
    let namespace = target.vm.namespace().unwrap_or_default();
    let work = app.clone();
    let vm = app.to_completion(async move { create(&work, &namespace, &new).await }).await?;
    Ok((StatusCode::CREATED, show(&app, &vm)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_checked() {
        let check = |body: serde_json::Value| {
            let body: CloneVm = serde_json::from_value(body).map_err(|error| error.to_string())?;
            body.check().map_err(|error| error.to_string())
        };
        let new = check(json!({ "name": "copy" })).unwrap();
        assert!(new.start && new.cpu.is_none() && new.snapshot_id.is_none() && new.ssh_authorized_keys.is_none());
        assert_eq!(check(json!({ "name": "copy", "cpu": 0 })).unwrap_err(), "CPU must be greater than 0");
        assert!(check(json!({ "name": " " })).is_err());
        assert!(check(json!({ "cpu": 1 })).unwrap_err().contains("missing field"));
        assert!(check(json!({ "name": "x", "os_type": "tiny" })).unwrap_err().contains("unknown field"));
        assert!(check(json!({ "name": "x", "memory": null })).is_err());
    }
}
