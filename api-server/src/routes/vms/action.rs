//! `POST /api/vms/{id}/action`

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use kvmoor_crds::power::PowerAction;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::create::some_text;
use super::show;
use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::{Deleted, Vm};
use crate::number::some_whole;
use crate::openapi::OverQuota;
use crate::vm::apply::power;
use crate::vm::delete::delete;
use crate::vm::resize::{Change, Sizes, resize};
use crate::vm::validate;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Power on.
    Start,
    /// Ask the guest to shut down; turn it off if it has not within its grace period.
    Stop,
    /// Stop, then start.
    Restart,
    /// Delete with all disks.
    Delete,
    /// Change CPUs and memory; grow the root disk.
    Resize,
    /// Halt the CPUs.
    Pause,
    /// Let halted CPUs go on.
    Resume,
    /// Press the reset button.
    Reset,
    /// Turn off without asking the guest.
    Poweroff,
}

/// An action on a virtual machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// What to do.
    pub action: Action,
    /// Virtual CPUs, for resize.
    #[serde(default, deserialize_with = "some_whole")]
    pub cpu: Option<i64>,
    /// Memory in MiB, for resize.
    #[serde(default, deserialize_with = "some_whole")]
    pub memory: Option<i64>,
    /// Class, for resize; instead of cpu and memory.
    #[serde(default, deserialize_with = "some_text")]
    pub class: Option<String>,
    /// Size of the root disk in MiB, for resize; it only grows.
    #[serde(default, deserialize_with = "some_whole")]
    pub disk: Option<i64>,
}

/// By hand, because only resize has sizes, and it has at least one.
impl PartialSchema for ActionBody {
    fn schema() -> RefOr<Schema> {
        let action = |words: &[&str]| ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.to_vec()));
        let number = |minimum: i64, maximum: i64| {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(minimum)).maximum(Some(maximum))
        };
        let object = || {
            ObjectBuilder::new().required("action").additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let plain = ["start", "stop", "restart", "delete", "pause", "resume", "reset", "poweroff"];
        let resize = object()
            .property("action", action(&["resize"]))
            .property("cpu", number(1, 512))
            .property("memory", number(16, 16 << 20))
            .property("disk", number(1, 64 << 20))
            .min_properties(Some(2))
            .examples([json!({ "action": "resize", "cpu": 4, "memory": 4096 })]);
        let name = ObjectBuilder::new().schema_type(Type::String).max_length(Some(63));
        let class = object()
            .required("class")
            .property("action", action(&["resize"]))
            .property("disk", number(1, 64 << 20))
            .property("class", name.pattern(Some("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")))
            .examples([json!({ "action": "resize", "class": "large" })]);
        let plain = object().property("action", action(&plain)).examples([json!({ "action": "start" })]);
        OneOfBuilder::new()
            .description(Some("An action on a virtual machine."))
            .item(plain)
            .item(resize)
            .item(class)
            .into()
    }
}

impl ToSchema for ActionBody {
    fn name() -> Cow<'static, str> {
        "VMAction".into()
    }
}

/// The answer to an action.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = VMActionAnswer)]
pub enum ActionAnswer {
    /// The virtual machine.
    Vm(Box<Vm>),
    /// That it is being deleted.
    Deleted(Deleted),
}

/// An action, checked.
#[derive(Debug)]
enum Checked {
    Power(PowerAction),
    Change(Change),
    Delete,
}

impl ActionBody {
    fn check(&self) -> Result<Checked, ApiError> {
        let power = match self.action {
            Action::Resize => return self.check_sizes().map(Checked::Change),
            _ if self.cpu.is_some() || self.memory.is_some() || self.class.is_some() || self.disk.is_some() => {
                return Err(ApiError::Invalid("cpu, memory, class and disk belong to the action resize".to_owned()));
            }
            Action::Delete => return Ok(Checked::Delete),
            Action::Start => PowerAction::Start,
            Action::Stop => PowerAction::Stop,
            Action::Restart => PowerAction::Restart,
            Action::Pause => PowerAction::Pause,
            Action::Resume => PowerAction::Resume,
            Action::Reset => PowerAction::Reset,
            Action::Poweroff => PowerAction::PowerOff,
        };
        Ok(Checked::Power(power))
    }

