//! What a loop knows of one kind: watch events and the answers to its own writes, whichever is newer.
//!
//! A reflector's store lags behind the writes of its own process, so that a loop which counts would count too little.
//! A mirror takes in answers too. Versions are compared, so that an older event never hides a newer answer, and an
//! object that is gone is not brought back by an answer that comes late.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use rand::Rng as _;
use serde::de::DeserializeOwned;

/// The seconds after which the API server ends a watch that is then resumed; a connection that died without a word is
/// noticed little later.
const WATCH_SECONDS: u32 = 60;

/// How long a watch that failed waits before the next attempt: twice as long each time, half of it by chance. kube's own
/// back-off goes up to 30 s, for which nothing would happen after the Kubernetes API is back.
#[derive(Debug)]
pub struct WatchBackoff {
    next: Duration,
}

impl WatchBackoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(3);
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let ceiling = self.next;
        self.next = (ceiling * 2).min(Self::LONGEST);
        Some(ceiling.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What a watch tells.
#[derive(Debug)]
pub enum Change<K> {
    /// A complete list follows.
    Listing,
    /// The object is there and looks like this.
    Present(K),
    /// An object with this UID is there, but it is not of the shape that this version knows.
    Unreadable(String),
    /// The object with this UID is gone.
    Gone(String),
    /// The list is complete: what was not in it is gone.
    Listed,
}

/// A watch that never ends: failures are logged and tried again with back-off.
pub fn changes<K>(api: Api<DeserializeGuard<K>>, selection: watcher::Config) -> BoxStream<'static, Change<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    watcher(api, selection.timeout(WATCH_SECONDS))
        .backoff(WatchBackoff::default())
        .filter_map(|event| async {
            match event {
                Ok(watcher::Event::Init) => Some(Change::Listing),
                Ok(watcher::Event::InitDone) => Some(Change::Listed),
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => readable(object),
                Ok(watcher::Event::Delete(object)) => object.meta().uid.clone().map(Change::Gone),
                Err(error) => {
                    let kind = K::kind(&K::DynamicType::default()).into_owned();
                    tracing::warn!(kind, error = &error as &dyn std::error::Error, "watch failed, trying again");
                    None
                }
            }
        })
        .boxed()
}

fn readable<K: Resource>(object: DeserializeGuard<K>) -> Option<Change<K>>
where
    K::DynamicType: Default,
{
    match object.0 {
        Ok(object) => Some(Change::Present(object)),
        Err(invalid) => {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            let (namespace, name) = (invalid.metadata.namespace.as_deref(), invalid.metadata.name.as_deref());
            tracing::warn!(
                kind,
                namespace,
                name,
                error = invalid.error,
                "an object cannot be read and is left as it is"
            );
            invalid.metadata.uid.map(Change::Unreadable)
        }
    }
}

/// What a loop keeps of an object.
pub trait View<K> {
    /// What there is to keep; `previous` is what was kept of the same object before.
    fn of(object: K, previous: Option<&Self>) -> Self;
}

/// The whole object, where nothing is worked out ahead.
impl<K: Resource> View<K> for K {
    fn of(mut object: K, _previous: Option<&Self>) -> Self {
        object.meta_mut().managed_fields = None;
        object
    }
}

/// All objects of a kind, by UID.
#[derive(Debug)]
pub struct Mirror<V> {
    entries: HashMap<String, Entry<V>>,
    /// UIDs seen since the present listing began.
    listing: Option<HashSet<String>>,
    complete: bool,
}

#[derive(Debug)]
struct Entry<V> {
    version: String,
    view: Arc<V>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), listing: None, complete: false }
    }
}

