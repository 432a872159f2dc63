//! Who wrote what through the Kubernetes API, from its audit log.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// A finished write.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Who wrote.
    pub user: EntryUser,
    /// What was written.
    #[serde(default)]
    pub object_ref: EntryObject,
    /// The answer.
    #[serde(default)]
    pub response_status: EntryStatus,
    /// When the request came in.
    pub request_received_timestamp: Timestamp,
    /// The stage: every entry read here is `ResponseComplete` or `Panic`.
    pub stage: String,
}

/// The writer of an [`Entry`].
#[derive(Clone, Debug, Deserialize)]
pub struct EntryUser {
    /// A Kubernetes user name, such as `system:serviceaccount:kvmoor-system:kvmoor-controller-node`.
    pub username: String,
}

/// The object of an [`Entry`]; empty where it does not apply.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryObject {
    /// Plural name of the resource.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The API group.
    pub api_group: String,
}

/// The answer to an [`Entry`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EntryStatus {
    /// HTTP status code.
    pub code: u16,
}

/// All finished writes in the log, oldest first.
///
/// # Errors
/// When the file cannot be read or a line is not an audit event.
pub fn read(log: &Path) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    // The last line may be half written.
    let complete = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let entries = complete.lines().map(|line| serde_json::from_str::<Entry>(line).context("parse an audit event"));
    let mut entries = entries.collect::<Result<Vec<_>>>()?;
    entries.retain(|entry| entry.stage == "ResponseComplete" || entry.stage == "Panic");
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_a_half_line_is_not() {
        let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","stage":"ResponseComplete",
            "verb":"patch","user":{"username":"a"},"objectRef":{"resource":"virtualmachines","subresource":"status",
            "namespace":"n","name":"vm","apiGroup":"kvmoor.dev"},"responseStatus":{"metadata":{},"code":200},
            "requestReceivedTimestamp":"2026-11-24T19:00:00.123456Z"}"#
            .replace('\n', "");
        let path = std::env::temp_dir().join(format!("kvmoor-audit-test-{}", std::process::id()));
        fs::write(&path, format!("{line}\n{{\"kind\"")).unwrap();
        let entries = read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].object_ref.subresource, "status");
        assert_eq!(entries[0].response_status.code, 200);
    }
}
