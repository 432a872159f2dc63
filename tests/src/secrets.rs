//! Every secret that a run makes, and whether any log has one.
//!
//! They come together here and nowhere else: [`Rest`](crate::rest::Rest) tells of what goes in and comes out,
//! [`follow`] of every Secret of the cluster, and [`token`](crate::token) of tokens that it signs itself. What only a
//! program knows, such as the token that the API server shows to a host, is found by its shape.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// What is shorter than this may stand in a log by chance, such as the password `password` of the reference.
const LEAST: usize = 9;
/// Words in the names of fields whose value is a secret.
const FIELDS: [&str; 6] = ["password", "token", "ticket", "secret", "userdata", "user_data"];
/// What shows a secret by its shape: password hashes and private keys.
const SHAPES: [&str; 3] = ["$argon2", "PRIVATE KEY-----", "Bearer ey"];

static MADE: Mutex<BTreeMap<Vec<u8>, String>> = Mutex::new(BTreeMap::new());

/// Takes note of a secret; `what` names it where it is found.
pub fn made(what: &str, secret: &[u8]) {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    for form in forms(secret) {
        made.entry(form).or_insert_with(|| what.to_owned());
    }
}

/// Takes note of what is secret in a body of the REST API.
pub fn made_in(what: &str, body: &Value) {
    match body {
        Value::Object(fields) => {
            for (name, value) in fields {
                let lower = name.to_ascii_lowercase();
                match value.as_str().filter(|_| FIELDS.iter().any(|word| lower.contains(word))) {
                    Some(secret) => made(&format!("{name} of {what}"), secret.as_bytes()),
                    None => made_in(what, value),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| made_in(what, item)),
        _ => {}
    }
}

/// Takes note of every Secret of the cluster, for as long as the task runs.
pub fn follow(client: Client) -> tokio::task::JoinHandle<()> {
    let secrets = watcher(Api::<Secret>::all(client), watcher::Config::default()).default_backoff().applied_objects();
    tokio::spawn(secrets.for_each(|secret| {
        if let Ok(secret) = secret {
            for (key, ByteString(value)) in secret.data.iter().flatten().filter(|(key, _)| *key != "username") {
                made(&format!("{key} of the Secret {}", secret.name_any()), value);
            }
        }
        std::future::ready(())
    }))
}

/// A secret as it may be written: as it is, in JSON, in base64, and a key as Rust prints bytes.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    if let Ok(text) = std::str::from_utf8(secret) {
        let json = Value::from(text).to_string();
        forms.push(json.trim_matches('"').as_bytes().to_vec());
        // Of a token, its signature alone is worth nothing, but must come from the token.
        if let [_, payload, signature] = text.split('.').collect::<Vec<_>>().as_slice() {
            forms.extend([payload, signature].map(|part| part.as_bytes().to_vec()));
        }
        // A text of many lines may be logged line by line.
        forms
            .extend(text.lines().map(str::trim).filter(|line| line.contains(' ')).map(|line| line.as_bytes().to_vec()));
    } else {
        let bytes: Vec<String> = secret.iter().take(16).map(u8::to_string).collect();
        forms.push(bytes.join(", ").into_bytes());
    }
    if let Ok(Value::String(base64)) = serde_json::to_value(ByteString(secret.to_vec())) {
        forms.push(base64.trim_end_matches('=').as_bytes().to_vec());
    }
    forms.retain(|form| form.len() >= LEAST);
    forms.sort();
    forms.dedup();
    forms
}

/// A secret in a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// The file.
    pub file: PathBuf,
    /// What was found. Not the secret itself: this is printed.
    pub what: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// How many forms of secrets were looked for.
    pub secrets: usize,
    /// The logs that were read.
    pub files: BTreeSet<PathBuf>,
    /// Bytes of all of them.
    pub bytes: usize,
    /// What was found.
    pub leaks: BTreeSet<Leak>,
}

/// Looks through all logs below a cluster's directory.
pub fn search(cluster: &Path) -> Result<Search> {
    for file in files(cluster)?.into_iter().filter(|file| file.to_string_lossy().ends_with("token")) {
        made(&format!("token in {}", file.display()), std::fs::read(&file)?.trim_ascii());
    }
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(!made.is_empty(), "no secret was made");
    let logs = files(cluster)?.into_iter().filter(|file| is_log(file.strip_prefix(cluster).unwrap_or(file)));
    search_in(&made, logs)
}

