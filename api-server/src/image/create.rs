//! Creating an Image. What of it is wrong the Kubernetes API says.

use kube::Api;
use kube::api::PostParams;
use kvmoor_crds::{Image, ImageSpec, names};

use crate::app::App;
use crate::error::{ApiError, Noun, from_kube};

/// Creates an Image of that name.
pub async fn create(app: &App, name: &str, spec: ImageSpec) -> Result<Image, ApiError> {
    let images: Api<Image> = Api::all(app.client.clone());
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    let created = images.create(&params, &Image::new(name, spec)).await;
    let created = created.map_err(|error| from_kube(Noun::Image, error))?;
    app.stores.images()?.wait_until_seen(&created).await;
    Ok(created)
}
