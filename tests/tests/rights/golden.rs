//! `kubectl auth can-i --list` for each account, beside this file. `make rights` writes them anew.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_dev::deadline::until;
use kvmoor_dev::{Cluster, SYSTEM_NAMESPACE, checkout_root};

use crate::TENANT;

/// Roles are aggregated by a controller, and whoever judges by them hears of them a moment after they are written.
pub const AGGREGATED: Duration = Duration::from_secs(60);

/// Compares all of them.
pub async fn compare(cluster: &Cluster) -> Result<()> {
    let aggregated = || async { Ok(people(cluster).is_ok()) };
    until(AGGREGATED, "ours is aggregated to view, edit and admin", aggregated).await.or_else(|_| people(cluster))?;
    let account = |name: &str| format!("system:serviceaccount:{SYSTEM_NAMESPACE}:kvmoor-{name}");
    let mut differing = Vec::new();
    for name in ["api-server", "controller-cluster", "controller-node"] {
        for namespace in [SYSTEM_NAMESPACE, TENANT] {
            differing.extend(differs(cluster, &format!("{name}.{namespace}"), &account(name), namespace)?);
        }
    }
    differing.extend(differs(cluster, "user.tenant", "kvmoor:alice", TENANT)?);
    differing.extend(differs(cluster, "user.kvmoor-system", "kvmoor:alice", SYSTEM_NAMESPACE)?);
    ensure!(
        differing.is_empty(),
        "rights differ from those in tests/tests/rights: {differing:?}. If they are meant, run `make rights`"
    );
    people(cluster)
}

/// What view, edit and admin have of ours; the rest of these roles is Kubernetes'.
fn people(cluster: &Cluster) -> Result<()> {
    let ours = |user| -> Result<Vec<String>> {
        let list = can_i(cluster, user, TENANT)?;
        Ok(list.lines().filter(|line| line.contains("kvmoor.dev")).map(str::to_owned).collect())
    };
    let writes = |lines: &[String]| lines.iter().filter(|line| line.contains("create")).count();
    let (view, edit, admin) = (ours("vera")?, ours("edgar")?, ours("ada")?);
    ensure!(view.len() >= 4 && writes(&view) == 0, "view: {view:?}");
    ensure!(writes(&edit) == 3 && writes(&admin) == 3, "edit: {edit:?} admin: {admin:?}");
    let quotas =
        [&edit, &admin].into_iter().flatten().filter(|line| line.starts_with("quotas") && line.contains("patch"));
    ensure!(quotas.count() == 0, "people set their own quotas");
    Ok(())
}

fn differs(cluster: &Cluster, name: &str, account: &str, namespace: &str) -> Result<Option<String>> {
    let path: PathBuf = checkout_root().join(format!("tests/tests/rights/{name}.txt"));
    let is = can_i(cluster, account, namespace)?;
    if std::env::var_os("KVMOOR_WRITE").is_some() {
        std::fs::write(&path, &is)?;
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    Ok((stands != is).then(|| format!("{name}: is\n{is}")))
}

/// Its list, one rule a line with single spaces, in the order of the alphabet.
pub fn can_i(cluster: &Cluster, account: &str, namespace: &str) -> Result<String> {
    let words = ["auth", "can-i", "--list", "--as", account, "--namespace", namespace, "--kubeconfig"];
    let output = Command::new(cluster.kubectl()).args(words).arg(cluster.control_plane().admin_kubeconfig()).output();
    let output = output.context("run kubectl")?;
    ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let rule = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    // Everybody's right to ask what they may do, and to read what the server says of itself.
    let is_common = |line: &str| line.starts_with('[') || line.contains("selfsubject") || line.starts_with("Resources");
    let mut lines: Vec<_> = text.lines().map(rule).filter(|line| !is_common(line)).collect();
    lines.sort();
    Ok(lines.join("\n") + "\n")
}
