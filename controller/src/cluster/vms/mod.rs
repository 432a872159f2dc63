//! Virtual machines: ids, admission, placement, finalizers and lost hosts.
//!
//! ```text
//!  watches ──> world ──> snapshot ──> decide (pure) ──> perform: status, then nodeName + finalizer
//!                ^                                         │
//!                └───────────── answers ───────────────────┘
//! ```
//!
//! One task decides; writes run beside it, one at a time for each virtual machine. While a write is under way, or its
//! outcome is not known, what it may have given counts as given, so no quota and no host is ever charged too little.

mod admission;
mod decide;
mod liveness;
mod perform;
mod placement;
mod source;
mod status;
mod view;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{SelectAll, StreamExt as _};
use futures::{FutureExt as _, stream};
use jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::admission::DEFAULT_LIMITS;
use self::decide::{Assumed, Decision, Row, decide, deleted_at};
pub use self::liveness::Liveness;
use self::perform::{Done, Work, perform};
use self::status::{Change, document, warnings};
use self::world::{Input, World};
use crate::cluster::backoff::Backoff;
use crate::cluster::ids;
use crate::cluster::metrics::Metrics;
use crate::cluster::mirror::{changes, is_newer};
use crate::cluster::resources::Usage;
use crate::cluster::writer::{WriteError, Writer};
use crate::warnings::{Warnings, about};

/// How many virtual machines are written at the same time. More would only wait in etcd.
const WRITES_AT_ONCE: usize = 32;
/// How often the words of a message are brought up to date, for each virtual machine.
const WORDS_INTERVAL: Duration = Duration::from_secs(2);
/// How long to wait when ids cannot be reserved.
const IDS_RETRY: Duration = Duration::from_millis(500);

/// What each namespace uses; nothing until that is known.
pub type UsageByNamespace = Option<BTreeMap<String, Usage>>;

/// What the loop works with.
pub struct Context {
    /// For watches.
    pub client: Client,
    /// For writes.
    pub writer: Writer,
    /// What is counted.
    pub metrics: Metrics,
    /// The ids of virtual machines.
    pub ids: ids::Source,
    /// Where the default Quota and the hosts' Leases are.
    pub system_namespace: String,
    /// Where to tell what is used.
    pub usage: watch::Sender<UsageByNamespace>,
    /// Where warnings go.
    pub warnings: Warnings,
    /// Whom to tell that a virtual machine is gone.
    pub gone: Arc<Notify>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// Runs until told to stop, then until the writes under way are answered.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let mut inputs = watch_all(&context.client, &context.system_namespace);
    let reconciles = context.writer.reconciles();
    let mut mind = Mind::new(context);
    loop {
        let wake = reconciles.time(mind.turn()).await;
        tokio::select! {
            () = mind.context.stop.cancelled() => break,
            Some(done) = mind.jobs.join_next() => mind.finished(done),
            Some(input) = inputs.next() => mind.heard(input),
            () = tokio::time::sleep_until(wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
        }
        // Whatever else is there belongs to the same turn.
        while let Some(Some(input)) = inputs.next().now_or_never() {
            mind.heard(input);
        }
        while let Some(done) = mind.jobs.try_join_next() {
            mind.finished(done);
        }
    }
    while mind.jobs.join_next().await.is_some() {}
    mind.context.ids.settle().await;
    Ok(())
}

fn watch_all(client: &Client, system_namespace: &str) -> SelectAll<stream::BoxStream<'static, Input>> {
    let all = watcher::Config::default;
    let everywhere = client.clone();
    stream::select_all([
        changes(Api::all(everywhere.clone()), all()).map(|change| Input::Vm(Box::new(change))).boxed(),
        changes(Api::all(everywhere.clone()), all()).map(Input::Quota).boxed(),
        changes(Api::all(everywhere.clone()), all()).map(Input::Host).boxed(),
        changes(Api::all(everywhere.clone()), all()).map(|change| Input::Node(Box::new(change))).boxed(),
        changes(Api::all(everywhere.clone()), all()).map(Input::Image).boxed(),
        changes(Api::all(everywhere.clone()), all()).map(Input::Class).boxed(),
        changes(Api::namespaced(everywhere, system_namespace), all()).map(Input::Lease).boxed(),
    ])
}

