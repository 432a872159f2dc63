//! A private view of libvirt's directories: a mount namespace in which they are other directories.
//!
//! Every daemon gets a namespace of its own with the same binds, so nothing must be kept open or mounted between two
//! starts, and the mounts vanish with the last process that sees them.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Directories (or files) to be seen in the place of others.
#[derive(Clone, Debug, Default)]
pub struct PrivateMounts {
    binds: Vec<(PathBuf, PathBuf)>,
}

/// The same, ready for the time between fork and exec, when nothing may allocate.
pub(crate) struct Prepared {
    binds: Vec<(CString, CString)>,
}

impl PrivateMounts {
    /// Shows `source` at `target`; both must exist.
    #[must_use]
    pub fn bind(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.binds.push((source.into(), target.into()));
        self
    }

    pub(crate) fn prepare(&self) -> io::Result<Prepared> {
        let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        let binds = self.binds.iter().map(|(source, target)| Ok((c(source)?, c(target)?)));
        Ok(Prepared { binds: binds.collect::<io::Result<_>>()? })
    }
}

impl Prepared {
    /// Moves the calling process into a new mount namespace with the binds.
    pub(crate) fn enter(&self) -> io::Result<()> {
        const NOTHING: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NOTHING, c"/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
        for (source, target) in &self.binds {
            mount(Some(source.as_c_str()), target.as_c_str(), NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
        }
        Ok(())
    }
}
