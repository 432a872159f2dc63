//! libvirt's daemons of a private host: virtlogd, which holds the guests' logs, and libvirtd.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::config::Dirs;
use crate::{
    deadline::until,
    files,
    instance::Instance,
    network_namespace::NetworkNamespace,
    process::{Managed, ProcessId, Spec},
    virsh::Virsh,
};

/// libvirtd probes QEMU at its first start; that takes seconds under emulation.
const READY: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Daemons {
    pub(super) virtlogd: Managed,
    pub(super) libvirtd: Managed,
    run: PathBuf,
}

impl Daemons {
    /// Of host `host`, in the network that `holder` holds, or in the machine's.
    pub(super) fn new(host: &str, dirs: &Dirs, holder: Option<ProcessId>, instance: &Instance) -> Result<Self> {
        let daemon = |name: &str| -> Result<Managed> {
            let full_name = format!("{host}-{name}");
            let log = instance.log(&full_name);
            let program = find(name)?;
            let mut spec = match holder {
                Some(holder) => {
                    let mut spec = Spec::new(full_name, "nsenter", log);
                    spec.args.extend(NetworkNamespace::enter(holder).map(OsString::from));
                    spec.arg(program)
                }
                None => Spec { mounts: Some(dirs.mounts()), ..Spec::new(full_name, program, log) },
            };
            spec = spec.arg("--pid-file").arg(format!("/run/libvirt/{name}.pid"));
            // Sockets handed over by a service manager are not for these.
            spec.without_env = vec!["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"];
            Ok(Managed::new(spec, instance.recorder.clone()))
        };
        Ok(Self { virtlogd: daemon("virtlogd")?, libvirtd: daemon("libvirtd")?, run: dirs.run.clone() })
    }

    pub(super) fn socket(run: &Path) -> PathBuf {
        run.join("libvirt-sock")
    }

    pub(super) async fn start_virtlogd(&self) -> Result<()> {
        let socket = self.run.join("virtlogd-sock");
        files::remove_file(&socket)?;
        self.virtlogd.start()?;
        until(READY, "virtlogd listens", || async { Ok(socket.exists()) }).await
    }

    pub(super) async fn start_libvirtd(&self, virsh: &Virsh) -> Result<()> {
        files::remove_file(&Self::socket(&self.run))?;
        self.libvirtd.start()?;
        let ready = until(READY, "libvirtd answers", || async {
            if self.libvirtd.id().is_none() {
                bail!(self.libvirtd.epitaph());
            }
            Ok(Self::socket(&self.run).exists() && virsh.run(&["version"]).await.is_ok())
        });
        ready.await
    }

    pub(super) async fn stop(&self) {
        self.libvirtd.stop(STOP).await;
        self.virtlogd.stop(STOP).await;
    }
}

/// Daemons are often outside of a user's search path.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/sbin".into()]);
    let found = places.map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed; `dev/setup` installs what is needed"))
}
