//! Keeps a cache equal to the Kubernetes API: lists, then watches, for ever.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kube::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use rand::Rng;

use super::cache::Cache;
use super::objects::{Key, Stored};
use super::version::Version;

/// A watch that has been silent for this long is asked for again, so that a connection that died silently is found.
const WATCH: u32 = 60;
/// Pauses after failures: from the first to the last value, doubling. They are short because revoked sessions live
/// until the watch is back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Follows `api` into `cache` until it is dropped. Objects that this version cannot read are left out.
pub async fn follow<K: Stored>(cache: Arc<Cache<K>>, api: Api<DeserializeGuard<K>>) {
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().timeout(WATCH)));
    let mut listing = Vec::new();
    let mut pause = PAUSES.0;
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                pause = PAUSES.0;
                take(&cache, &mut listing, event);
            }
            // The stream of a watcher does not end.
            Ok(None) => return,
            Err(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, error = %crate::error::describe(&error), "cannot watch; trying again");
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

fn take<K: Stored>(cache: &Cache<K>, listing: &mut Vec<K>, event: watcher::Event<DeserializeGuard<K>>) {
    match event {
        watcher::Event::Init => listing.clear(),
        watcher::Event::InitApply(DeserializeGuard(Ok(object))) => listing.push(object),
        watcher::Event::InitDone => cache.replace(std::mem::take(listing)),
        watcher::Event::Apply(DeserializeGuard(Ok(object))) => cache.put(object),
        watcher::Event::Delete(object) => cache.remove(&Key::of(&object), Version::of(&object)),
        watcher::Event::InitApply(guard @ DeserializeGuard(Err(_))) => warn_unreadable(&guard),
        watcher::Event::Apply(guard @ DeserializeGuard(Err(_))) => {
            warn_unreadable(&guard);
            cache.remove(&Key::of(&guard), Version::of(&guard));
        }
    }
}

fn warn_unreadable<K: Stored>(guard: &DeserializeGuard<K>) {
    let Key { namespace, name } = Key::of(guard);
    let error = guard.0.as_ref().err().map(ToString::to_string);
    tracing::warn!(kind = %K::kind(&()), namespace, name, error, "left out an object that this version cannot read");
}
