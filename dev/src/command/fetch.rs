//! What a cluster needs and the network gives: programs of the control plane, and the parts of the guest image.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::progress::Steps;
use crate::{
    binaries::{self, ControlPlaneBinaries},
    guest_image,
};

/// Puts all of it into the cache of this user.
pub(super) async fn fetch() -> Result<()> {
    let mut steps = Steps::new(2);
    control_plane(&mut steps).await?;
    image(&mut steps).await
}

pub(super) async fn control_plane(steps: &mut Steps) -> Result<()> {
    steps.next("the programs of the Kubernetes control plane");
    ControlPlaneBinaries::ensure().await?;
    Ok(())
}

pub(super) async fn image(steps: &mut Steps) -> Result<()> {
    steps.next("the guest image `tiny`");
    let cache: PathBuf = binaries::cache_dir()?;
    guest_image::ensure(&cache).await.context("make the guest image; `make setup` installs the programs it needs")?;
    Ok(())
}
