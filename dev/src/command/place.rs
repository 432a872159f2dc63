//! The directory of `make run`, usually `.dev`, and the files in it that people and scripts read.

use std::{
    env, fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};
use nix::unistd::Uid;

use crate::{files, instance::LOGS, random};

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join(LOGS)
    }

    pub(super) fn libvirt_uri(&self) -> PathBuf {
        self.dir.join("libvirt-uri")
    }

    pub(super) fn password(&self) -> PathBuf {
        self.dir.join("admin-password")
    }

    fn ready(&self) -> PathBuf {
        self.dir.join("ready")
    }

    /// Makes the directory. What others must not read in it has modes of its own.
    pub(super) fn make(&self) -> Result<()> {
        files::make_dir(&self.dir, 0o755)
    }

    /// Says that all is up, where, and as which process: after a kill the file is still there, the process is not.
    pub(super) fn set_ready(&self, url: &str) -> Result<()> {
        self.write(&self.ready(), &format!("{url}\n{}\n", process::id()), 0o644)
    }

    /// Says that it is not, or not any longer.
    pub(super) fn unset_ready(&self) -> Result<()> {
        files::remove_file(&self.ready())
    }

    /// Where the cluster is reached; `None` when it is not up.
    pub(super) fn read_ready(&self) -> Option<String> {
        let text = fs::read_to_string(self.ready()).ok()?;
        text.lines().next().map(str::to_owned)
    }

    /// The admin's password that was made here, once.
    pub(super) fn made_password(&self) -> Result<String> {
        let path = self.password();
        match fs::read_to_string(&path) {
            Ok(password) if !password.trim().is_empty() => Ok(password.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("read {}", path.display()))
            }
            _ => {
                let password = random::word(16);
                self.write(&path, &format!("{password}\n"), 0o600)?;
                Ok(password)
            }
        }
    }

    /// Writes a file, which belongs to the person who ran sudo.
    pub(super) fn write(&self, path: &Path, text: &str, mode: u32) -> Result<()> {
        files::write(path, text, mode)?;
        give_to_caller(path)
    }

    /// Puts `program` into `bin`, as a link.
    pub(super) fn link_program(&self, program: &Path) -> Result<PathBuf> {
        let bin = self.dir.join("bin");
        files::make_dir(&bin, 0o755)?;
        let link = bin.join(program.file_name().context("a program has a name")?);
        files::remove_file(&link)?;
        std::os::unix::fs::symlink(program, &link).with_context(|| format!("link {}", link.display()))?;
        Ok(link)
    }
}

/// Gives a file to the person who ran sudo, if that is how this process became root.
pub(super) fn give_to_caller(path: &Path) -> Result<()> {
    let Some((user, group)) = caller() else { return Ok(()) };
    chown(path, Some(user), Some(group)).with_context(|| format!("give {} to its user", path.display()))
}

/// User and group of the person who ran sudo.
pub(super) fn caller() -> Option<(u32, u32)> {
    let id = |name| env::var(name).ok()?.parse::<u32>().ok();
    if !Uid::effective().is_root() {
        return None;
    }
    Some((id("SUDO_UID").filter(|user| *user != 0)?, id("SUDO_GID")?))
}
