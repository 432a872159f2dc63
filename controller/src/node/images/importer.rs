//! The imports that are under way or failed, who waits for them, and when they are tried again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use rand::Rng;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::super::context::Root;
use super::super::desired::{Desired, Origin};
use super::super::hypervisor::DomainFacts;
use super::super::hypervisor::libvirt::Libvirt;
use super::super::observe::Observed;
use super::attend::{Import, percent};
use super::entry::Entry;
use super::failure::Failure;
use super::fetch::Fetcher;
use super::peers::Peers;
use super::record::Content;
use super::transfer::{self, Progress};
use super::upload::Uploads;

/// Imports at once: each has a thread of libvirt's calls, and they share the host's network and disks.
const AT_ONCE: usize = 2;
/// How often it is told how far an import is.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// All hosts that wait hear of an upload at once; within this time each of them asks for it.
const SPREAD: Duration = Duration::from_secs(1);
/// An import that nobody has asked for in this time is given up; who waits asks every 30 s.
const UNWANTED: Duration = Duration::from_secs(300);

/// Where an image comes from, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Where it is.
    pub place: Place,
    /// The content.
    pub content: Content,
}

/// Where an image is to be had.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// On a server.
    Url(String),
    /// On the hosts that have it since an admin uploaded it to one of them.
    Upload {
        /// Name of the Image.
        image: String,
    },
}

impl Source {
    /// Whether the image cannot be had a second time from where it first came from.
    pub fn is_uploaded(&self) -> bool {
        matches!(self.place, Place::Upload { .. })
    }
}

/// What images are got by.
#[derive(Clone)]
pub struct Sources {
    /// From servers.
    pub fetcher: Fetcher,
    /// From other hosts.
    pub peers: Peers,
}

/// How large images may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The file, in bytes.
    pub file: u64,
    /// The disk, in bytes.
    pub virtual_size: u64,
}

/// Imports images.
#[derive(Clone)]
pub struct Importer(Arc<Shared>);

struct Shared {
    libvirt: Arc<Libvirt>,
    sources: Sources,
    limits: Limits,
    entries: Mutex<HashMap<Source, Entry>>,
    turns: Semaphore,
    uploads: Arc<Uploads>,
    wake: mpsc::UnboundedSender<ObjectRef<Root>>,
    changed: Arc<Notify>,
    ended: Notify,
    lacking: Notify,
    stop: CancellationToken,
}

impl Importer {
    /// An importer that wakes those who wait through `wake`, and tells `changed` whenever there is news.
    pub fn new(
        libvirt: Arc<Libvirt>,
        sources: Sources,
        limits: Limits,
        wake: mpsc::UnboundedSender<ObjectRef<Root>>,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) -> Self {
        let turns = Semaphore::new(AT_ONCE);
        let (entries, uploads, ended, lacking) = (Mutex::default(), Arc::default(), Notify::new(), Notify::new());
        Self(Arc::new(Shared {
            libvirt,
            sources,
            limits,
            entries,
            turns,
            uploads,
            wake,
            changed,
            ended,
            lacking,
            stop,
        }))
    }

    /// Sees to the image of a virtual machine that was observed to lack it.
    pub fn attend(&self, desired: &Desired, observed: &mut Observed, vm: impl FnOnce(&str) -> Option<ObjectRef<Root>>) {
        let (Desired::Present(machine), Observed::Complete(facts)) = (desired, observed) else { return };
        let Some(Origin::Import(source)) = machine.root.image.as_ref().map(|image| &image.origin) else { return };
        if facts.domain == DomainFacts::Missing && facts.image.is_none() {
            let uid = machine.identity.uid.as_str();
            facts.import = Some(self.want(source, vm(uid).map(|vm| (uid, vm))));
        }
    }

    /// Asks for an image that is not there: where its import stands. It is begun if it is time to.
    pub fn want(&self, source: &Source, vm: Option<(&str, ObjectRef<Root>)>) -> Import {
        let now = Instant::now();
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(source.clone()).or_insert_with(|| Entry::new(now));
        entry.wanted = now;
        if let Some((uid, vm)) = vm {
            entry.waiting.insert(uid.to_owned(), vm);
        }
        if entry.is_due(now) {
            self.begin(source, entry, Duration::ZERO);
        }
        self.state(source, entry)
    }

    fn begin(&self, source: &Source, entry: &mut Entry, delay: Duration) {
        tokio::spawn(run(self.clone(), source.clone(), entry.begin(), delay));
    }

