//! The objects of a kind as the Kubernetes API last told them, and waiting for them to become what one expects.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::objects::{Key, Objects, Stored};
use super::version::Version;

/// How long an answer waits at most for the cache to have the request's own write. The write is done by then, so
/// running out of it is no failure.
const OWN_WRITE: Duration = Duration::from_secs(2);
/// The same for what another replica has written, of which nobody here knows whether it is.
const OTHERS_WRITE: Duration = Duration::from_secs(1);

/// What the Kubernetes API told of a kind, in its order.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// A complete listing: what is not in it is gone.
    Listed(Vec<Arc<K>>),
    /// A new or changed object.
    Put(Arc<K>),
    /// An object that is gone.
    Removed(Key),
}

/// The objects of a kind in memory.
#[derive(Debug)]
pub struct Cache<K> {
    objects: RwLock<Objects<K>>,
    changed: watch::Sender<()>,
    changes: OnceLock<mpsc::UnboundedSender<Change<K>>>,
}

impl<K: Stored> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: RwLock::default(), changed: watch::Sender::new(()), changes: OnceLock::new() }
    }
}

impl<K: Stored> Cache<K> {
    /// The objects now. Not to be held across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `probe` finds what it looks for, which it is asked now and after each change; `None` after `deadline`.
    pub async fn wait<T>(&self, deadline: Duration, mut probe: impl FnMut(&Objects<K>) -> Option<T>) -> Option<T> {
        let mut changes = self.changed.subscribe();
        let search = async {
            loop {
                let found = probe(&self.read());
                if found.is_some() || changes.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(deadline, search).await.ok().flatten()
    }

    /// The object with that number. One that another replica may just have made is waited for a little: whoever made it
    /// there has its number and may ask here.
    pub async fn numbered(&self, id: i64) -> Option<Arc<K>> {
        let probe = |objects: &Objects<K>| match objects.by_id(id) {
            Some(object) => Some(Some(object.clone())),
            None if objects.may_come(id) => None,
            None => Some(None),
        };
        self.wait(OTHERS_WRITE, probe).await.flatten()
    }

    /// The object with that UID, as soon as it is one that `accept` takes: what is asked for was there, so it is waited
    /// for a little. After that, whatever is there.
    pub async fn expected(&self, uid: &str, accept: impl Fn(&K) -> bool) -> Option<Arc<K>> {
        let probe = |objects: &Objects<K>| objects.by_uid(uid).filter(|object| accept(object)).cloned();
        match self.wait(OTHERS_WRITE, probe).await {
            Some(object) => Some(object),
            None => self.read().by_uid(uid).cloned(),
        }
    }

    /// Waits until the cache is at least as new as `written`, so that the caller's next request sees its own write.
    pub async fn wait_until_seen(&self, written: &K) {
        let version = Version::of(written);
        let seen = self.wait(OWN_WRITE, |objects| (*objects.newest() >= version).then_some(())).await;
        if seen.is_none() {
            tracing::warn!(kind = %K::kind(&()), "the watch is behind a write of this server");
        }
    }

    /// Tells of each time that something changed, without what.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Every change from now on, in order and without gaps; `None` if somebody has it already. There is one reader, and
    /// it must keep up: the queue has no bound, since the watch that fills it must not wait for anybody.
    pub fn changes(&self) -> Option<mpsc::UnboundedReceiver<Change<K>>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.changes.set(sender).is_ok().then_some(receiver)
    }

    /// Takes a complete listing.
    pub fn replace(&self, objects: Vec<K>) {
        self.change(|all| {
            all.replace(objects);
            Change::Listed(all.all().cloned().collect())
        });
    }

    /// Takes a new or changed object.
    pub fn put(&self, object: K) {
        self.change(|all| Change::Put(all.put(object)));
    }

    /// Forgets an object, whose last version was `version`.
    pub fn remove(&self, key: &Key, version: Version) {
        self.change(|all| {
            all.remove(key, version);
            Change::Removed(key.clone())
        });
    }

    fn change(&self, change: impl FnOnce(&mut Objects<K>) -> Change<K>) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let change = change(&mut objects);
        // Under the lock, so that the order is that of the objects. A reader that is gone wants nothing any more.
        if let Some(changes) = self.changes.get() {
            drop(changes.send(change));
        }
        drop(objects);
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvmoor_crds::{Host, HostSpec};

    use super::*;

    fn host(version: &str) -> Host {
        let mut host = Host::new("h", HostSpec::default());
        host.metadata.resource_version = Some(version.to_owned());
        host
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_version_at_least_as_new() {
        let cache = Arc::new(Cache::<Host>::default());
        let waiter = tokio::spawn({
            let cache = cache.clone();
            async move { cache.wait_until_seen(&host("10")).await }
        });
        tokio::task::yield_now().await;
        cache.put(host("9"));
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        cache.put(host("11"));
        waiter.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_ends_the_wait_too() {
        let cache = Cache::<Host>::default();
        cache.put(host("9"));
        let gone = host("12");
        cache.remove(&Key::of(&gone), Version::of(&gone));
        let before = tokio::time::Instant::now();
        cache.wait_until_seen(&host("10")).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
