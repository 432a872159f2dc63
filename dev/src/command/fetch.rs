//! What a cluster needs and the network gives: programs of the control plane, and the parts of the guest image.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::progress::Steps;
use crate::{
    binaries::{self, ControlPlaneBinaries, NodeBinaries},
    guest_image,
};

/// What to fetch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also what only the tests need: Helm.
    #[arg(long)]
    tests: bool,
    /// Also what only a cluster with pods needs: kubelet, kube-proxy, kube-scheduler, CoreDNS and Helm.
    #[arg(long)]
    pods: bool,
}

/// Puts all of it into the cache of this user.
pub(super) async fn fetch(args: &Args) -> Result<()> {
    let helm = args.tests || args.pods;
    let mut steps = Steps::new(2 + usize::from(args.pods) + usize::from(helm));
    control_plane(&mut steps).await?;
    image(&mut steps).await?;
    if args.pods {
        steps.next("the programs of a Node");
        NodeBinaries::ensure().await?;
    }
    if helm {
        steps.next("Helm");
        binaries::ensure_helm().await?;
    }
    Ok(())
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
