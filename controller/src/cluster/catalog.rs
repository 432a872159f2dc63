//! The catalog: Images, classes and the default Quota that whoever installed Kvmoor wants to be there, from a file.
//!
//! They cannot come with the definitions: Helm looks up all kinds of a chart before it makes any of them. So the chart
//! brings a file, and the leader applies it once. What the file does not name is left alone; the Quota is applied again
//! only when the file says something new, because admins change it too.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use kvmoor_crds::{Image, Quota, VirtualMachineClass, names};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::cluster::writer::{WriteError, Writer};

/// Field manager of what stands in the catalog.
const MANAGER: &str = "kvmoor-catalog";
/// Annotation of the default Quota: what the catalog said when it was applied.
const DIGEST_ANNOTATION: &str = "kvmoor.dev/catalog";
/// The classes of an installation whose catalog says nothing of classes: name, virtual CPUs, memory, disk. They are those
/// of the chart's values.
const CLASSES: [(&str, u32, &str, &str); 4] = [
    ("small", 1, "2Gi", "20Gi"),
    ("medium", 2, "4Gi", "40Gi"),
    ("large", 4, "8Gi", "80Gi"),
    ("xlarge", 8, "16Gi", "160Gi"),
];
/// Bounds of the delay between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be there.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    #[serde(default)]
    images: Vec<Entry>,
    #[serde(default)]
    classes: Option<Vec<Entry>>,
    /// The spec of the default Quota.
    #[serde(default)]
    quota: Option<Value>,
}

/// An Image or a class.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// As it is: the API server judges it, and says what is wrong with which field.
    spec: Value,
}

/// Why there is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file cannot be read.
    #[error("cannot read the catalog {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a catalog.
    #[error(
        "the catalog {path} must have `images` and `classes`, lists of name and spec, and `quota`, the spec of a Quota"
    )]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_yaml::Error,
    },
}

impl Catalog {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, CatalogError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| CatalogError::Read { path: path.to_owned(), source })?;
        serde_yaml::from_str(&text).map_err(|source| CatalogError::Parse { path: path.to_owned(), source })
    }

    fn objects(self) -> Vec<Object> {
        let Self { images, classes, quota } = self;
        let images = images.into_iter().map(Object::Image);
        let classes = classes.unwrap_or_else(usual_classes).into_iter().map(Object::Class);
        images.chain(classes).chain(quota.map(Object::Quota)).collect()
    }
}

fn usual_classes() -> Vec<Entry> {
    let entry = |(name, cpu, memory, disk): (&str, _, _, _)| Entry {
        name: name.to_owned(),
        spec: json!({ "cpu": cpu, "memory": memory, "disk": disk }),
    };
    CLASSES.map(entry).into()
}

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
enum Object {
    Image(Entry),
    Class(Entry),
    Quota(Value),
}

/// What the loop works with.
pub struct Context {
    /// For reads and writes.
    pub writer: Writer,
    /// What is to be there.
    pub catalog: Catalog,
    /// Where the default Quota is.
    pub system_namespace: String,
    /// When to stop.
    pub stop: CancellationToken,
}

/// Applies the catalog, again and again until the API server has judged all of it, and then waits to be told to stop.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let Context { writer, catalog, system_namespace, stop } = context;
    let mut due = catalog.objects();
    let mut delay = RETRY.0;
    while !due.is_empty() {
        let mut failed = Vec::new();
        for object in due {
            if !settled(&object, apply(&writer, &system_namespace, &object).await) {
                failed.push(object);
            }
        }
        due = failed;
        if due.is_empty() || stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            break;
        }
        delay = (delay * 2).min(RETRY.1);
    }
    stop.cancelled().await;
    Ok(())
}

/// Whether an attempt has settled it. What the API server finds wrong is not tried again: only another catalog helps.
fn settled(object: &Object, outcome: Result<(), WriteError>) -> bool {
    let name = match object {
        Object::Image(entry) => format!("Image {}", entry.name),
        Object::Class(entry) => format!("VirtualMachineClass {}", entry.name),
        Object::Quota(_) => "default Quota".to_owned(),
    };
    match outcome {
        Ok(()) => true,
        Err(WriteError::Refused(status)) if matches!(status.code, 400 | 422) => {
            let message = &status.message;
            tracing::error!(
                message,
                "the {name} of the catalog was refused; of an Image that is there, url, sha256 and format never change, \
                 nor does the size of a class: give the new one another name"
            );
            true
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot apply the {name} of the catalog, trying again"
            );
            false
        }
    }
}

