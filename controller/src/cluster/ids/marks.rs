//! The ConfigMap with the marks, and how it is changed: only from the value that was expected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kvmoor_crds::names;
use tokio::sync::Mutex;

use super::Kind;
use crate::cluster::writer::{WriteError, Writer};

/// How often a change is tried that another kind's change, or a person's, gets in the way of.
const ATTEMPTS: usize = 5;

/// Why a mark was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The ConfigMap cannot be read or written.
    #[error("cannot access the ConfigMap {}", names::IDS_CONFIG_MAP)]
    Access(#[from] WriteError),
    /// The mark is not what it was thought to be.
    #[error("the mark of {kind} is {now}, not {expected}")]
    Moved {
        /// The kind.
        kind: &'static str,
        /// What the mark was thought to be.
        expected: i64,
        /// What it is.
        now: i64,
    },
    /// The ConfigMap holds something else.
    #[error(
        "the ConfigMap {} has {text:?} under {kind}: a whole number is expected, the highest id ever given",
        names::IDS_CONFIG_MAP
    )]
    Malformed {
        /// The kind.
        kind: &'static str,
        /// What stands there.
        text: String,
    },
    /// Others changed the ConfigMap each time.
    #[error("the ConfigMap {} changes too often", names::IDS_CONFIG_MAP)]
    Busy,
}

/// The marks of all kinds.
pub struct Marks {
    writer: Writer,
    namespace: String,
    /// The newest that is known.
    known: Mutex<Option<ConfigMap>>,
}

impl Marks {
    /// The marks in the system namespace.
    pub fn new(writer: Writer, namespace: String) -> Self {
        Self { writer, namespace, known: Mutex::new(None) }
    }

    /// The mark of a kind: the highest id that may have been given.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read or holds something else than a number.
    pub async fn read(&self, kind: Kind) -> Result<i64, MarkError> {
        let mut known = self.known.lock().await;
        let map = self.fetch(&mut known).await?;
        map.as_ref().map_or(Ok(0), |map| mark(map, kind))
    }

    /// Changes the mark of a kind from `expected` to `to`.
    ///
    /// # Errors
    /// [`MarkError::Moved`] when it is not `expected`; else when the ConfigMap cannot be written.
    pub async fn set(&self, kind: Kind, expected: i64, to: i64) -> Result<(), MarkError> {
        let mut known = self.known.lock().await;
        for _ in 0..ATTEMPTS {
            let map = self.fetch(&mut known).await?;
            let now = map.as_ref().map_or(Ok(0), |map| mark(map, kind))?;
            if now != expected {
                return Err(MarkError::Moved { kind: kind.as_str(), expected, now });
            }
            match self.write(map, kind, to).await {
                Ok(written) => {
                    *known = Some(written);
                    return Ok(());
                }
                Err(WriteError::Conflict) => *known = None,
                Err(error) => {
                    *known = None;
                    return Err(error.into());
                }
            }
        }
        Err(MarkError::Busy)
    }

    async fn fetch(&self, known: &mut Option<ConfigMap>) -> Result<Option<ConfigMap>, WriteError> {
        if known.is_none() {
            *known = self.writer.read(self.api().get_opt(names::IDS_CONFIG_MAP)).await?;
        }
        Ok(known.clone())
    }

    async fn write(&self, map: Option<ConfigMap>, kind: Kind, to: i64) -> Result<ConfigMap, WriteError> {
        let api = self.api();
        let (is_new, mut map) = map.map_or_else(|| (true, self.empty()), |map| (false, map));
        map.data.get_or_insert_default().insert(kind.as_str().to_owned(), to.to_string());
        let params = PostParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PostParams::default() };
        if is_new {
            self.writer.write(api.create(&params, &map)).await
        } else {
            // The version that was read goes along, so this writes nothing if somebody else did.
            self.writer.write(api.replace(names::IDS_CONFIG_MAP, &params, &map)).await
        }
    }

    fn empty(&self) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(names::IDS_CONFIG_MAP.to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::new()),
            ..ConfigMap::default()
        }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.writer.client(), &self.namespace)
    }
}

fn mark(map: &ConfigMap, kind: Kind) -> Result<i64, MarkError> {
    let Some(text) = map.data.as_ref().and_then(|data| data.get(kind.as_str())) else { return Ok(0) };
    text.parse()
        .ok()
        .filter(|mark| *mark >= 0)
        .ok_or_else(|| MarkError::Malformed { kind: kind.as_str(), text: text.clone() })
}
