//! Files of the checkout that this crate was built from: what the chart installs is also what is applied here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize as _;

/// The root of the checkout.
pub fn root() -> PathBuf {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    this.parent().unwrap_or(this).to_owned()
}

/// All YAML documents of the files in `charts/kvmoor/files/KIND`, in the order of the files' names.
pub(super) fn documents(kind: &str) -> Result<Vec<serde_json::Value>> {
    let dir = root().join("charts/kvmoor/files").join(kind);
    let entries = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    let mut documents = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        documents.extend(parse(&text).with_context(|| format!("parse {}", path.display()))?);
    }
    Ok(documents)
}

fn parse(text: &str) -> Result<Vec<serde_json::Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_names_only_what_is_asked_for() {
        let rbac = documents("rbac").unwrap();
        let everything = serde_json::Value::from("*");
        for document in &rbac {
            for rule in document["rules"].as_array().into_iter().flatten() {
                for field in ["apiGroups", "resources", "verbs"] {
                    assert!(!rule[field].as_array().unwrap().contains(&everything), "{document}");
                }
            }
        }
        let of = |kind: &str| rbac.iter().filter(|document| document["kind"] == kind).count();
        assert_eq!((of("ServiceAccount"), of("ClusterRole"), of("Role")), (3, 7, 3));
        assert_eq!(documents("policies").unwrap().len(), 10);
    }
}
