//! kubeconfig files: one server, one identity.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::files;

/// How a kubeconfig's user proves who it is. Files are named, not copied, so that a token can be renewed in place.
pub(crate) enum Identity<'a> {
    /// A client certificate.
    Certificate { certificate: &'a Path, key: &'a Path },
    /// A file that holds a bearer token.
    TokenFile(&'a Path),
}

/// Writes a kubeconfig that only its owner may read.
pub(crate) fn write(path: &Path, server: &str, authority: &Path, identity: &Identity<'_>) -> Result<()> {
    let user = match identity {
        Identity::Certificate { certificate, key } => json!({ "client-certificate": certificate, "client-key": key }),
        Identity::TokenFile(file) => json!({ "tokenFile": file }),
    };
    write_parts(path, json!({ "server": server, "certificate-authority": authority }), user)
}

/// The same with the contents of the files in it.
pub(crate) fn write_portable(
    path: &Path,
    server: &str,
    authority: &Path,
    certificate: &Path,
    key: &Path,
) -> Result<()> {
    // Serialises as base64, as a kubeconfig wants it.
    let data = |file: &Path| fs::read(file).map(ByteString).with_context(|| format!("read {}", file.display()));
    let cluster = json!({ "server": server, "certificate-authority-data": data(authority)? });
    let user = json!({ "client-certificate-data": data(certificate)?, "client-key-data": data(key)? });
    write_parts(path, cluster, user)
}

fn write_parts(path: &Path, cluster: Value, user: Value) -> Result<()> {
    let context = json!({ "cluster": "kvmoor-dev", "user": "user", "namespace": "default" });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "kvmoor-dev", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "kvmoor-dev", "context": context }],
        "current-context": "kvmoor-dev",
    });
    let text = serde_yaml::to_string(&config).context("write a kubeconfig")?;
    files::write_private(path, text)
}
