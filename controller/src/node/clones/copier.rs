//! The copies that are under way or failed, and who waits for what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use kvmoor_crds::names;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::super::backoff::Backoff;
use super::super::context::{Known, Root};
use super::super::desired::{CloneOf, Identity};
use super::super::hypervisor::libvirt::{Libvirt, VolumeCopy};
use super::super::hypervisor::{Class, DomainFacts, HvError, Hypervisor};
use super::super::plan::Blocked;
use super::super::turns::{Held, Turns};
use super::copies::Copies;
use super::obstacle::{COPYING, SOURCE_NOT_READY};
use super::record::{self, Record};

/// Copies at once: each has a thread of libvirt's calls, and they share the host's disks.
const AT_ONCE: usize = 2;
/// How long a copy may take to end: a piece of it is on its way.
const END: Duration = Duration::from_secs(30);
/// How often it is asked whether the source's turn is over.
const TURN: Duration = Duration::from_millis(100);

/// What to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose disks.
    pub source: Identity,
    /// For whom.
    pub clone: Identity,
    /// The root disk.
    pub root: VolumeCopy,
    /// The other disks, by name.
    pub disks: Vec<(String, VolumeCopy)>,
    /// The snapshot that is to be gone back to, by its name in libvirt.
    pub apply: Option<String>,
}

/// Copies disks.
#[derive(Clone)]
pub struct Copier(Arc<Shared>);

struct Shared {
    libvirt: Arc<Libvirt>,
    turns: Turns,
    known: Arc<Known>,
    wake: mpsc::UnboundedSender<ObjectRef<Root>>,
    stop: CancellationToken,
    at_once: Semaphore,
    /// Those under way, by the UID of the clone.
    under_way: Mutex<HashMap<String, UnderWay>>,
    failures: Backoff<Blocked>,
    /// Clones that wait for a source to change, by the namespace and name of the source.
    waiting: Mutex<HashMap<(String, String), Clones>>,
}

/// Clones by UID.
type Clones = HashMap<String, ObjectRef<Root>>;

#[derive(Clone)]
struct UnderWay {
    cancel: CancellationToken,
    ended: CancellationToken,
}

/// Why there is no copy.
enum Failure {
    /// Nobody wants it any more.
    Cancelled,
    /// It is tried again.
    Failed(Blocked),
}

fn not_now(why: &str) -> Failure {
    let message = format!("The disks could not be copied yet: {why}; it is tried again");
    Failure::Failed(Blocked { reason: SOURCE_NOT_READY, message })
}

impl From<HvError> for Failure {
    fn from(error: HvError) -> Self {
        let (reason, advice) = match error.class {
            Class::Stale | Class::Disconnected => return not_now(&error.message),
            Class::PoolFull => ("PoolFull", "make room in the host's storage pool; it is tried again"),
            Class::PoolMissing => ("StoragePoolUnavailable", "start the host's storage pool; it is tried again"),
            _ => ("CopyFailed", "it is tried again"),
        };
        Self::Failed(Blocked { reason, message: format!("Cannot {}: {}; {advice}", error.op, error.message) })
    }
}

impl Copier {
    /// A copier that wakes virtual machines through `wake`.
    pub fn new(
        libvirt: Arc<Libvirt>,
        turns: Turns,
        known: Arc<Known>,
        wake: mpsc::UnboundedSender<ObjectRef<Root>>,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            libvirt,
            turns,
            known,
            wake,
            stop,
            at_once: Semaphore::new(AT_ONCE),
            under_way: Mutex::default(),
            failures: Backoff::default(),
            waiting: Mutex::default(),
        }))
    }

    /// Where the copies of a clone stand that has none yet; they are begun if they can be.
    pub fn want(&self, order: Order) -> Blocked {
        let uid = order.clone.uid.clone();
        let attempt = format!("{order:?}");
        let message = format!("The disks of {} are being copied; it is not started before", order.source.name);
        let copying = Blocked { reason: COPYING, message };
        let mut under_way = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.contains_key(&uid) {
            return copying;
        }
        if let Some((failure, _)) = self.0.failures.held(&uid, &attempt, Instant::now()) {
            return failure;
        }
        let ends = UnderWay { cancel: self.0.stop.child_token(), ended: CancellationToken::new() };
        under_way.insert(uid, ends.clone());
        tokio::spawn(run(self.clone(), order, attempt, ends));
        copying
    }

    /// Ends the copying for a clone that is to be gone, and waits for that: no volume is written after it. Says whether
    /// it has ended.
    pub async fn end(&self, uid: &str) -> bool {
        let under_way = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
        if let Some(UnderWay { cancel, ended }) = under_way {
            cancel.cancel();
            if tokio::time::timeout(END, ended.cancelled()).await.is_err() {
                return false;
            }
        }
        self.forget(uid);
        true
    }

    /// Forgets a virtual machine.
    pub fn forget(&self, uid: &str) {
        self.0.failures.succeeded(uid);
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, clones| {
            clones.remove(uid);
            !clones.is_empty()
        });
    }

    /// Wakes the clones that wait for this virtual machine to change.
    pub fn changed(&self, identity: &Identity) {
        let key = (identity.namespace.clone(), identity.name.clone());
        let clones = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        for vm in clones.into_iter().flat_map(Clones::into_values) {
            self.0.wake(vm);
        }
    }

    /// Has a clone woken when its source changes.
    pub fn waits(&self, clone: &Identity, source: &CloneOf) {
        let Some(vm) = self.0.known.get(&clone.uid) else { return };
        let key = (clone.namespace.clone(), source.vm_name.clone());
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(key).or_default().insert(clone.uid.clone(), vm);
    }
}

