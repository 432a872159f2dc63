//! Putting the guest image into a host's storage pool, as the volume of the Image `tiny`.

use std::path::Path;

use anyhow::{Context as _, Result};
use kvmoor_crds::{ImageFormat, names};
use serde::Deserialize;
use std::time::Duration;

use crate::{components::TINY, process::run, virsh::Virsh};

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

/// Puts the file `image` into `pool`, unless a volume of that name is there. A volume in use is never replaced: disks of
/// guests are overlays on it.
pub(crate) async fn upload(virsh: &Virsh, pool: &str, image: &Path) -> Result<()> {
    let volume = names::image_volume(TINY, ImageFormat::Qcow2);
    let volumes = virsh.volumes(pool).await?;
    if volumes.contains(&volume) {
        let is_guests = |name: &String| {
            name.starts_with("kvmoor-") && !name.starts_with("kvmoor-image-") && !name.starts_with("kvmoor-import-")
        };
        if volumes.iter().any(is_guests) {
            return Ok(());
        }
        virsh.run(&["vol-delete", &volume, "--pool", pool]).await?;
    }
    let image = image.to_string_lossy();
    let info = run("qemu-img", &["info", "--output=json", &image], DEADLINE).await?;
    let info: Info = serde_json::from_str(&info).context("read the image's size")?;
    let capacity = format!("{}B", info.virtual_size);
    virsh.run(&["vol-create-as", pool, &volume, &capacity, "--format", "qcow2"]).await?;
    virsh.run(&["vol-upload", &volume, &image, "--pool", pool]).await?;
    // Only now does libvirt look into the file.
    virsh.run(&["pool-refresh", pool]).await?;
    Ok(())
}
