//! Kvmoor's container images: built by `dev/images/build`, and put where a node finds them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::{components, node::Node, process};

/// Compression of some hundred megabytes, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// The image of a pod's namespaces, and its only tag.
const PAUSE: &str = "pause";
const PAUSE_TAG: &str = "dev";
/// libvirt and QEMU, for nodes that have none.
const LIBVIRT: &str = "libvirt";
/// Our own.
const COMPONENTS: [&str; 3] = ["api-server", "controller-cluster", "controller-node"];

/// Which images to build.
#[derive(Clone, Debug)]
pub struct Images {
    /// Where Kvmoor's programs are.
    pub programs: PathBuf,
    /// Where the archives go.
    pub out: PathBuf,
    /// The images' tag.
    pub tag: String,
    /// A label, such as `build=2`, by which images of the same programs differ.
    pub label: Option<String>,
    /// Whether symbols are left out, as a release does.
    pub strip: bool,
}

impl Images {
    /// Builds Kvmoor's images and imports them into the node.
    ///
    /// # Errors
    /// When buildah is missing or fails, or the node does not take them.
    pub async fn install(&self, node: &Node) -> Result<()> {
        self.build(&self.tag, &COMPONENTS).await?;
        // One after another: they have layers in common, which are written once.
        for name in COMPONENTS {
            node.import(self.archive(name)).await?;
        }
        Ok(())
    }

    /// Builds and imports the image of libvirt and QEMU.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub async fn install_libvirt(&self, node: &Node) -> Result<()> {
        self.build(&self.tag, &[LIBVIRT]).await?;
        node.import(self.archive(LIBVIRT)).await
    }

    /// Builds and imports the image that every pod of a node stands on.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub async fn install_pause(&self, node: &Node) -> Result<()> {
        self.build(PAUSE_TAG, &[PAUSE]).await?;
        node.import(self.archive(PAUSE)).await
    }

    fn archive(&self, image: &str) -> PathBuf {
        self.out.join(format!("{image}.tar"))
    }

    async fn build(&self, tag: &str, images: &[&str]) -> Result<()> {
        let root = components::checkout_root();
        let mut command = Command::new(root.join("dev/images/build"));
        let flag = |command: &mut Command, name: &str, value: &Path| {
            command.arg(name).arg(value);
        };
        flag(&mut command, "--bin", &self.programs);
        flag(&mut command, "--out", &self.out);
        command.args(["--tag", tag]);
        if let Some(label) = &self.label {
            command.args(["--label", label]);
        }
        if self.strip {
            command.arg("--strip");
        }
        command.args(images);
        process::output(command, DEADLINE)
            .await
            .context("build the images; `dev/setup-cluster` installs what it needs")?;
        Ok(())
    }
}
