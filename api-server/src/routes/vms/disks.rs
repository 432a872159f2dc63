//! `POST /api/vms/{id}/disks`, `PUT` and `DELETE /api/vms/{id}/disks/{disk}`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kube::ResourceExt;
use serde::Deserialize;
use utoipa::ToSchema;

use super::show;
use crate::app::{App, AppState};
use crate::auth::extract::{OwnedDisk, OwnedVm};
use crate::error::{ApiError, ErrorBody, Noun};
use crate::extract::Body;
use crate::model::Vm;
use crate::number::whole;
use crate::openapi::OverQuota;
use crate::snapshot::vm_of;
use crate::vm::disks::NewDisk;
use crate::vm::resize::{Change, resize};
use crate::vm::validate;

/// A disk to attach.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewDisk)]
pub struct NewDiskBody {
    /// Its name, unique in the virtual machine; the guest sees its first 20 characters as the serial number.
    #[schema(example = "data", min_length = 1, max_length = 32, pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    pub name: String,
    /// Size in MiB.
    #[schema(example = 10240, minimum = 1, maximum = 67108864)]
    #[serde(deserialize_with = "whole")]
    pub size: i64,
}

/// The size of a disk.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GrowDisk)]
pub struct GrowDiskBody {
    /// Size in MiB, no smaller than it is.
    #[schema(example = 20480, minimum = 1, maximum = 67108864)]
    #[serde(deserialize_with = "whole")]
    pub size: i64,
}

impl NewDiskBody {
    fn check(self) -> Result<NewDisk, ApiError> {
        validate::disk_name(&self.name)?;
        Ok(NewDisk { name: self.name, size: validate::disk(self.size)? })
    }
}

/// The disks of a virtual machine to create, checked.
pub fn check_disks(disks: Vec<NewDiskBody>) -> Result<Vec<NewDisk>, ApiError> {
    let disks = disks.into_iter().map(NewDiskBody::check).collect::<Result<Vec<_>, _>>()?;
    if disks.len() > crate::vm::disks::MOST {
        return Err(ApiError::Invalid(format!("disks must hold at most {} disks", crate::vm::disks::MOST)));
    }
    let mut names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
        // No schema can say it.
        Some(twice) => Err(ApiError::Conflict(format!("disks names {twice} more than once"))),
        None => Ok(disks),
    }
}

/// Attach a new disk to a virtual machine, also while it runs
///
/// It is blank. One of that name and size that is there already is no error.
#[utoipa::path(
    post,
    path = "/vms/{id}/disks",
    operation_id = "attach_disk",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    request_body = NewDiskBody,
    responses(
        (status = 201, description = "The virtual machine; the guest soon has the disk", body = Vm),
        OverQuota,
        (status = 409, description = "It has a disk of that name, or as many as it can have, or is being deleted", body = ErrorBody),
    )
)]
pub async fn attach_disk(
    State(app): State<AppState>,
    target: OwnedVm,
    Body(body): Body<NewDiskBody>,
) -> Result<(StatusCode, Json<Vm>), ApiError> {
    let change = Change::Attach(body.check()?);
    Ok((StatusCode::CREATED, changed(app, target, change).await?))
}

/// Grow a disk of a virtual machine, also while it runs
///
/// The root disk grows by the action resize.
#[utoipa::path(
    put,
    path = "/vms/{id}/disks/{disk}",
    operation_id = "grow_disk",
    tag = "vms",
    security(("bearer" = [])),
    params(
        ("id" = i64, Path, description = "Number of the virtual machine", minimum = 1),
        ("disk" = String, Path, description = "Name of the disk"),
    ),
    request_body = GrowDiskBody,
    responses(
        (status = 200, description = "The virtual machine; the guest soon sees the size", body = Vm),
        OverQuota,
        (status = 409, description = "The disk is larger, or the virtual machine is being deleted", body = ErrorBody),
    )
)]
pub async fn grow_disk(
    State(app): State<AppState>,
    OwnedDisk { vm: target, disk }: OwnedDisk,
    Body(body): Body<GrowDiskBody>,
) -> Result<Json<Vm>, ApiError> {
    let change = Change::Grow(NewDisk { name: disk, size: validate::disk(body.size)? });
    changed(app, target, change).await
}

/// Detach a disk from a virtual machine, also while it runs, and delete it with its data
#[utoipa::path(
    delete,
    path = "/vms/{id}/disks/{disk}",
    operation_id = "detach_disk",
    tag = "vms",
    security(("bearer" = [])),
    params(
        ("id" = i64, Path, description = "Number of the virtual machine", minimum = 1),
        ("disk" = String, Path, description = "Name of the disk"),
    ),
    responses(
        (status = 200, description = "The virtual machine; the disk is gone as soon as the guest lets go of it", body = Vm),
        (status = 409, description = "The virtual machine has snapshots, which need the disk, or is being deleted", body = ErrorBody),
    )
)]
pub async fn detach_disk(
    State(app): State<AppState>,
    OwnedDisk { vm: target, disk }: OwnedDisk,
) -> Result<Json<Vm>, ApiError> {
    if !target.vm.spec.disks.iter().any(|present| present.name == disk) {
        return Err(ApiError::NotFound(Noun::Disk));
    }
    if has_snapshots(&app, &target)? {
        let message = "VM has snapshots, which could not be restored without the disk; delete them first";
        return Err(ApiError::Conflict(message.to_owned()));
    }
    changed(app, target, Change::Detach(disk)).await
}

async fn changed(app: AppState, target: OwnedVm, change: Change) -> Result<Json<Vm>, ApiError> {
    let work = app.clone();
    let vm = app.to_completion(async move { resize(&work, target.vm, change).await }).await?;
    show(&app, &vm)
}

fn has_snapshots(app: &App, target: &OwnedVm) -> Result<bool, ApiError> {
    let namespace = target.vm.namespace().unwrap_or_default();
    let all: Vec<_> = app.stores.snapshots()?.read().in_namespace(&namespace).cloned().collect();
    let vms = app.stores.vms()?.read();
    Ok(all.iter().any(|snapshot| vm_of(snapshot, &vms).is_some_and(|vm| vm.metadata.uid == target.vm.metadata.uid)))
}
