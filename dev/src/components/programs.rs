//! Where Kvmoor's own programs are.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// The program `name` of this workspace: in `$KVMOOR_BIN_DIR`, or where Cargo has put it beside the running program (a
/// test runs in the subdirectory `deps`).
pub(super) fn find(name: &str) -> Result<PathBuf> {
    if let Some(dir) = env::var_os("KVMOOR_BIN_DIR") {
        let path = PathBuf::from(dir).join(name);
        if !path.is_file() {
            bail!("KVMOOR_BIN_DIR is set, but {} does not exist", path.display());
        }
        return Ok(path);
    }
    let this = env::current_exe().context("find the running program")?;
    let places = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let found = places.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --workspace`, or name its directory by KVMOOR_BIN_DIR")
    })
}
