//! `POST /api/vms/{id}/snapshots`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::model::Snapshot;
use crate::openapi::OverQuota;
use crate::snapshot::answer;
use crate::snapshot::create::{NewSnapshot, create};
use crate::vm::validate;

/// A snapshot to take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateSnapshot)]
pub struct CreateSnapshot {
    /// Name for people, free text; unique among the snapshots of the virtual machine.
    #[schema(
        example = "Snapshot 1",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: String,
    /// What it is for, free text.
    #[schema(example = "Before update", max_length = 1024)]
    pub description: Option<String>,
}

impl CreateSnapshot {
    fn check(self) -> Result<NewSnapshot, ApiError> {
        let Self { name, description } = self;
        validate::name(&name)?;
        let description = description.filter(|text| !text.is_empty());
        description.as_deref().map_or(Ok(()), validate::description)?;
        Ok(NewSnapshot { name, description })
    }
}

/// Take a snapshot of a virtual machine, with its memory when it is on
#[utoipa::path(
    post,
    path = "/vms/{id}/snapshots",
    operation_id = "create_snapshot",
    tag = "snapshots",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1)),
    request_body = CreateSnapshot,
    responses(
        (status = 201, description = "The snapshot; Ready, or soon", body = Snapshot),
        OverQuota,
        (status = 409, description = "The virtual machine has one of that name, or none can be taken of it; the message says why", body = ErrorBody),
    )
)]
pub async fn create_snapshot(
    State(app): State<AppState>,
    target: OwnedVm,
    Body(body): Body<CreateSnapshot>,
) -> Result<(StatusCode, Json<Snapshot>), ApiError> {
    let new = body.check()?;
    let work = app.clone();
    let snapshot = app.to_completion(async move { create(&work, &target.vm, &new).await }).await?;
    Ok((StatusCode::CREATED, Json(answer(&app, &snapshot)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_checked() {
        let check = |body: serde_json::Value| serde_json::from_value::<CreateSnapshot>(body).map(CreateSnapshot::check);
        let new = check(json!({ "name": "Snapshot 1", "description": "Before update" })).unwrap().unwrap();
        assert_eq!((new.name.as_str(), new.description.as_deref()), ("Snapshot 1", Some("Before update")));
        assert!(check(json!({ "name": "x" })).unwrap().unwrap().description.is_none());
        assert!(check(json!({ "name": " " })).unwrap().is_err());
        assert!(check(json!({ "name": "x", "description": "d".repeat(1025) })).unwrap().is_err());
        assert!(check(json!({ "description": "x" })).is_err());
    }
}
