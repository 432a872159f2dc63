//! The Debian with cloud-init that the tests boot.

use anyhow::Result;

use super::progress::Steps;
use crate::{binaries, debian_image};

/// Puts it into the cache of this user.
pub(super) async fn make() -> Result<()> {
    let mut steps = Steps::new(1);
    steps.next("a Debian with cloud-init");
    debian_image::ensure(&binaries::cache_dir()?).await?;
    Ok(())
}
