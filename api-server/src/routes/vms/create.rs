//! `POST /api/vms`

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::disks::{NewDiskBody, check_disks};
use super::show;
use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::Vm;
use crate::number::{optional_whole, some_whole};
use crate::openapi::OverQuota;
use crate::vm::create::{NewVm, Size, create};
use crate::vm::validate;

/// A virtual machine to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateVM)]
pub struct CreateVm {
    /// Name for people, free text.
    #[schema(
        example = "My VM",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: String,
    /// Virtual CPUs. Needed where there is no class.
    #[schema(example = 2, minimum = 1, maximum = 512, nullable = false)]
    #[serde(default, deserialize_with = "some_whole")]
    pub cpu: Option<i64>,
    /// Memory in MiB. Needed where there is no class.
    #[schema(example = 2048, minimum = 16, maximum = 16777216, nullable = false)]
    #[serde(default, deserialize_with = "some_whole")]
    pub memory: Option<i64>,
    /// Name of the class that says how many CPUs and how much memory it has, and how large its disk is where `disk` is
    /// missing; instead of `cpu` and `memory`.
    #[schema(example = "small", max_length = 63, pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", nullable = false)]
    #[serde(default, deserialize_with = "some_text")]
    pub class: Option<String>,
    /// Name of the image that the disk starts from. Where there is none of that name, the disk is blank.
    #[schema(example = "ubuntu-desktop", max_length = 63, pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    pub os_type: Option<String>,
    /// Size of the disk in MiB; at least the image's own.
    #[schema(example = 20480, minimum = 1, maximum = 67108864)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub disk: Option<i64>,
    /// More disks, blank at first; the guest sees their names as serial numbers.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub disks: Vec<NewDiskBody>,
    /// Public keys that may log in to the guest, in the format of authorized_keys.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub ssh_authorized_keys: Vec<SshKey>,
    /// What cloud-init in the guest is told: `#cloud-config`, a script, or whatever else it takes. It is kept in a Secret
    /// and shown to nobody.
    #[schema(example = "#cloud-config\nruncmd: [[touch, /hello]]\n", max_length = 524288)]
    pub user_data: Option<String>,
    /// Network configuration for cloud-init. Without it every interface asks for an address by DHCP.
    #[schema(max_length = 65536)]
    pub network_config: Option<String>,
    /// Whether to start it.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub start: bool,
}

/// A public key, in the format of a line of authorized_keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(
    example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKyAKw27lhVRRYMIZtmHeBqJDPmSp5Fwvn3BBVy0ZzQO user@example.com",
    min_length = 1,
    max_length = 8192,
    pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
)]
pub struct SshKey(pub String);

/// The keys, checked.
pub fn keys(keys: Vec<SshKey>) -> Result<Vec<String>, ApiError> {
    let keys: Vec<_> = keys.into_iter().map(|SshKey(key)| key).collect();
    validate::ssh_keys(&keys)?;
    Ok(keys)
}

/// Reads text into a field that may be missing, but not null.
pub fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// The body as the document has it: what a deriving cannot say is that a size is there, in numbers or by name.
#[derive(Debug)]
pub enum CreateVmBody {}

impl PartialSchema for CreateVmBody {
    fn schema() -> RefOr<Schema> {
        let with = |size: &[&str], without: &[&str]| match CreateVm::schema() {
            RefOr::T(Schema::Object(mut object)) => {
                object.properties.retain(|name, _| !without.contains(&name.as_str()));
                object.required.extend(size.iter().map(|name| (*name).to_owned()));
                RefOr::T(Schema::Object(object))
            }
            other => other,
        };
        OneOfBuilder::new()
            .description(Some("A virtual machine to be made, with a size in numbers or that of a class."))
            .item(with(&["cpu", "memory"], &["class"]))
            .item(with(&["class"], &["cpu", "memory"]))
            .into()
    }
}

impl ToSchema for CreateVmBody {
    fn name() -> Cow<'static, str> {
        CreateVm::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        CreateVm::schemas(schemas);
    }
}

/// What `start` is where it is missing.
pub fn yes() -> bool {
    true
}

impl CreateVm {
    fn check(self) -> Result<NewVm, ApiError> {
        let Self {
            name,
            cpu,
            memory,
            class,
            os_type,
            disk,
            disks,
            ssh_authorized_keys,
            user_data,
            network_config,
            start,
        } = self;
        validate::name(&name)?;
        os_type.as_deref().map_or(Ok(()), validate::os_type)?;
        let ssh_authorized_keys = keys(ssh_authorized_keys)?;
        Ok(NewVm {
            name,
            size: size(cpu, memory, class)?,
            os_type,
            disk: disk.map(validate::disk).transpose()?,
            disks: check_disks(disks)?,
            ssh_authorized_keys,
            guest_data: validate::guest_data(user_data, network_config)?,
            start,
            clone_of: None,
        })
    }
}