async fn apply(writer: &Writer, namespace: &str, object: &Object) -> Result<(), WriteError> {
    match object {
        Object::Image(entry) => apply_entry::<Image>(writer, entry).await,
        Object::Class(entry) => apply_entry::<VirtualMachineClass>(writer, entry).await,
        Object::Quota(spec) => {
            let api: Api<Quota> = Api::namespaced(writer.client(), namespace);
            let digest = digest(spec);
            let present = writer.read(api.get_opt(names::QUOTA_NAME)).await?;
            if !quota_is_due(present.as_ref(), &digest) {
                return Ok(());
            }
            let body = json!({
                "apiVersion": Quota::api_version(&()), "kind": Quota::kind(&()),
                "metadata": { "name": names::QUOTA_NAME, "annotations": { DIGEST_ANNOTATION: digest } }, "spec": spec,
            });
            writer.write(api.patch(names::QUOTA_NAME, &params(), &Patch::Apply(body))).await.map(|_| ())
        }
    }
}

async fn apply_entry<K>(writer: &Writer, Entry { name, spec }: &Entry) -> Result<(), WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(writer.client());
    let body = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name }, "spec": spec,
    });
    writer.write(api.patch(name, &params(), &Patch::Apply(body))).await.map(|_| ())
}

fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force().validation_strict()
}

/// Whether the catalog says something that was not applied before.
fn quota_is_due(present: Option<&Quota>, digest: &str) -> bool {
    present.is_none_or(|quota| quota.annotations().get(DIGEST_ANNOTATION).is_none_or(|applied| applied != digest))
}

/// Fields are in the order of their names, so that the order in the file does not matter.
fn digest(spec: &Value) -> String {
    let hash = Sha256::digest(spec.to_string().as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use kvmoor_crds::VirtualMachineClassSpec;

    use super::*;

    fn parse(text: &str) -> Result<Catalog, serde_yaml::Error> {
        serde_yaml::from_str(text)
    }

    #[test]
    fn reads_what_the_chart_writes() {
        let text = "images:\n- name: a-1\n  spec: {url: 'https://e.org/a', format: raw}\n\
                    classes:\n- name: s\n  spec: {cpu: 1, memory: 1Gi}\nquota:\n  maxVms: 3\n";
        let objects = parse(text).unwrap().objects();
        let spec = json!({ "url": "https://e.org/a", "format": "raw" });
        let image = Object::Image(Entry { name: "a-1".into(), spec });
        let class = Object::Class(Entry { name: "s".into(), spec: json!({ "cpu": 1, "memory": "1Gi" }) });
        assert_eq!(objects, [image, class, Object::Quota(json!({ "maxVms": 3 }))]);
        assert_eq!(parse("images: []\nclasses: []\n").unwrap().objects(), []);
        assert!(parse("image: []\n").is_err());
    }

    #[test]
    fn without_a_word_of_classes_there_are_those_of_the_chart() {
        let values: Value = serde_yaml::from_str(include_str!("../../../charts/kvmoor/values.yaml")).unwrap();
        let of_the_chart = &values["classes"];
        let objects = parse("images: []\n").unwrap().objects();
        assert_eq!(of_the_chart.as_object().unwrap().len(), objects.len());
        for object in &objects {
            let Object::Class(Entry { name, spec }) = object else { panic!("{object:?}") };
            serde_json::from_value::<VirtualMachineClassSpec>(spec.clone()).unwrap();
            let mut expected = of_the_chart[name].clone();
            assert_eq!(expected.as_object_mut().unwrap().remove("enabled"), Some(json!(true)));
            assert_eq!(*spec, expected, "{name}");
        }
        assert_eq!(Catalog::default().objects(), objects);
    }

    #[test]
    fn what_an_admin_made_of_the_quota_stays_until_the_catalog_changes() {
        let old = digest(&json!({ "maxVms": 3, "maxCpu": 1 }));
        assert_eq!(old, digest(&json!({ "maxCpu": 1, "maxVms": 3 })));
        let quota = |annotations: Value| -> Quota {
            let spec = json!({ "maxVms": 99, "maxCpu": 1, "maxMemory": "1Gi" });
            let metadata = json!({ "name": "default", "annotations": annotations });
            serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
        };
        let applied = quota(json!({ DIGEST_ANNOTATION: old }));
        assert!(!quota_is_due(Some(&applied), &old));
        assert!(quota_is_due(Some(&applied), &digest(&json!({ "maxVms": 4 }))));
        assert!(quota_is_due(Some(&quota(json!({}))), &old), "made without a catalog");
        assert!(quota_is_due(None, &old));
    }
}
