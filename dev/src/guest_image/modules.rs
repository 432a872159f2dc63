//! Finds kernel modules and the order in which they must be loaded, from the modules themselves.
//!
//! The guest then needs neither `modprobe` nor an index, and the machine that builds the image needs no `depmod`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::command;

/// The modules of one kernel.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module as the kernel takes it: its name and its ELF image.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) image: Vec<u8>,
}

/// What to do about a module that a kernel does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The guest cannot do without.
    Required,
    /// The guest only lacks what the module is for.
    Optional,
}

impl Modules {
    /// Lists the modules under `directory`, the kernel's own directory of modules.
    pub(super) fn list(directory: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut pending = vec![directory.to_owned()];
        while let Some(next) = pending.pop() {
            let entries = fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))?;
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
                    files.insert(name, entry.path());
                }
            }
        }
        let built_in = fs::read_to_string(directory.join("modules.builtin"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| module_name(line.rsplit('/').next()?))
            .collect();
        Ok(Self { files, built_in })
    }

    /// Appends `name` to `loaded`, after the modules it depends on, if it is not there yet.
    pub(super) async fn load(&self, name: &str, need: Need, loaded: &mut Vec<Module>) -> anyhow::Result<()> {
        // Depth first, without recursion: a module is taken up again when all it depends on is in.
        let mut pending = vec![name.to_owned()];
        let mut opened: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        while let Some(next) = pending.pop() {
            if self.built_in.contains(&next) || loaded.iter().any(|module| module.name == next) {
                continue;
            }
            if let Some(image) = opened.remove(&next) {
                loaded.push(Module { name: next, image });
                continue;
            }
            let Some(file) = self.files.get(&next) else {
                if next == name && need == Need::Optional {
                    tracing::debug!(module = name, "the guest's kernel lacks an optional module");
                    return Ok(());
                }
                bail!("the kernel has no module {next}");
            };
            let image = read(file).await?;
            let dependencies = dependencies(&image);
            if dependencies.iter().any(|dependency| opened.contains_key(dependency)) {
                bail!("the module {next} depends on itself");
            }
            opened.insert(next.clone(), image);
            pending.push(next);
            pending.extend(dependencies);
        }
        Ok(())
    }
}

/// Reads a module, unpacked: whether the kernel can do that itself depends on how it was configured.
async fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let directory = file.parent().unwrap_or(Path::new("/"));
    command::run(program, &["-dc".as_ref(), file.as_os_str()], directory).await
}

/// The name of the module in a file called `file_name`, as other modules refer to it.
fn module_name(file_name: &str) -> Option<String> {
    let (name, suffix) = file_name.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

/// The modules that `image` says it depends on, in its section `.modinfo` of strings ended by a zero byte.
fn dependencies(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value: Vec<u8> = image.iter().skip(start + KEY.len()).copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_image() {
        assert_eq!(dependencies(b"ELF..license=GPL\0depends=virtio-ring,virtio\0name=x\0"), ["virtio_ring", "virtio"]);
        assert_eq!(dependencies(b"ELF..license=GPL\0depends=\0name=x\0"), [""; 0]);
        assert_eq!(dependencies(b"ELF"), [""; 0]);
    }

    #[test]
    fn names_do_not_depend_on_compression() {
        assert_eq!(module_name("virtio-rng.ko"), Some("virtio_rng".to_owned()));
        assert_eq!(module_name("fat.ko.xz"), Some("fat".to_owned()));
        assert_eq!(module_name("fat.ko.zst"), Some("fat".to_owned()));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("fat.kore"), None);
    }

    #[tokio::test]
    async fn a_module_comes_after_what_it_depends_on_and_only_once() {
        let directory = std::env::temp_dir().join(format!("kvmoor-modules-{}", std::process::id()));
        fs::create_dir_all(directory.join("kernel")).unwrap();
        for (name, depends) in [("top", "left,right"), ("left", "base"), ("right", "left,inside"), ("base", "")] {
            fs::write(directory.join(format!("kernel/{name}.ko")), format!("\0depends={depends}\0")).unwrap();
        }
        fs::write(directory.join("modules.builtin"), "kernel/inside.ko\n").unwrap();

        let modules = Modules::list(&directory).unwrap();
        let mut loaded = Vec::new();
        modules.load("base", Need::Required, &mut loaded).await.unwrap();
        modules.load("top", Need::Required, &mut loaded).await.unwrap();
        modules.load("absent", Need::Optional, &mut loaded).await.unwrap();
        let absent = modules.load("absent", Need::Required, &mut loaded).await;
        fs::remove_dir_all(&directory).unwrap();

        assert_eq!(
            loaded.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(),
            ["base", "left", "right", "top"]
        );
        assert!(absent.is_err());
    }
}
