//! The storage pool of a libvirt host, as it is and not as libvirt remembers it.

use anyhow::Result;
use kvmoor_dev::virsh::Virsh;

use crate::vm::SOON;
use crate::wait;

/// Has libvirt look at what is there. It refuses to for as long as it makes a volume there, for whomever.
pub async fn refresh(virsh: &Virsh) -> Result<()> {
    let look = || virsh.run(&["pool-refresh", "default"]);
    wait::until("libvirt looks at its pool", SOON, look, |_| true).await.map(drop)
}

/// The names of all volumes that are there.
pub async fn volumes(virsh: &Virsh) -> Result<Vec<String>> {
    refresh(virsh).await?;
    virsh.volumes("default").await
}
