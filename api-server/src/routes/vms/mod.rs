//! Virtual machines.

pub mod action;
pub mod clone;
pub mod console_ticket;
pub mod create;
pub mod delete;
pub mod disks;
pub mod events;
pub mod get;
pub mod list;
pub mod log;
pub mod stats;

use axum::Json;
use kvmoor_crds::VirtualMachine;

use crate::app::App;
use crate::error::ApiError;
use crate::model::Vm;
use crate::vm::owner::Owners;

/// A virtual machine over REST.
fn show(app: &App, vm: &VirtualMachine) -> Result<Json<Vm>, ApiError> {
    let users = app.stores.users()?.read();
    Owners::new(&users)
        .show(vm)
        .map(Json)
        .ok_or(ApiError::unavailable("The VM has no number yet; try again in a moment"))
}