fn size(cpu: Option<i64>, memory: Option<i64>, class: Option<String>) -> Result<Size, ApiError> {
    match (cpu, memory, class) {
        (None, None, Some(class)) => {
            validate::class(&class)?;
            Ok(Size::Class(class))
        }
        (_, _, Some(_)) => Err(ApiError::Invalid("Give either class, or cpu and memory".to_owned())),
        (Some(cpu), Some(memory), None) => {
            Ok(Size::Numbers { cpu: validate::cpu(cpu)?, memory: validate::memory(memory)? })
        }
        (None, _, None) => Err(ApiError::Invalid("missing field `cpu`: give cpu and memory, or a class".to_owned())),
        (_, None, None) => Err(ApiError::Invalid("missing field `memory`: give cpu and memory, or a class".to_owned())),
    }
}

/// Create a virtual machine, and start it
#[utoipa::path(
    post,
    path = "/vms",
    operation_id = "create_vm",
    tag = "vms",
    security(("bearer" = [])),
    request_body = CreateVmBody,
    responses(
        (status = 201, description = "The virtual machine, within quota and soon running", body = Vm),
        OverQuota,
        (status = 404, description = "There is no class of that name; the message says which there are", body = ErrorBody),
        (status = 409, description = "Two of the disks have the same name, or the namespace is being deleted", body = ErrorBody),
    )
)]
pub async fn create_vm(
    State(app): State<AppState>,
    caller: Authn,
    Body(body): Body<CreateVm>,
) -> Result<(StatusCode, Json<Vm>), ApiError> {
    let new = body.check()?;
    let namespace = caller.namespace()?.to_owned();
    let work = app.clone();
    let vm = app.to_completion(async move { create(&work, &namespace, &new).await }).await?;
    Ok((StatusCode::CREATED, show(&app, &vm)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: serde_json::Value) -> Result<NewVm, String> {
        let body: CreateVm = serde_json::from_value(body).map_err(|error| error.to_string())?;
        body.check().map_err(|error| error.to_string())
    }

    #[test]
    fn the_references_example_is_accepted() {
        let body = json!({ "name": "My VM", "cpu": 2, "memory": 2048, "os_type": "ubuntu-desktop" });
        let new = check(body).unwrap();
        assert!(new.start);
        assert_eq!(new.size, Size::Numbers { cpu: 2, memory: 2048 });
        let classed = check(json!({ "name": "x", "class": "small" })).unwrap();
        assert_eq!(classed.size, Size::Class("small".into()));
        assert!(!check(json!({ "name": "x", "cpu": 1, "memory": 16, "start": false })).unwrap().start);
    }

    #[test]
    fn wrong_bodies_say_what_is_wrong() {
        let of = |change: (&str, serde_json::Value)| {
            let mut body = json!({ "name": "x", "cpu": 1, "memory": 64 });
            body[change.0] = change.1;
            check(body).unwrap_err()
        };
        assert_eq!(of(("cpu", json!(0))), "CPU must be greater than 0");
        assert_eq!(of(("memory", json!(0))), "Memory must be greater than 0");
        assert_eq!(of(("disk", json!(0))), "Disk must be greater than 0");
        assert!(of(("cpu", json!("2"))).contains("invalid type"));
        assert!(of(("user_data", json!("x".repeat(524_289)))).contains("at most 524288 bytes"));
        assert!(of(("network_config", json!("x".repeat(65_537)))).contains("at most 65536 bytes"));
        let data = |name: &str| json!({ "name": name, "size": 64 });
        assert!(of(("disks", json!([data("Data")]))).contains("name of a disk"));
        assert!(of(("disks", json!([data("a"), data("a")]))).contains("more than once"));
        assert!(of(("disks", json!([{ "name": "a", "size": 0 }]))).contains("greater than 0"));
        assert!(of(("cpu", json!(1.5))).contains("expected a whole number"));
        assert!(of(("memory", json!(1e30))).contains("expected a whole number"));
        assert!(of(("nodeName", json!("host-1"))).contains("unknown field"));
        assert!(check(json!({ "name": "x" })).unwrap_err().contains("missing field"));
        assert!(check(json!({ "name": "x", "cpu": 1 })).unwrap_err().contains("missing field `memory`"));
        assert_eq!(of(("class", json!("small"))), "Give either class, or cpu and memory");
        assert!(check(json!({ "name": "x", "class": "../x" })).unwrap_err().contains("class"));
    }
}