struct Mind {
    context: Context,
    world: World,
    /// Ids that were taken for virtual machines whose status is not known to have them.
    given: HashMap<String, i64>,
    /// Writes under way, and writes whose outcome is not known.
    flights: HashMap<String, Flight>,
    jobs: JoinSet<Done>,
    slots: Arc<Semaphore>,
    backoff: Backoff,
    /// When each virtual machine's status was last written.
    spoken: HashMap<String, Instant>,
    ids_retry: Option<Instant>,
}

/// A write that may have happened.
struct Flight {
    /// The version that it was meant for: once a newer one is seen, it cannot happen any more.
    base: String,
    assumed: Assumed,
    is_running: bool,
}

impl Mind {
    fn new(context: Context) -> Self {
        Self {
            context,
            world: World::default(),
            given: HashMap::new(),
            flights: HashMap::new(),
            jobs: JoinSet::new(),
            slots: Arc::new(Semaphore::new(WRITES_AT_ONCE)),
            backoff: Backoff::default(),
            spoken: HashMap::new(),
            ids_retry: None,
        }
    }

    fn heard(&mut self, input: Input) {
        for uid in self.world.apply(input, Instant::now(), Timestamp::now()) {
            self.given.remove(&uid);
            self.spoken.remove(&uid);
            self.backoff.forget(&uid);
            self.flights.remove(&uid);
            self.context.gone.notify_one();
        }
    }

