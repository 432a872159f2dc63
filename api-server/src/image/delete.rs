//! Deleting an Image. The disks that stand on it keep what they need, and their virtual machines run on.

use std::time::Duration;

use kube::{Api, ResourceExt};
use kvmoor_crds::Image;

use crate::app::App;
use crate::delete::delete_exactly;
use crate::error::{ApiError, Noun};

/// How long the answer waits until this server knows that it is gone.
const GONE: Duration = Duration::from_secs(2);

/// Deletes exactly this Image. One that is being deleted or just gone is no error.
pub async fn delete(app: &App, image: &Image) -> Result<(), ApiError> {
    delete_exactly(&Api::all(app.client.clone()), image, Noun::Image).await?;
    let uid = image.uid().unwrap_or_default();
    app.stores.images()?.wait(GONE, |images| images.by_uid(&uid).is_none().then_some(())).await;
    Ok(())
}
