//! Looking after the images of a host: those that are asked for ahead of time are imported, and those that nobody uses
//! are collected.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kvmoor_crds::Image;
use tokio::sync::Notify;

use super::super::desired::Origin;
use super::super::hypervisor::Hypervisor;
use super::super::hypervisor::libvirt::Libvirt;
use super::collect::{Action, GRACE, Memory, Policy, collect};
use super::importer::{Importer, Source};

/// Bounds of the interval at which it is looked for what nobody uses.
const COLLECT_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// Images that are asked for ahead of time are looked at again after this, so that what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What a keeper works with.
pub struct Keeper {
    /// The hypervisor.
    pub hypervisor: Arc<Libvirt>,
    /// The importer.
    pub importer: Importer,
    /// All Images.
    pub images: Store<DeserializeGuard<Image>>,
    /// Told when one came, went or changed.
    pub images_changed: Arc<Notify>,
    /// How long an unused image stays.
    pub keep_unused: Duration,
}

/// Runs until it is dropped.
pub async fn keep(keeper: Keeper) {
    let mut memory = Memory::default();
    let mut due = Instant::now();
    loop {
        let waits = look_ahead(&keeper).await;
        if Instant::now() >= due {
            clean_up(&keeper, &mut memory).await;
            due = Instant::now() + (keeper.keep_unused / 4).clamp(COLLECT_EVERY.0, COLLECT_EVERY.1);
        }
        let pause = due.saturating_duration_since(Instant::now());
        let pause = if waits { pause.min(LOOK_EVERY) } else { pause };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = keeper.images_changed.notified() => {}
            () = keeper.importer.ended().notified() => due = Instant::now(),
        }
    }
}

/// The Images that are imported from somewhere or uploaded, and whether they are asked for ahead of time.
pub fn sources(images: &Store<DeserializeGuard<Image>>) -> Vec<(String, Source, bool)> {
    let images = images.state();
    let found = images.iter().filter_map(|root| {
        let image = root.0.as_ref().ok()?;
        let name = image.metadata.name.clone()?;
        match Origin::of(&name, &image.spec) {
            Origin::Import(source) => {
                Some((name, source, image.spec.prefetch && image.metadata.deletion_timestamp.is_none()))
            }
            Origin::BuiltIn { .. } | Origin::Unusable(_) => None,
        }
    });
    found.collect()
}

/// Asks for what is asked for ahead of time. Says whether any of it is not there yet.
async fn look_ahead(keeper: &Keeper) -> bool {
    let mut waits = false;
    for (_, source, _) in sources(&keeper.images).into_iter().filter(|(_, _, prefetch)| *prefetch) {
        if let Ok(None) = keeper.hypervisor.imported_image(&source.content).await {
            keeper.importer.want(&source, None);
            waits = true;
        }
    }
    waits
}

async fn clean_up(keeper: &Keeper, memory: &mut Memory) {
    keeper.importer.forget_unwanted();
    // Before the inventory too: an import that ends in between would look like one that broke off.
    let mut under_way = keeper.importer.under_way();
    let inventory = match keeper.hypervisor.inventory(true).await {
        Ok(inventory) => inventory,
        Err(error) => return tracing::debug!(%error, "cannot look for unused images"),
    };
    under_way.extend(keeper.importer.under_way());
    let pinned: HashSet<String> = sources(&keeper.images)
        .into_iter()
        // What was uploaded cannot be had again. Every host that has it keeps it: another may be gone for ever.
        .filter(|(_, source, prefetch)| *prefetch || source.is_uploaded())
        .map(|(_, source, _)| source.content.record())
        .collect();
    let grace = GRACE.min(keeper.keep_unused);
    let policy = Policy { keep_unused: keeper.keep_unused, grace, pinned: &pinned, under_way: &under_way };
    for action in collect(memory, &inventory, &policy, Instant::now()) {
        let (what, result) = match &action {
            Action::Delete(volume) => (volume, keeper.hypervisor.delete_volume(volume).await),
            Action::Write(name, record) => (name, keeper.hypervisor.write_volume(name, record.to_bytes()).await),
        };
        match result {
            Ok(()) => tracing::info!(volume = what, ?action, "collected"),
            // A record must not go before its volume.
            Err(error) => return tracing::warn!(volume = what, %error, "cannot collect"),
        }
    }
}
