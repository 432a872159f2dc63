//! `PUT /api/quota`

use axum::Json;
use axum::extract::State;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kvmoor_crds::{Quota, names, quantity};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::show;
use crate::app::{App, AppState};
use crate::auth::extract::{Admin, TargetUser};
use crate::error::{ApiError, ErrorBody, Noun, from_kube};
use crate::extract::Body;
use crate::model::QuotaUsage;
use crate::number::{optional_whole, whole, whole_or_null};
use crate::store::Stored;

/// Most of anything that a quota can allow.
const MOST: i64 = 1_000_000;
/// Most memory or disk that a quota can allow, in MiB: 1 EiB.
const MOST_MEMORY: i64 = 1 << 40;

/// A quota to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    /// Most virtual machines.
    #[schema(example = 20, minimum = 0, maximum = 1000000)]
    #[serde(deserialize_with = "whole")]
    pub max_vms: i64,
    /// Most virtual CPUs.
    #[schema(example = 40, minimum = 0, maximum = 1000000)]
    #[serde(deserialize_with = "whole")]
    pub max_cpu: i64,
    /// Most memory, in MiB.
    #[schema(example = 81920, minimum = 0, maximum = 1099511627776_i64)]
    #[serde(deserialize_with = "whole")]
    pub max_memory: i64,
    /// Most snapshots; null for no limit. Stays as it is where it is missing.
    #[schema(value_type = Option<i64>, example = 50, minimum = 0, maximum = 1000000)]
    #[serde(default, deserialize_with = "whole_or_null")]
    pub max_snapshots: Option<Option<i64>>,
    /// Most sizes of disks together, in MiB; null for no limit. Stays as it is where it is missing.
    #[schema(value_type = Option<i64>, example = 512000, minimum = 0, maximum = 1099511627776_i64)]
    #[serde(default, deserialize_with = "whole_or_null")]
    pub max_disk: Option<Option<i64>>,
    /// Number of the user whom it is for. Without, it is the default of all who have none of their own.
    #[schema(example = 2, minimum = 1)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub user_id: Option<i64>,
}

impl SetQuota {
    /// The spec as a merge patch: what is not in it stays, null takes a limit away.
    fn check(&self) -> Result<Value, ApiError> {
        let check = |name: &str, value: i64, most: i64| {
            if value < 0 {
                return Err(ApiError::Invalid(format!("{name} must not be negative")));
            }
            if value > most {
                return Err(ApiError::Invalid(format!("{name} must be at most {most}")));
            }
            Ok(value)
        };
        let mib = |value: i64| quantity::from_mib(value.unsigned_abs());
        let mut spec = json!({
            "maxVms": check("max_vms", self.max_vms, MOST)?,
            "maxCpu": check("max_cpu", self.max_cpu, MOST)?,
            "maxMemory": mib(check("max_memory", self.max_memory, MOST_MEMORY)?),
        });
        if let (Some(most), Some(spec)) = (self.max_snapshots, spec.as_object_mut()) {
            let most = most.map(|most| check("max_snapshots", most, MOST)).transpose()?;
            spec.insert("maxSnapshots".to_owned(), json!(most));
        }
        if let (Some(most), Some(spec)) = (self.max_disk, spec.as_object_mut()) {
            let most = most.map(|most| check("max_disk", most, MOST_MEMORY)).transpose()?;
            spec.insert("maxDisk".to_owned(), json!(most.map(mib)));
        }
        Ok(spec)
    }
}

/// Set the default quota, or a user's own
#[utoipa::path(
    put,
    path = "/quota",
    operation_id = "set_quota",
    tag = "quota",
    security(("bearer" = [])),
    request_body = SetQuota,
    responses(
        (status = 200, description = "Quota and usage", body = QuotaUsage),
        (status = 404, description = "There is no such user", body = ErrorBody),
        (status = 409, description = "The user is not approved yet", body = ErrorBody),
    )
)]
pub async fn set_quota(
    State(app): State<AppState>,
    Admin(caller): Admin,
    Body(body): Body<SetQuota>,
) -> Result<Json<QuotaUsage>, ApiError> {
    let spec = body.check()?;
    let (user, id, namespace) = match body.user_id {
        Some(id) => {
            let user = TargetUser::find(&app, id).await?.user;
            let namespace = user.tenant_namespace().map(str::to_owned);
            let missing = "User has no namespace yet; approve it first".to_owned();
            (user, id, namespace.ok_or(ApiError::Conflict(missing))?)
        }
        None => (caller.user, caller.id, app.system_namespace.clone()),
    };
    let written = write(&app, &namespace, spec).await?;
    app.stores.quotas()?.wait_until_seen(&written).await;
    Ok(Json(show(&app, &user, id, &namespace).await?))
}

/// Sets the quota of a namespace; what is not in `spec` stays.
async fn write(app: &App, namespace: &str, spec: Value) -> Result<Quota, ApiError> {
    let api: Api<Quota> = Api::namespaced(app.client.clone(), namespace);
    let patch = json!({ "spec": spec });
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch(names::QUOTA_NAME, &params, &Patch::Merge(&patch)).await;
    let outcome = match patched {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
            let spec = serde_json::from_value(spec).map_err(ApiError::internal)?;
            api.create(&params, &Quota::new(names::QUOTA_NAME, spec)).await
        }
        outcome => outcome,
    };
    outcome.map_err(|error| from_kube(Noun::Quota, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: Value) -> Result<Value, String> {
        let body = serde_json::from_value::<SetQuota>(body).map_err(|error| error.to_string())?;
        body.check().map_err(|error| error.to_string())
    }

    #[test]
    fn the_references_example_becomes_a_spec() {
        // Limits that the caller does not name must not be in the patch, or it would remove them.
        let spec = check(json!({ "max_vms": 20, "max_cpu": 40, "max_memory": 81920 })).unwrap();
        assert_eq!(spec, json!({ "maxVms": 20, "maxCpu": 40, "maxMemory": "80Gi" }));
    }

    #[test]
    fn limits_of_snapshots_and_disks_are_set_and_taken_away() {
        let with = |snapshots: Value, disk: Value| {
            let limits = json!({ "max_vms": 1, "max_cpu": 1, "max_memory": 1024 });
            let mut body = limits.as_object().unwrap().clone();
            body.extend([("max_snapshots".to_owned(), snapshots), ("max_disk".to_owned(), disk)]);
            check(body.into()).map(|spec| (spec["maxSnapshots"].clone(), spec["maxDisk"].clone()))
        };
        assert_eq!(with(json!(50), json!(20480)).unwrap(), (json!(50), json!("20Gi")));
        assert_eq!(with(json!(null), json!(null)).unwrap(), (Value::Null, Value::Null));
        assert_eq!(with(json!(-1), json!(0)).unwrap_err(), "max_snapshots must not be negative");
    }

    #[test]
    fn bounds() {
        let set = |value: i64| check(json!({ "max_vms": value, "max_cpu": 0, "max_memory": 0 }));
        assert_eq!(set(-1).unwrap_err(), "max_vms must not be negative");
        assert!(set(i64::MAX).is_err());
        set(0).unwrap();
    }
}
