//! The documents say what the code does, as far as a test can see that.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kvmoor_dev::checkout_root;

/// Words in the code of the controllers that look like reasons and are none: kinds, types of conditions, steps, units.
const NO_REASONS: &[&str] = &[
    "AddressError",
    "Admit",
    "Admitted",
    "AttachDisk",
    "ClusterRole",
    "Copy",
    "Define",
    "DeleteSnapshot",
    "DeleteVolume",
    "Destroy",
    "DetachDisk",
    "Disk",
    "DiskError",
    "EnsureNetwork",
    "EnsureVolume",
    "False",
    "ForgetSnapshots",
    "GoBack",
    "GrowCpus",
    "GrowDisk",
    "GrowMemory",
    "GuestAgentConnected",
    "HostReachable",
    "Image",
    "InternalIP",
    "KiB",
    "Lease",
    "LibvirtConnected",
    "Online",
    "PressPowerButton",
    "Provisioned",
    "Quota",
    "Ready",
    "Record",
    "Released",
    "Reset",
    "RestartRequired",
    "Restore",
    "Resume",
    "RetryDisks",
    "Revert",
    "Schedule",
    "Scheduled",
    "ServiceAccount",
    "Snapshot",
    "Source",
    "Stalled",
    "Start",
    "Suspend",
    "Synchronize",
    "Synchronized",
    "TakeSnapshot",
    "TenantReady",
    "Thaw",
    "True",
    "Undefine",
    "Unknown",
    "User",
    "UserData",
    "VirtualMachine",
    "VirtualMachineSnapshot",
    "VirtualizationUsable",
    "Watch",
    "WithouFreSpacExt",
    "WithoutFreeSpace",
    "WriteSeed",
];

#[test]
fn every_reason_of_a_condition_is_explained() -> Result<()> {
    let document = fs::read_to_string(checkout_root().join("docs/troubleshooting.md"))?;
    let words = reasons()?;
    ensure!(words.len() > 30, "only {words:?}: were the sources found?");
    let missing: Vec<_> = words.iter().filter(|word| !document.contains(&format!("`{word}`"))).collect();
    ensure!(
        missing.is_empty(),
        "docs/troubleshooting.md does not explain {missing:?}; a word that is no reason belongs to NO_REASONS in tests/tests/docs.rs"
    );
    Ok(())
}

/// The row of each kind in docs/kubectl.md has its short name and the columns that `kubectl get` prints.
#[test]
fn every_column_of_kubectl_is_documented() -> Result<()> {
    let document = fs::read_to_string(checkout_root().join("docs/kubectl.md"))?;
    for definition in kvmoor_crds::all() {
        let names = &definition.spec.names;
        let short = names.short_names.iter().flatten().next().context("a short name")?;
        let columns =
            definition.spec.versions.iter().flat_map(|version| version.additional_printer_columns.iter().flatten());
        let columns = columns.filter(|column| column.name != "Age").map(|column| match column.priority {
            Some(priority) if priority > 0 => format!("{} (with `-o wide`)", column.name),
            _ => column.name.clone(),
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        let begin = format!("| {} | `{short}` |", names.kind);
        let row = document.lines().find(|line| line.starts_with(&begin)).with_context(|| format!("no row {begin}"))?;
        ensure!(row.ends_with(&format!("| {columns} |")), "{row}\nhas not the columns {columns}");
    }
    Ok(())
}

/// Links to other documents and folders of the repository lead somewhere.
#[test]
fn links_lead_somewhere() -> Result<()> {
    let root = checkout_root();
    let mut broken = Vec::new();
    for entry in fs::read_dir(root.join("docs"))?.flatten().map(|entry| entry.path()).chain([root.join("README.md")]) {
        let text = fs::read_to_string(&entry)?;
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let is_here = !path.is_empty() && !path.contains("://");
            if is_here && !entry.parent().unwrap_or(Path::new("")).join(path).exists() {
                broken.push(format!("{}: {target}", entry.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "{broken:?}");
    Ok(())
}

/// All words in quotes of the controllers' code, outside of tests, that are written as reasons are.
fn reasons() -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    let mut files = vec![checkout_root().join("crds/src/conditions.rs")];
    sources(&checkout_root().join("controller/src"), &mut files)?;
    for file in files {
        let text = fs::read_to_string(&file)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            words.extend(line.split('"').skip(1).step_by(2).filter(|word| is_like_a_reason(word)).map(str::to_owned));
        }
    }
    words.retain(|word| !NO_REASONS.contains(&word.as_str()));
    Ok(words)
}

fn is_like_a_reason(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|first| first.is_ascii_uppercase())
        && letters.next().is_some_and(|second| second.is_ascii_lowercase())
        && letters.all(|letter| letter.is_ascii_alphabetic())
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in fs::read_dir(dir)?.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(&path, files)?;
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
    Ok(())
}
