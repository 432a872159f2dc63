//! `DELETE /api/images/{name}`

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::auth::extract::TargetImage;
use crate::error::{ApiError, ErrorBody};
use crate::image::delete::delete;
use crate::model::now;

/// The answer to a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageDeleted {
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
    /// Name of the image.
    #[schema(example = "debian-13")]
    pub name: String,
    /// When the deletion was asked for.
    pub timestamp: Timestamp,
}

/// Delete an image; what was made of it stays
///
/// Hosts remove its file when no disk stands on it any more.
#[utoipa::path(
    delete,
    path = "/images/{name}",
    operation_id = "delete_image",
    tag = "images",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "Name of the image")),
    responses(
        (status = 200, description = "It is gone", body = ImageDeleted),
        (status = 403, description = "Admin access required", body = ErrorBody),
    )
)]
pub async fn delete_image(
    State(app): State<AppState>,
    TargetImage(image): TargetImage,
) -> Result<Json<ImageDeleted>, ApiError> {
    delete(&app, &image).await?;
    Ok(Json(ImageDeleted { deleted: true, name: image.name_any(), timestamp: now() }))
}