    fn finished(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let Done { uid, base, newest, result, is_released } = match done {
            Ok(done) => done,
            Err(error) => {
                // Its flight stays: nothing is known of what it did. The Lease is given up with the process.
                tracing::error!(error = &error as &dyn std::error::Error, "a write died");
                return;
            }
        };
        let has_moved = newest.as_ref().and_then(|newest| newest.metadata.resource_version.as_deref());
        let has_moved = has_moved.is_some_and(|version| is_newer(version, &base));
        if let Some(newest) = newest {
            self.world.vms.absorb(newest);
        }
        let vm = self.world.vms.get(&uid);
        let (namespace, name) = vm.map_or(("", ""), |vm| (vm.namespace.as_str(), vm.name.as_str()));
        match result {
            // Its flight stays until it is seen to be gone: the answer may still show the finalizer.
            Ok(()) if is_released => {}
            Ok(()) => {
                self.backoff.forget(&uid);
                self.given.remove(&uid);
                self.flights.remove(&uid);
            }
            Err(error) => {
                if error.is_unknown()
                    && let Some(flight) = self.flights.get_mut(&uid)
                {
                    flight.is_running = false;
                    flight.base = base;
                } else {
                    self.flights.remove(&uid);
                }
                match error {
                    WriteError::Gone | WriteError::Unled => {}
                    _ if has_moved => tracing::debug!(namespace, name, "changed meanwhile, deciding again"),
                    error => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(namespace, name, error, "cannot write a virtual machine, trying again");
                        self.backoff.failed(&uid, Instant::now());
                    }
                }
            }
        }
        if self.world.vms.get(&uid).is_none() {
            self.flights.remove(&uid);
        }
    }

    /// Decides and starts what is to be done. Answers when to come again though nothing happens.
    async fn turn(&mut self) -> Option<Instant> {
        if !self.world.is_complete() {
            return None;
        }
        let now = Instant::now();
        self.forget_what_is_settled();
        let mut wake = self.reserve_ids(now).await;
        let (decisions, usage) = self.decide(now);
        self.context.usage.send_if_modified(|known| {
            let differs = known.as_ref() != Some(&usage);
            if differs {
                *known = Some(usage);
            }
            differs
        });
        let mut started = false;
        for decision in decisions {
            match self.start(decision, now) {
                Start::Started => started = true,
                Start::Later(time) => wake = earliest(wake, Some(time)),
                Start::Idle => {}
            }
        }
        if started && let Err(error) = self.context.ids.refill().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids ahead");
        }
        let wake = earliest(wake, self.next_deletion(now));
        earliest(wake, self.world.renewals.next_change(now))
    }

    /// When the next virtual machine that is refused for good is to be deleted.
    fn next_deletion(&self, now: Instant) -> Option<Instant> {
        let due = self.world.vms.values().filter_map(|vm| deleted_at(vm)).min()?;
        let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        // What is due and cannot be done waits for its back-off.
        Some(now + left).filter(|due| *due > now)
    }

    /// Writes of unknown outcome whose object has changed since cannot happen any more.
    fn forget_what_is_settled(&mut self) {
        let vms = &self.world.vms;
        self.flights.retain(|uid, flight| {
            flight.is_running || vms.get(uid).is_some_and(|vm| !is_newer(&vm.version, &flight.base))
        });
    }

    /// Reserves ids for all virtual machines without one. Answers when to try again after a failure.
    async fn reserve_ids(&mut self, now: Instant) -> Option<Instant> {
        if let Some(retry) = self.ids_retry.filter(|retry| *retry > now) {
            return Some(retry);
        }
        self.ids_retry = None;
        let mut missing = 0;
        for vm in self.world.vms.values() {
            match vm.id() {
                Some(id) => self.context.ids.seen(id),
                None if self.given.contains_key(&vm.uid) => {}
                None => missing += 1,
            }
        }
        if let Err(error) = self.context.ids.reserve(missing).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids, trying again");
            self.ids_retry = Some(now + IDS_RETRY);
        }
        self.ids_retry
    }

    fn decide(&mut self, now: Instant) -> (Vec<Decision>, BTreeMap<String, Usage>) {
        let flights = &self.flights;
        let snapshot = self.world.snapshot(&self.context.system_namespace, now, |vm| {
            let flight = flights.get(&vm.uid);
            Row {
                vm,
                assumed: flight.map(|flight| &flight.assumed),
                is_busy: flight.is_some_and(|flight| flight.is_running),
            }
        });
        let phase = |row: &Row<'_>| row.vm.object.status.as_ref().and_then(|status| status.phase);
        self.context.metrics.count_vms(snapshot.vms.iter().map(phase));
        self.context.metrics.count_hosts(snapshot.hosts.iter().map(|host| host.liveness));
        decide(snapshot)
    }

    fn start(&mut self, decision: Decision, now: Instant) -> Start {
        let Decision { uid, mut status, bind, release, delete } = decision;
        let Some(vm) = self.world.vms.get(&uid).cloned() else { return Start::Idle };
        if let Some(due) = self.backoff.due_after(&uid, now) {
            return Start::Later(due);
        }
        if bind.is_none() && matches!(status, Some((Change::Words, _))) {
            let due = self.spoken.get(&uid).map(|spoken| *spoken + WORDS_INTERVAL);
            if let Some(due) = due.filter(|due| *due > now) {
                return Start::Later(due);
            }
        }
        let mut assumed = Assumed { admitted: None, node: bind.clone() };
        if delete {
            tracing::info!(namespace = vm.namespace, name = vm.name, uid, "deleting what was refused and left behind");
        }
        let warnings = status.as_ref().map(|(_, desired)| warnings(&vm, desired)).unwrap_or_default();
        let mut work = Work { status: None, bind, release, delete };
        if let Some((_, desired)) = status.take() {
            let Some(id) = self.id_for(&vm.uid, vm.id()) else { return Start::Idle };
            assumed.admitted = desired.admitted;
            work.status = Some(document(&vm, &desired, id, Timestamp::now()));
            self.spoken.insert(uid.clone(), now);
        }
        if let Some(node) = &work.bind {
            tracing::info!(namespace = vm.namespace, name = vm.name, uid, node, "placed");
        }
        if let Some(before) = self.flights.get(&uid) {
            // The outcome of an earlier write is open: both count.
            assumed.node = assumed.node.or_else(|| before.assumed.node.clone());
            assumed.admitted = match (assumed.admitted, before.assumed.admitted) {
                (Some(now), Some(before)) => Some(now.at_most(before)),
                (now, before) => now.or(before),
            };
        }
        self.flights.insert(uid, Flight { base: vm.version.clone(), assumed, is_running: true });
        let (writer, slots) = (self.context.writer.clone(), self.slots.clone());
        let events = self.context.warnings.clone();
        self.jobs.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let done = perform(writer, vm.clone(), work).await;
            if done.result.is_ok() {
                for warning in warnings {
                    events.say_later(about(&vm.object), warning);
                }
            }
            done
        });
        Start::Started
    }

    /// The id that the virtual machine has, was given before, or is given now.
    fn id_for(&mut self, uid: &str, present: Option<i64>) -> Option<i64> {
        if let Some(id) = present.or_else(|| self.given.get(uid).copied()) {
            return Some(id);
        }
        let id = self.context.ids.take()?;
        self.given.insert(uid.to_owned(), id);
        Some(id)
    }
}

/// What became of a decision.
enum Start {
    /// It is being carried out.
    Started,
    /// Not before then.
    Later(Instant),
    /// It cannot be carried out now.
    Idle,
}

fn earliest(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}