    /// Whether an import waits for somebody to upload an image.
    pub(super) fn lacks_uploads(&self) -> bool {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).values().any(Entry::lacks_upload)
    }

    /// Told whenever one begins to.
    pub(super) fn lacking(&self) -> &Notify {
        &self.0.lacking
    }

    /// Tries what waits for the upload of an image that another host has now.
    pub(super) fn offered(&self, has: impl Fn(&str) -> bool) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for (source, entry) in entries.iter_mut().filter(|(_, entry)| entry.heeds_offers()) {
            if matches!(&source.place, Place::Upload { image } if has(image)) && entry.offered() {
                tracing::info!(image.sha256 = source.content.sha256, "another host has an image that is waited for");
                self.begin(source, entry, at_random());
            }
        }
    }

    /// All imports that are under way or failed.
    pub fn all(&self) -> Vec<(Source, Import)> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(source, entry)| (source.clone(), self.state(source, entry))).collect()
    }

    /// What an upload tells as well as an import does.
    fn state(&self, source: &Source, entry: &Entry) -> Import {
        let upload = if source.is_uploaded() { self.0.uploads.progress(&source.content) } else { None };
        upload.map_or_else(|| entry.state(), |progress| progress.state())
    }

    /// The uploads that are under way.
    pub(super) fn uploads(&self) -> &Arc<Uploads> {
        &self.0.uploads
    }

    pub(super) fn libvirt(&self) -> &Libvirt {
        &self.0.libvirt
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Ends when the process is to end.
    pub(super) async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }

    /// Wakes all that wait for a content that came by other means.
    pub(super) fn came(&self, content: &Content) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|source, entry| {
            let has_come = source.content == *content;
            if has_come {
                self.wake(entry);
            }
            // An import that is under way sees by itself that it is too late.
            !has_come || entry.progress.is_some()
        });
        drop(entries);
        self.0.changed.notify_one();
    }

    /// The checksums of all that is being imported or uploaded.
    pub fn under_way(&self) -> HashSet<String> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = entries.iter().filter(|(_, entry)| entry.progress.is_some());
        under_way.map(|(source, _)| source.content.sha256.clone()).chain(self.0.uploads.checksums()).collect()
    }

    /// Told whenever an import begins, ends, or has come further.
    pub fn changed(&self) -> &Notify {
        &self.0.changed
    }

    /// Told whenever an import has ended: something of one that broke off before may be left.
    pub fn ended(&self) -> &Notify {
        &self.0.ended
    }

    /// Forgets failures that nobody asks about any more.
    pub fn forget_unwanted(&self) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.progress.is_some() || entry.wanted.elapsed() < UNWANTED);
    }

    fn with(&self, source: &Source, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(source) {
            change(entry);
            self.wake(entry);
        }
    }

    fn failed(&self, source: &Source, failure: Failure) {
        self.with(source, |entry| {
            if entry.failed(failure, Instant::now()) {
                self.begin(source, entry, at_random());
            }
            if entry.lacks_upload() {
                self.0.lacking.notify_one();
            }
        });
    }

    fn done(&self, source: &Source) {
        let entry = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        if let Some(entry) = entry {
            self.wake(&entry);
        }
    }

    fn wake(&self, entry: &Entry) {
        for vm in entry.waiting.values() {
            // Nobody listens any more only when the process ends.
            let _ = self.0.wake.send(vm.clone());
        }
        self.0.changed.notify_one();
    }

    fn is_unwanted(&self, source: &Source) -> bool {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(source).is_none_or(|entry| entry.wanted.elapsed() >= UNWANTED)
    }
}

fn at_random() -> Duration {
    SPREAD.mul_f64(rand::rng().random_range(0.0..=1.0))
}

/// One import, to its end.
async fn run(importer: Importer, source: Source, progress: Arc<Progress>, delay: Duration) {
    let shared = &importer.0;
    tokio::time::sleep(delay).await;
    let work = async {
        let Ok(_turn) = shared.turns.acquire().await else {
            return Err(Failure::download("the controller is stopping"));
        };
        let started = Instant::now();
        tracing::info!(image.sha256 = source.content.sha256, "importing an image");
        let result = transfer::import(&shared.libvirt, &shared.sources, &shared.limits, &source, &progress).await;
        let (bytes, duration_ms) = (progress.bytes.load(Ordering::Relaxed), started.elapsed().as_millis());
        match &result {
            Ok(()) => tracing::info!(image.sha256 = source.content.sha256, bytes, duration_ms, "imported"),
            Err(failure) => {
                let (reason, message) = (failure.reason.as_str(), failure.message.as_str());
                tracing::warn!(
                    image.sha256 = source.content.sha256,
                    bytes,
                    duration_ms,
                    reason,
                    message,
                    "not imported"
                );
            }
        }
        result
    };
    let result = tokio::select! {
        result = work => result,
        () = tell(&importer, &source, &progress) => {
            tracing::info!(image.sha256 = source.content.sha256, "nobody waits for this image any more");
            Err(Failure::download("nobody waited for it any more"))
        }
        () = shared.stop.cancelled() => return,
    };
    match result {
        Ok(()) => importer.done(&source),
        Err(failure) => importer.failed(&source, failure),
    }
    shared.ended.notify_one();
}

/// Tells how far it is, until nobody wants to know.
async fn tell(importer: &Importer, source: &Source, progress: &Progress) {
    let mut told = None;
    importer.0.changed.notify_one();
    while !importer.is_unwanted(source) {
        tokio::time::sleep(TELL_EVERY).await;
        let (bytes, length) = (progress.bytes.load(Ordering::Relaxed), progress.length.load(Ordering::Relaxed));
        let now = percent(bytes, Some(length)).unwrap_or(bytes >> 20);
        if bytes > 0 && told != Some(now) {
            told = Some(now);
            importer.with(source, |entry| entry.failure = None);
        }
    }
}
