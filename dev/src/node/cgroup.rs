//! The control groups of a node's containers. Whatever a container starts stays in its group, so that names all of them,
//! also when everybody who knew their process ids is dead; which containers there are containerd has on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::process::ProcessId;

/// Where control groups are: version 2 here, version 1 in a directory for each controller.
const ROOT: &str = "/sys/fs/cgroup";
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// Where containerd puts the containers of Kubernetes.
const PARENT: &str = "k8s.io";
/// Where the image `libvirt` puts guests, so that they outlive its container. Whoever ends the libvirt host ends them.
const GUESTS: &str = "kvmoor-libvirt";

/// Ends all containers that have a directory in `tasks`, which may be absent.
pub(crate) fn end_containers(tasks: &Path) -> Result<()> {
    for container in fs::read_dir(tasks).into_iter().flatten().flatten() {
        end(&format!("{PARENT}/{}", container.file_name().to_string_lossy()))?;
    }
    remove_empty(PARENT);
    Ok(())
}

/// Removes the group of guests. Those of another node may be in it: then it stays.
pub(crate) fn remove_guests_group() {
    remove_empty(GUESTS);
}

/// Removes the group `name` where nothing is in it; another node's may be.
fn remove_empty(name: &str) {
    groups(Path::new(ROOT), name).iter().for_each(|group| drop(fs::remove_dir(group)));
}

/// Kills every process in the group `name` and removes it. It may be absent.
fn end(name: &str) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let groups = groups(Path::new(ROOT), name);
        if groups.is_empty() {
            return Ok(());
        }
        // Again and again: a process may have forked since the last look, and a dead one holds its group for a moment.
        for group in &groups {
            processes(group).for_each(|process| {
                process.signal(Signal::SIGKILL);
            });
            remove(group);
        }
        if Instant::now() > end {
            bail!("the control groups {groups:?} cannot be removed");
        }
        thread::sleep(PAUSE);
    }
}

/// The group in each hierarchy that has it.
fn groups(root: &Path, name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut groups: Vec<PathBuf> = hierarchies.chain([root.to_owned()]).map(|root| root.join(name)).collect();
    groups.retain(|group| group.join("cgroup.procs").exists());
    groups
}

/// The processes in `group` and below.
fn processes(group: &Path) -> Box<dyn Iterator<Item = ProcessId>> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own: Vec<ProcessId> = own.lines().filter_map(|line| ProcessId::of(line.parse().ok()?)).collect();
    let below: Vec<PathBuf> = children(group).collect();
    Box::new(own.into_iter().chain(below.into_iter().flat_map(|group| processes(&group))))
}

/// Removes `group` and those below, as far as they are empty.
fn remove(group: &Path) {
    children(group).for_each(|child| remove(&child));
    // One that is not empty yet is tried again.
    drop(fs::remove_dir(group));
}

fn children(group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_in_each_hierarchy_that_has_it() {
        let root = std::env::temp_dir().join(format!("kvmoor-cgroup-test-{}", std::process::id()));
        for dir in ["memory/ours", "cpu/ours", "cpu/other"] {
            fs::create_dir_all(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("cgroup.procs"), "").unwrap();
        }
        let mut found = groups(&root, "ours");
        found.sort();
        assert_eq!(found, [root.join("cpu/ours"), root.join("memory/ours")]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn one_that_is_absent_is_no_error() {
        end("kvmoor-of-nobody").unwrap();
    }
}
