//! Images.

pub mod create;
pub mod delete;
pub mod list;
pub mod upload;

use axum::Json;

use crate::app::App;
use crate::error::ApiError;
use crate::model::Image;

/// The image over REST.
fn show(app: &App, image: &kvmoor_crds::Image) -> Result<Json<Image>, ApiError> {
    let hosts = app.stores.hosts()?.read();
    Ok(Json(Image::new(image, hosts.all().map(|host| &**host))))
}