    fn check_sizes(&self) -> Result<Change, ApiError> {
        let disk = self.disk.map(validate::disk).transpose()?;
        let sizes = match (&self.class, self.cpu, self.memory) {
            (Some(class), None, None) => {
                validate::class(class)?;
                Some(Sizes::Class(class.clone()))
            }
            (Some(_), _, _) => return Err(ApiError::Invalid("Give either class, or cpu and memory".to_owned())),
            (None, None, None) if disk.is_none() => {
                return Err(ApiError::Invalid("resize needs cpu, memory or disk, or a class".to_owned()));
            }
            (None, None, None) => None,
            (None, cpu, memory) => {
                let cpu = cpu.map(validate::cpu).transpose()?;
                let memory = memory.map(validate::memory).transpose()?;
                Some(Sizes::Numbers { cpu, memory })
            }
        };
        Ok(Change::Sizes { sizes, disk })
    }
}

/// Start, stop, restart, pause, resume, reset, power off, resize or delete a virtual machine
///
/// Asking for what is so already is no error.
#[utoipa::path(
    post,
    path = "/vms/{id}/action",
    operation_id = "act_on_vm",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    request_body = ActionBody,
    responses(
        (status = 200, description = "The action is under way", body = ActionAnswer),
        OverQuota,
        (status = 409, description = "The virtual machine is in no state for it, its host has no room to grow, or its disk is larger", body = ErrorBody),
    )
)]
pub async fn act_on_vm(
    State(app): State<AppState>,
    target: OwnedVm,
    Body(body): Body<ActionBody>,
) -> Result<Response, ApiError> {
    let OwnedVm { vm, id } = target;
    let work = app.clone();
    let vm = match body.check()? {
        Checked::Delete => return Ok(Json(ActionAnswer::Deleted(delete(&app, &vm, id).await?)).into_response()),
        Checked::Power(action) => power(&app, vm, action).await?,
        Checked::Change(change) => app.to_completion(async move { resize(&work, vm, change).await }).await?,
    };
    let Json(vm) = show(&app, &vm)?;
    Ok(Json(ActionAnswer::Vm(Box::new(vm))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: serde_json::Value) -> Result<Checked, String> {
        let body: ActionBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
        body.check().map_err(|error| error.to_string())
    }

    #[test]
    fn the_references_examples_are_accepted() {
        for action in ["start", "stop", "restart", "delete"] {
            check(json!({ "action": action })).unwrap();
        }
        let Ok(Checked::Change(Change::Sizes { sizes, disk })) =
            check(json!({ "action": "resize", "cpu": 4, "memory": 4096 }))
        else {
            panic!()
        };
        assert_eq!((sizes, disk), (Some(Sizes::Numbers { cpu: Some(4), memory: Some(4096) }), None));
    }

    #[test]
    fn sizes_belong_to_resize() {
        assert!(check(json!({ "action": "start", "cpu": 4 })).is_err());
        assert!(check(json!({ "action": "start", "disk": 4 })).is_err());
        assert!(check(json!({ "action": "resize", "disk": 4096 })).is_ok());
        assert!(check(json!({ "action": "resize" })).is_err());
        assert!(check(json!({ "action": "resize", "class": "large", "cpu": 1 })).is_err());
        let class = check(json!({ "action": "resize", "class": "large" }));
        assert!(matches!(class, Ok(Checked::Change(Change::Sizes { sizes: Some(Sizes::Class(_)), disk: None }))));
        assert_eq!(check(json!({ "action": "resize", "cpu": 0 })).unwrap_err(), "CPU must be greater than 0");
        assert!(check(json!({ "action": "explode" })).unwrap_err().contains("unknown variant"));
    }
}
