//! Looks out for other hosts that have what imports here wait for: an image is uploaded to one host, and whoever waits
//! hears of it by that Host.
//!
//! Hosts are watched only while an import waits for an upload. Each Host is written whenever what it runs changes, which is
//! nothing to the other hosts.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kvmoor_crds::Host;

use super::importer::Importer;
use super::peers;

/// How often it is asked whether any import still waits.
const CHECK: Duration = Duration::from_secs(30);

/// Has the imports of the host `own` tried again as soon as another has what they lack, until it is dropped.
pub async fn look_out(importer: Importer, hosts: Api<DeserializeGuard<Host>>, own: String) {
    loop {
        importer.lacking().notified().await;
        let mut events = pin!(watcher(hosts.clone(), watcher::Config::default()).default_backoff());
        while importer.lacks_uploads() {
            match tokio::time::timeout(CHECK, events.next()).await {
                Ok(Some(Ok(Event::Apply(host) | Event::InitApply(host)))) => {
                    if let Ok(host) = &host.0 {
                        importer.offered(|image| peers::peer(host, image, &own).is_some());
                    }
                }
                Ok(Some(Ok(Event::Init | Event::InitDone | Event::Delete(_)))) | Err(_) => {}
                Ok(Some(Err(error))) => tracing::warn!(%error, "cannot watch Hosts"),
                Ok(None) => break,
            }
        }
    }
}
