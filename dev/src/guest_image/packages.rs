//! Unpacks Debian and Ubuntu packages without installing them: nothing on the machine changes, and root is not needed.

use std::{fs, path::Path};

use anyhow::Context as _;

use super::command;

/// Downloads `packages` and unpacks them all into the new directory `root`.
pub(crate) async fn unpack(packages: &[String], root: &Path) -> anyhow::Result<()> {
    let downloads = root.with_extension("download");
    for directory in [root, &downloads] {
        fs::create_dir(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let mut args = vec!["download".to_owned()];
    args.extend_from_slice(packages);
    command::run("apt-get", &args, &downloads)
        .await
        .with_context(|| format!("cannot download {} (if apt's lists are old: apt-get update)", packages.join(", ")))?;
    for entry in fs::read_dir(&downloads)? {
        let package = entry?.path();
        command::run("dpkg-deb", &["-x".as_ref(), package.as_os_str(), root.as_os_str()], &downloads).await?;
    }
    fs::remove_dir_all(&downloads)?;
    Ok(())
}
