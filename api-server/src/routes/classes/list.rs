//! `GET /api/classes`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::model::Class;

/// What `class` of a virtual machine may name
#[utoipa::path(
    get,
    path = "/classes",
    operation_id = "list_classes",
    tag = "vms",
    security(("bearer" = [])),
    responses((status = 200, description = "Classes, the smallest first", body = Vec<Class>))
)]
pub async fn list_classes(State(app): State<AppState>, _: Authn) -> Result<Json<Vec<Class>>, ApiError> {
    let mut classes: Vec<_> = app.stores.classes()?.read().all().map(|class| Class::new(class)).collect();
    classes.sort_by(|one, other| (one.cpu, one.memory, &one.name).cmp(&(other.cpu, other.memory, &other.name)));
    Ok(Json(classes))
}
