//! `PUT /api/quota`

use axum::Json;
use axum::extract::State;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kvmoor_crds::{Quota, QuotaSpec, names, quantity};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::show;
use crate::app::{App, AppState};
use crate::auth::extract::{Admin, TargetUser};
use crate::error::{ApiError, ErrorBody, Noun, from_kube};
use crate::extract::Body;
use crate::model::QuotaUsage;
use crate::number::{optional_whole, whole};
use crate::store::Stored;

/// Most of anything that a quota can allow.
const MOST: i64 = 1_000_000;
/// Most memory that a quota can allow, in MiB: 1 EiB.
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
    /// Number of the user whom it is for. Without, it is the default of all who have none of their own.
    #[schema(example = 2, minimum = 1)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub user_id: Option<i64>,
}

impl SetQuota {
    fn check(&self) -> Result<QuotaSpec, ApiError> {
        let check = |name: &str, value: i64, most: i64| {
            if value < 0 {
                return Err(ApiError::Invalid(format!("{name} must not be negative")));
            }
            if value > most {
                return Err(ApiError::Invalid(format!("{name} must be at most {most}")));
            }
            Ok(value)
        };
        Ok(QuotaSpec {
            max_vms: check("max_vms", self.max_vms, MOST)?,
            max_cpu: check("max_cpu", self.max_cpu, MOST)?,
            max_memory: quantity::from_mib(check("max_memory", self.max_memory, MOST_MEMORY)?.unsigned_abs()),
            max_snapshots: None,
            max_disk: None,
        })
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
            let user = TargetUser::find(&app, id)?.user;
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

/// Sets the quota of a namespace. What this endpoint does not know of it stays.
async fn write(app: &App, namespace: &str, spec: QuotaSpec) -> Result<Quota, ApiError> {
    let api: Api<Quota> = Api::namespaced(app.client.clone(), namespace);
    let patch = json!({ "spec": spec });
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch(names::QUOTA_NAME, &params, &Patch::Merge(&patch)).await;
    let outcome = match patched {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
            api.create(&params, &Quota::new(names::QUOTA_NAME, spec)).await
        }
        outcome => outcome,
    };
    outcome.map_err(|error| from_kube(Noun::Quota, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_example_becomes_a_spec() {
        let body = json!({ "max_vms": 20, "max_cpu": 40, "max_memory": 81920 });
        let spec = serde_json::from_value::<SetQuota>(body).unwrap().check().unwrap();
        // Limits that the endpoint does not know must not be in the patch, or it would remove them.
        let expected = json!({ "maxVms": 20, "maxCpu": 40, "maxMemory": "80Gi" });
        assert_eq!(serde_json::to_value(spec).unwrap(), expected);
    }

    #[test]
    fn bounds() {
        let check = |value: i64| SetQuota { max_vms: value, max_cpu: 0, max_memory: 0, user_id: None }.check();
        assert_eq!(check(-1).unwrap_err().to_string(), "max_vms must not be negative");
        assert!(check(i64::MAX).is_err());
        check(0).unwrap();
    }
}
