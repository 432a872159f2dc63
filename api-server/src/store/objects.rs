//! All objects of a kind, with the indexes that requests need.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use kvmoor_crds::{
    Host, Image, Quota, User, VirtualMachine, VirtualMachineClass, VirtualMachineRestore, VirtualMachineSnapshot,
};
use serde::de::DeserializeOwned;

use super::numbers::Numbers;
use super::version::Version;

/// A kind that is kept in memory.
pub trait Stored: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {
    /// The small number in the REST API, once it is given.
    fn id(&self) -> Option<i64> {
        None
    }

    /// The namespace that belongs to this object, if it is one that owns a namespace.
    fn tenant_namespace(&self) -> Option<&str> {
        None
    }

    /// Drops what no request reads, to save memory.
    fn slim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

impl Stored for VirtualMachine {
    fn id(&self) -> Option<i64> {
        self.status.as_ref()?.id
    }
}

impl Stored for VirtualMachineSnapshot {
    fn id(&self) -> Option<i64> {
        self.status.as_ref()?.id
    }
}

impl Stored for VirtualMachineRestore {}

impl Stored for User {
    fn id(&self) -> Option<i64> {
        self.status.as_ref()?.id
    }

    fn tenant_namespace(&self) -> Option<&str> {
        self.status.as_ref()?.namespace.as_deref()
    }

    /// A user has no other trace of when it was changed than the managed fields.
    fn slim(&mut self) {}
}

impl Stored for Quota {
    fn id(&self) -> Option<i64> {
        self.status.as_ref()?.id
    }
}

impl Stored for Image {}

impl Stored for VirtualMachineClass {}

impl Stored for Host {}

/// Where an object stands. The namespace of cluster-scoped ones is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }

    /// A key in a namespace.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// All objects of a kind.
#[derive(Debug)]
pub struct Objects<K> {
    by_key: BTreeMap<Key, Arc<K>>,
    by_id: BTreeMap<i64, Key>,
    by_uid: HashMap<String, Key>,
    by_tenant: HashMap<String, Key>,
    newest: Version,
    numbers: Numbers,
    synced: bool,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_uid: HashMap::new(),
            by_tenant: HashMap::new(),
            newest: Version::default(),
            numbers: Numbers::default(),
            synced: false,
        }
    }
}

impl<K: Stored> Objects<K> {
    /// Whether a complete listing was ever seen.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The greatest resource version seen. Watches are in order: everything up to it was seen.
    pub fn newest(&self) -> &Version {
        &self.newest
    }

    /// The object with that key.
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.by_key.get(key)
    }

    /// The object with that id.
    pub fn by_id(&self, id: i64) -> Option<&Arc<K>> {
        self.by_key.get(self.by_id.get(&id)?)
    }

    /// Whether an object with that id, which is not there, may be one that was not heard of yet.
    pub fn may_come(&self, id: i64) -> bool {
        self.numbers.may_come(id)
    }

    /// The object with that UID.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<K>> {
        self.by_key.get(self.by_uid.get(uid)?)
    }

    /// The object that owns that namespace.
    pub fn by_tenant(&self, namespace: &str) -> Option<&Arc<K>> {
        self.by_key.get(self.by_tenant.get(namespace)?)
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let start = Key::namespaced(namespace, "");
        self.by_key.range(start..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// All objects, by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.by_key.values()
    }

    /// All objects that have an id, by id.
    pub fn numbered(&self) -> impl Iterator<Item = (i64, &Arc<K>)> {
        self.by_id.iter().filter_map(|(id, key)| Some((*id, self.by_key.get(key)?)))
    }

    /// Takes a complete listing.
    pub(super) fn replace(&mut self, objects: Vec<K>) {
        let newest = std::mem::take(&mut self.newest);
        let mut numbers = std::mem::take(&mut self.numbers);
        objects.iter().filter_map(K::id).for_each(|id| numbers.listed(id));
        *self = Self { newest, numbers, synced: true, ..Self::default() };
        for object in objects {
            self.put(object);
        }
    }

    /// Takes a new or changed object.
    pub fn put(&mut self, mut object: K) -> Arc<K> {
        object.slim();
        let key = Key::of(&object);
        self.unindex(&key);
        self.newest = std::mem::take(&mut self.newest).max(Version::of(&object));
        if let Some(id) = object.id() {
            self.numbers.seen(id);
            self.by_id.insert(id, key.clone());
        }
        if let Some(uid) = object.uid() {
            self.by_uid.insert(uid, key.clone());
        }
        if let Some(namespace) = object.tenant_namespace() {
            self.by_tenant.insert(namespace.to_owned(), key.clone());
        }
        let object = Arc::new(object);
        self.by_key.insert(key, object.clone());
        object
    }

    /// Forgets an object, whose last version was `version`.
    pub(super) fn remove(&mut self, key: &Key, version: Version) {
        self.unindex(key);
        self.by_key.remove(key);
        self.newest = std::mem::take(&mut self.newest).max(version);
    }

    fn unindex(&mut self, key: &Key) {
        let Some(old) = self.by_key.get(key) else { return };
        if let Some(id) = old.id().filter(|id| self.by_id.get(id) == Some(key)) {
            self.by_id.remove(&id);
        }
        if let Some(uid) = old.uid() {
            self.by_uid.remove(&uid);
        }
        if let Some(namespace) = old.tenant_namespace().filter(|namespace| self.by_tenant.get(*namespace) == Some(key))
        {
            self.by_tenant.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvmoor_crds::{UserSpec, UserStatus};

    use super::*;

    fn user(name: &str, uid: &str, id: Option<i64>, version: &str) -> User {
        let spec: UserSpec = serde_json::from_value(serde_json::json!({ "username": name })).unwrap();
        let mut user = User::new(name, spec);
        user.metadata.uid = Some(uid.to_owned());
        user.metadata.resource_version = Some(version.to_owned());
        user.status = Some(UserStatus { id, namespace: id.map(|_| format!("ns-{name}")), conditions: vec![] });
        user
    }

    #[test]
    fn indexes_follow_the_objects() {
        let mut objects = Objects::default();
        assert!(!objects.synced());
        objects.replace(vec![user("a", "ua", Some(1), "9"), user("b", "ub", None, "10")]);
        assert!(objects.synced());
        assert_eq!(objects.by_id(1).unwrap().name_any(), "a");
        assert_eq!(objects.by_tenant("ns-a").unwrap().name_any(), "a");
        assert_eq!(objects.by_uid("ub").unwrap().name_any(), "b");

        // The same name again, as another object: nothing of the old one is left.
        objects.put(user("a", "ua2", None, "11"));
        assert!(objects.by_id(1).is_none());
        assert!(objects.by_uid("ua").is_none());
        assert!(objects.by_tenant("ns-a").is_none());

        let gone = user("b", "ub", None, "12");
        objects.remove(&Key::of(&gone), Version::of(&gone));
        assert_eq!(objects.all().count(), 1);
        assert_eq!(*objects.newest(), Version::of(&gone));
    }

    #[test]
    fn a_relisting_forgets_what_is_gone() {
        let mut objects = Objects::default();
        objects.replace(vec![user("a", "ua", Some(1), "1"), user("b", "ub", Some(2), "2")]);
        objects.replace(vec![user("b", "ub", Some(2), "2")]);
        assert!(objects.by_id(1).is_none());
        assert_eq!(objects.numbered().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
    }
}