impl Shared {
    fn wake(&self, vm: ObjectRef<Root>) {
        // Nobody listens any more only when the process ends.
        let _ = self.wake.send(vm);
    }
}

/// One clone's copies, to their end.
async fn run(copier: Copier, order: Order, attempt: String, ends: UnderWay) {
    let shared = &copier.0;
    let (uid, source) = (order.clone.uid.clone(), order.source.uid.clone());
    let started = Instant::now();
    let result = copy(shared, &order, &ends.cancel).await;
    let duration_ms = started.elapsed().as_millis();
    match result {
        Ok(()) => {
            tracing::info!(vm.uid = uid, source.uid = source, duration_ms, "copied");
            shared.failures.succeeded(&uid);
        }
        Err(Failure::Cancelled) => tracing::info!(vm.uid = uid, source.uid = source, duration_ms, "not copied"),
        Err(Failure::Failed(blocked)) => {
            let (reason, message) = (blocked.reason, blocked.message.as_str());
            tracing::warn!(vm.uid = uid, source.uid = source, duration_ms, reason, message, "not copied");
            shared.failures.failed(&uid, &attempt, blocked, Instant::now());
        }
    }
    shared.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    ends.ended.cancel();
    for vm in [shared.known.get(&uid), shared.known.get(&source)].into_iter().flatten() {
        shared.wake(vm);
    }
}

async fn copy(shared: &Shared, order: &Order, cancel: &CancellationToken) -> Result<(), Failure> {
    let Some(Ok(_one)) = cancel.run_until_cancelled(shared.at_once.acquire()).await else {
        return Err(Failure::Cancelled);
    };
    let Some(_turn) = cancel.run_until_cancelled(turn(shared, &order.source.uid)).await else {
        return Err(Failure::Cancelled);
    };
    let libvirt = &*shared.libvirt;
    // What was seen before the turn may not be so any more.
    let is_off = matches!(libvirt.domain(&order.source.uid).await?, DomainFacts::Ours(domain)
        if !domain.power.is_active() && domain.metadata.restoring.is_none() && domain.metadata.settling.is_none());
    if !is_off {
        return Err(not_now("its source has changed"));
    }
    let contents = libvirt.contents(&order.source.uid, order.apply.as_deref()).await?;
    let disks: Vec<_> = order.disks.iter().filter(|(_, copy)| contents.volumes.contains(&copy.from)).collect();
    let mut record = Record {
        is_whole: false,
        disks: disks.iter().map(|(name, _)| name.clone()).collect(),
        apply: order.apply.clone(),
        snapshots: contents.snapshots,
    };
    if !begin(libvirt, order, &record).await? {
        return Ok(());
    }
    let volumes = std::iter::once(&order.root).chain(disks.iter().map(|(_, copy)| copy));
    if let Err(failure) = all(libvirt, volumes, cancel).await {
        // Half a copy is of no use, and the room that it takes may be what is lacking. What stays is deleted later.
        let _ = delete_half(libvirt, &order.clone.uid).await;
        return Err(failure);
    }
    record.is_whole = true;
    libvirt.write_volume(&names::clone_record(&order.clone.uid), record.to_bytes()).await?;
    Ok(())
}

async fn all(
    libvirt: &Libvirt,
    volumes: impl Iterator<Item = &VolumeCopy>,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    for copy in volumes {
        let result = libvirt.copy_volume(copy, cancel).await;
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        result?;
    }
    Ok(())
}

async fn turn(shared: &Shared, source: &str) -> Held {
    loop {
        match shared.turns.copy(source) {
            Some(held) => return held,
            None => tokio::time::sleep(TURN).await,
        }
    }
}

/// Says that what there is of the clone's disks is half from now on, and deletes what is left of an attempt before.
/// `false` if all is there: whoever asked had looked before another copy ended.
async fn begin(libvirt: &Libvirt, order: &Order, record: &Record) -> Result<bool, Failure> {
    let uid = order.clone.uid.as_str();
    match copies(libvirt, uid, &order.root.to).await? {
        Copies::HasDisks => return Err(not_now("the clone has disks")),
        Copies::Whole(_) => return Ok(false),
        Copies::Lacking => {}
    }
    libvirt.write_volume(&names::clone_record(uid), record.to_bytes()).await?;
    delete_half(libvirt, uid).await?;
    Ok(true)
}

/// What there is of the disks of the clone with that UID and root disk.
pub async fn copies(hypervisor: &impl Hypervisor, uid: &str, root: &str) -> Result<Copies, HvError> {
    // The record comes after the list: it is written before any copy, so what was listed before it was not there is none.
    let volumes = hypervisor.volumes(&names::volume_prefix(uid)).await?;
    let record = hypervisor.read_volume(&names::clone_record(uid), record::MOST).await?;
    Ok(Copies::of(record.map(|bytes| Record::parse(&bytes)), &volumes, root))
}

/// Deletes what there is of a clone but its record, which says that it is half.
async fn delete_half(libvirt: &Libvirt, uid: &str) -> Result<(), HvError> {
    let record = names::clone_record(uid);
    for volume in libvirt.volumes(&names::volume_prefix(uid)).await? {
        if volume.name != record {
            libvirt.delete_volume(&volume.name).await?;
        }
    }
    Ok(())
}