fn search_in(made: &BTreeMap<Vec<u8>, String>, logs: impl Iterator<Item = PathBuf>) -> Result<Search> {
    let shapes = SHAPES.map(|shape| (shape.as_bytes().to_vec(), format!("{shape}…")));
    let (forms, names): (Vec<_>, Vec<_>) = made.clone().into_iter().chain(shapes).unzip();
    let secrets = AhoCorasick::new(&forms)?;
    let mut search = Search { secrets: forms.len(), ..Search::default() };
    for file in logs {
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let found = secrets.find_iter(&text).map(|found| names[found.pattern().as_usize()].clone());
        let found = found.chain(has_token(&text).then(|| "a signed token, by its shape".to_owned()));
        search.leaks.extend(found.map(|what| Leak { file: file.clone(), what }));
        search.bytes += text.len();
        search.files.insert(file);
    }
    Ok(search)
}

/// Whether there is a JSON Web Token: three parts in base64url, of which the first begins as JSON objects do.
fn has_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.split(|byte| !is_part(byte)).any(|word| {
        let parts: Vec<&[u8]> = word.split(|byte| *byte == b'.').collect();
        matches!(parts.as_slice(), [head, claims, signature]
            if head.starts_with(b"eyJ") && claims.starts_with(b"eyJ") && signature.len() >= 20)
    })
}

fn is_log(path: &Path) -> bool {
    let in_logs = path.components().any(|part| part.as_os_str() == "log" || part.as_os_str() == "logs");
    in_logs || path.file_name().is_some_and(|name| name.to_string_lossy().contains(".log"))
}

/// All regular files below `dir`; what disappears meanwhile is none.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaks(secret: &[u8], log: &str) -> usize {
        let dir = std::env::temp_dir().join(format!("kvmoor-secrets-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("x.log"), log).unwrap();
        let made = forms(secret).into_iter().map(|form| (form, "it".to_owned())).collect();
        let found = search_in(&made, files(&dir).unwrap().into_iter()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        found.leaks.len()
    }

    #[test]
    fn a_secret_is_found_in_whatever_form() {
        assert_eq!(leaks(b"correct horse", "line\nwith correct horse in it\n"), 1);
        assert_eq!(leaks(b"say \"horse\"", r#"{"password":"say \"horse\""}"#), 1);
        assert_eq!(leaks(b"correct horse", "Y29ycmVjdCBob3JzZQ=="), 1);
        assert_eq!(
            leaks(
                &[0xff; 32],
                "Key([255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255])"
            ),
            1
        );
        assert_eq!(leaks(b"#cloud-config\npassword: swordfish\n", "cloud-init: password: swordfish"), 1);
        assert_eq!(leaks(b"correct horse", "the horse is correct"), 0);
    }

    #[test]
    fn what_nobody_registered_is_found_by_its_shape() {
        assert_eq!(leaks(b"unrelated", "$argon2id$v=19$m=19456"), 1);
        assert_eq!(leaks(b"unrelated", "token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl "), 1);
        assert_eq!(leaks(b"unrelated", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0 and more"), 0);
    }

    #[test]
    fn bodies_tell_their_secrets() {
        made_in(
            "a test",
            &json!({ "username": "somebody-else", "new_password": "swordfish-1", "vm": { "userData": "swordfish-2" } }),
        );
        let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(made.contains_key("swordfish-1".as_bytes()) && made.contains_key("swordfish-2".as_bytes()));
        assert!(!made.contains_key("somebody-else".as_bytes()));
    }

    #[test]
    fn logs_are_known_by_their_place() {
        for path in ["logs/api-server.log", "control-plane/audit.log", "audit-2026.log.1", "hosts/0/log/qemu/x"] {
            assert!(is_log(Path::new(path)), "{path}");
        }
        assert!(!is_log(Path::new("components/api-server.token")) && !is_log(Path::new("hosts/0/lib/images/x.qcow2")));
    }
}
