//! `GET /api/images`

use axum::Json;
use axum::extract::State;

use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::model::Image;

/// What `os_type` of a virtual machine may name
///
/// Any other name is accepted too: the disk is blank then.
#[utoipa::path(
    get,
    path = "/images",
    operation_id = "list_images",
    tag = "images",
    security(("bearer" = [])),
    responses((status = 200, description = "Images by name", body = Vec<Image>))
)]
pub async fn list_images(State(app): State<AppState>, _: Authn) -> Result<Json<Vec<Image>>, ApiError> {
    let hosts: Vec<_> = app.stores.hosts()?.read().all().cloned().collect();
    let images = app.stores.images()?.read();
    Ok(Json(images.all().map(|image| Image::new(image, hosts.iter().map(|host| &**host))).collect()))
}