impl<V> Mirror<V> {
    /// Whether every object has been seen once. Before that, nothing may be decided.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All views, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.entries.values().map(|entry| &entry.view)
    }

    /// The view of the object with that UID.
    pub fn get(&self, uid: &str) -> Option<&Arc<V>> {
        self.entries.get(uid).map(|entry| &entry.view)
    }

    /// Takes in what the watch tells; answers the UIDs of what is gone.
    pub fn apply<K: Resource>(&mut self, change: Change<K>) -> Vec<String>
    where
        V: View<K>,
    {
        match change {
            Change::Listing => self.listing = Some(HashSet::new()),
            Change::Present(object) => {
                if let (Some(listing), Some(uid)) = (&mut self.listing, &object.meta().uid) {
                    listing.insert(uid.clone());
                }
                self.insert(object);
            }
            Change::Unreadable(uid) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(uid);
                }
            }
            Change::Gone(uid) => {
                if self.entries.remove(&uid).is_some() {
                    return vec![uid];
                }
            }
            Change::Listed => {
                self.complete = true;
                if let Some(listed) = self.listing.take() {
                    let gone: Vec<String> = self.entries.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                    for uid in &gone {
                        self.entries.remove(uid);
                    }
                    return gone;
                }
            }
        }
        Vec::new()
    }

    /// Takes in the answer to a read or write of an object that was there: if it is gone by now, it stays gone.
    pub fn absorb<K: Resource>(&mut self, answer: K)
    where
        V: View<K>,
    {
        if answer.meta().uid.as_ref().is_some_and(|uid| self.entries.contains_key(uid)) {
            self.insert(answer);
        }
    }

    /// Takes in the answer to a create, which the watch tells of a little later.
    pub fn adopt<K: Resource>(&mut self, answer: K)
    where
        V: View<K>,
    {
        self.insert(answer);
    }

    fn insert<K: Resource>(&mut self, object: K)
    where
        V: View<K>,
    {
        let meta = object.meta();
        let (Some(uid), Some(version)) = (meta.uid.clone(), meta.resource_version.clone()) else { return };
        let previous = self.entries.get(&uid);
        if previous.is_some_and(|previous| !is_newer(&version, &previous.version)) {
            return;
        }
        let view = Arc::new(V::of(object, previous.map(|previous| &*previous.view)));
        self.entries.insert(uid, Entry { version, view });
    }
}

/// Whether `left` is a later version than `right`. Versions of one kind are decimal numbers without leading zeros and
/// compare as such (Kubernetes, apimachinery `util/resourceversion`).
pub fn is_newer(left: &str, right: &str) -> bool {
    (left.len(), left) > (right.len(), right)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;

    use super::*;

    fn object(uid: &str, version: u64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.uid = Some(uid.to_owned());
        map.metadata.resource_version = Some(version.to_string());
        map
    }

    fn version(mirror: &Mirror<ConfigMap>, uid: &str) -> Option<String> {
        mirror.get(uid).and_then(|map| map.resource_version())
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_newer("10", "9"));
        assert!(is_newer("11", "10"));
        assert!(!is_newer("9", "10"));
        assert!(!is_newer("10", "10"));
    }

    #[test]
    fn an_older_event_does_not_hide_an_answer() {
        let mut mirror = Mirror::default();
        mirror.apply(Change::Present(object("a", 9)));
        mirror.absorb(object("a", 11));
        mirror.apply(Change::Present(object("a", 10)));
        assert_eq!(version(&mirror, "a").as_deref(), Some("11"));
    }

    #[test]
    fn what_is_gone_stays_gone() {
        let mut mirror = Mirror::<ConfigMap>::default();
        mirror.apply(Change::Present(object("a", 1)));
        assert_eq!(mirror.apply(Change::<ConfigMap>::Gone("a".to_owned())), ["a"]);
        mirror.absorb(object("a", 2));
        assert!(mirror.get("a").is_none());
    }

    #[test]
    fn a_listing_drops_what_it_lacks() {
        let mut mirror = Mirror::<ConfigMap>::default();
        assert!(!mirror.is_complete());
        for uid in ["a", "b", "c"] {
            mirror.apply(Change::Present(object(uid, 5)));
        }
        mirror.apply(Change::<ConfigMap>::Listing);
        mirror.apply(Change::Present(object("a", 5)));
        mirror.apply(Change::<ConfigMap>::Unreadable("b".to_owned()));
        assert_eq!(mirror.apply(Change::<ConfigMap>::Listed), ["c"]);
        assert!(mirror.is_complete() && mirror.get("a").is_some() && mirror.get("b").is_some());
    }
}
