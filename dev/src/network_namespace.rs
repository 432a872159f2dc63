//! A network namespace of one's own, for a node with pods or a libvirt host: a process that does nothing holds it, others
//! enter it. Interfaces and firewall rules in it are seen by nobody else and vanish with the last process in there.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    deadline::until,
    instance::Instance,
    libvirt_host::PrivateMounts,
    process::{Managed, ProcessId, Spec, run},
};

const DEADLINE: Duration = Duration::from_secs(120);

/// Does nothing, as long as it takes.
const IDLE: &str = "sleep";

/// Whom a namespace is for: what is done in it before anybody enters it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// A libvirt host. `/sys` tells of the interfaces in the namespace; control groups are not seen there.
    Host,
    /// A node with pods. What is mounted on it later is seen by the containers that ask for it, as on other nodes.
    Node,
}

impl Purpose {
    fn preparation(self) -> &'static str {
        match self {
            Self::Host => "umount --lazy /sys && mount -t sysfs sysfs /sys",
            Self::Node => "mount --make-rshared /",
        }
    }
}

/// A namespace with the process that holds it.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    holder: Managed,
}

impl NetworkNamespace {
    /// One whose holder is called `name`, has a host name of its own too, and sees `mounts`. Nothing is started.
    pub(crate) fn prepare(instance: &Instance, name: &str, mounts: PrivateMounts, purpose: Purpose) -> Self {
        let mut spec = Spec::new(name, "unshare", instance.log(name)).arg("--net").arg("--uts").arg("--");
        spec = spec.arg("sh").arg("-c").arg(format!("{} && exec {IDLE} infinity", purpose.preparation()));
        spec.mounts = Some(mounts);
        Self { holder: Managed::new(spec, instance.recorder.clone()) }
    }

    /// Makes it.
    pub(crate) async fn make(&self) -> Result<()> {
        self.holder.start()?;
        let holder = self.holder()?;
        until(DEADLINE, "there is a network namespace", || async {
            let holder = self.holder()?;
            Ok(is_idle(holder))
        })
        .await?;
        let target = holder.pid.to_string();
        run("nsenter", &["--target", &target, "--net", "--", "ip", "link", "set", "lo", "up"], DEADLINE).await?;
        Ok(())
    }

    /// The process that holds it.
    pub(crate) fn holder(&self) -> Result<ProcessId> {
        self.holder.id().with_context(|| self.holder.epitaph())
    }

    /// What to say before a program, so that it runs in there and sees what the holder sees.
    pub(crate) fn enter(holder: ProcessId) -> [String; 5] {
        let target = format!("--target={}", holder.pid);
        [target, "--mount".into(), "--net".into(), "--uts".into(), "--".into()]
    }

    /// Lets it go: it is gone with the last process in it.
    pub(crate) async fn release(&self) {
        self.holder.kill().await;
    }
}

/// Whether all is done that comes before idleness.
fn is_idle(holder: ProcessId) -> bool {
    let line = std::fs::read(format!("/proc/{}/cmdline", holder.pid)).unwrap_or_default();
    line.split(|byte| *byte == 0).next() == Some(IDLE.as_bytes())
}
