//! Leadership by a Lease: wait for it, keep it, give it back.
//!
//! kube has no leader election. What is here follows client-go: replace with the version that was read, so that of two
//! candidates one wins; and a claim that ends by the leader's own clock before a successor can start. Every write asks the
//! claim first ([`crate::cluster::writer`]).

mod evaluate;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::anyhow;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use kvmoor_crds::names;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::evaluate::{Action, Sighting, evaluate};
use crate::cluster::mirror::WatchBackoff;

/// How long one call about the Lease may take.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// How long to wait after a call that failed.
const RETRY: Duration = Duration::from_millis(500);

/// How a replica takes part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in the Lease.
    pub identity: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// How long the Lease holds without being renewed.
    pub duration: Duration,
    /// What else the Lease says of its holder.
    pub annotations: BTreeMap<String, String>,
}

/// The right to write, until its end.
#[derive(Debug, Clone)]
pub struct Claim {
    expires: watch::Receiver<Instant>,
}

impl Claim {
    /// When the right ends unless the Lease is renewed.
    pub fn expires(&self) -> Instant {
        *self.expires.borrow()
    }
}

/// The Lease, held.
pub struct Leadership {
    candidate: Candidate,
    lease: Lease,
    expires: watch::Sender<Instant>,
}

/// The task that renews the Lease.
pub struct Renewal {
    task: JoinHandle<Leadership>,
    stop: CancellationToken,
}

struct Candidate {
    api: Api<Lease>,
    settings: Settings,
}

/// Waits until the Lease is held. Nothing when `shutdown` comes first.
pub async fn acquire(client: Client, settings: Settings, shutdown: &CancellationToken) -> Option<Leadership> {
    let api = Api::namespaced(client, &settings.namespace);
    let candidate = Candidate { api, settings };
    tokio::select! {
        (lease, expires) = candidate.wait() => {
            Some(Leadership { candidate, lease, expires: watch::Sender::new(expires) })
        }
        () = shutdown.cancelled() => None,
    }
}

impl Candidate {
    /// Watches the Lease and takes it as soon as it may.
    async fn wait(&self) -> (Lease, Instant) {
        let selection = watcher::Config::default().fields(&format!("metadata.name={}", names::LEADER_LEASE));
        let mut events = watcher(self.api.clone(), selection).backoff(WatchBackoff::default()).boxed();
        let mut listed = None;
        let mut sighting: Option<Sighting> = None;
        loop {
            let wake = sighting.as_ref().map(|sighting| self.next_try(sighting));
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed = None,
                    Some(Ok(watcher::Event::InitApply(lease))) => listed = Some(lease),
                    Some(Ok(watcher::Event::InitDone)) => see(&mut sighting, listed.take()),
                    Some(Ok(watcher::Event::Apply(lease))) => see(&mut sighting, Some(lease)),
                    Some(Ok(watcher::Event::Delete(_))) => see(&mut sighting, None),
                    Some(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot watch the Lease, trying again");
                    }
                    None => tokio::time::sleep(RETRY).await,
                },
                () = sleep_until(wake) => {
                    let Some(current) = sighting.as_ref() else { continue };
                    match self.take(current.lease.clone()).await {
                        Ok(held) => return held,
                        Err(error) if is_conflict(&error) => {
                            // Another was quicker: the watch says who. Until then it counts as just seen.
                            sighting = None;
                        }
                        Err(error) => {
                            tracing::warn!(error = %words(&error), "cannot take the Lease, trying again");
                            tokio::time::sleep(jittered(RETRY)).await;
                        }
                    }
                }
            }
        }
    }

    /// When to try: at once if the Lease is free, and a little after it runs out otherwise, each candidate at a time of its own.
    fn next_try(&self, sighting: &Sighting) -> Instant {
        let now = Instant::now();
        match evaluate(sighting, &self.settings.identity, now) {
            Action::Acquire | Action::Renew => now,
            Action::Yield { until } => until + rand::rng().random_range(Duration::ZERO..=self.settings.duration / 20),
        }
    }

    /// Writes this candidate into the Lease. Answers until when it holds, counted from before the call.
    async fn take(&self, current: Option<Lease>) -> kube::Result<(Lease, Instant)> {
        let start = Instant::now();
        let now = MicroTime(jiff::Timestamp::now());
        let (exists, mut lease) = current.map_or_else(|| (false, self.empty()), |lease| (true, lease));
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.settings.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.settings.duration.as_secs()).ok();
        spec.renew_time = Some(now);
        lease.metadata.annotations.get_or_insert_default().extend(self.settings.annotations.clone());
        let written = self.write(exists, &lease).await?;
        Ok((written, start + self.settings.duration))
    }

    async fn write(&self, exists: bool, lease: &Lease) -> kube::Result<Lease> {
        let params = PostParams { field_manager: Some(names::CLUSTER_MANAGER.to_owned()), ..PostParams::default() };
        let call = async {
            if exists {
                self.api.replace(names::LEADER_LEASE, &params, lease).await
            } else {
                self.api.create(&params, lease).await
            }
        };
        within(CALL_DEADLINE, call).await
    }

    fn empty(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(names::LEADER_LEASE.to_owned()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec::default()),
        }
    }
}

impl Leadership {
    /// The right to write that the Lease gives.
    pub fn claim(&self) -> Claim {
        Claim { expires: self.expires.subscribe() }
    }

    /// Renews the Lease in a task of its own. The future ends, with the reason, when the Lease is lost.
    pub fn keep(self) -> (Renewal, impl Future<Output = anyhow::Error>) {
        let stop = CancellationToken::new();
        let (lost_tx, lost) = tokio::sync::oneshot::channel();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut leadership = self;
            if let Some(reason) = leadership.renew(&stopped).await {
                drop(lost_tx.send(reason));
            }
            leadership
        });
        let lost = async { lost.await.unwrap_or_else(|_| anyhow!("the task that renews the Lease died")) };
        (Renewal { task, stop }, lost)
    }

    /// Renews three times in each duration; ends with the reason when the Lease is lost, with none when told to stop. A
    /// call under way is ended first, so that the newest version of the Lease is known.
    async fn renew(&mut self, stop: &CancellationToken) -> Option<anyhow::Error> {
        let interval = self.candidate.settings.duration / 3;
        let mut next = Instant::now() + interval;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = stop.cancelled() => return None,
            }
            let expires = *self.expires.borrow();
            let attempt = tokio::time::timeout_at(expires, self.candidate.take(Some(self.lease.clone()))).await;
            match attempt {
                Ok(Ok((lease, until))) => {
                    self.lease = lease;
                    self.expires.send_replace(until);
                    next = Instant::now() + interval;
                }
                Ok(Err(error)) if is_conflict(&error) || is_gone(&error) => {
                    if let Err(reason) = self.look_again().await {
                        return Some(reason);
                    }
                    next = Instant::now();
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %words(&error), "cannot renew the Lease, trying again");
                    next = Instant::now() + jittered(RETRY);
                }
                Err(_) => return Some(anyhow!("the Lease could not be renewed in its time")),
            }
            if Instant::now() >= *self.expires.borrow() {
                return Some(anyhow!("the Lease could not be renewed in its time"));
            }
        }
    }

    /// Somebody wrote the Lease. If it was not to take it, leadership goes on.
    async fn look_again(&mut self) -> Result<(), anyhow::Error> {
        match within(CALL_DEADLINE, self.candidate.api.get_opt(names::LEADER_LEASE)).await {
            Ok(Some(lease)) => {
                let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
                if holder.as_deref() != Some(&self.candidate.settings.identity) {
                    return Err(anyhow!("the Lease was taken by {}", holder.as_deref().unwrap_or("nobody")));
                }
                self.lease = lease;
                Ok(())
            }
            Ok(None) => Err(anyhow!("the Lease was deleted")),
            Err(error) => {
                tracing::warn!(error = %words(&error), "cannot read the Lease, trying again");
                tokio::time::sleep(jittered(RETRY)).await;
                Ok(())
            }
        }
    }

    /// Gives the Lease back, so that a successor need not wait for its end.
    async fn release(self) {
        let Self { candidate, mut lease, expires } = self;
        expires.send_replace(Instant::now());
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        match candidate.write(true, &lease).await {
            Ok(_) => tracing::info!("gave the Lease back"),
            Err(error) => tracing::warn!(error = %words(&error), "cannot give the Lease back: it runs out by itself"),
        }
    }
}

impl Renewal {
    /// Stops renewing and gives the Lease back. Only when nothing writes any more.
    pub async fn release(self) {
        self.stop.cancel();
        if let Ok(leadership) = self.task.await {
            leadership.release().await;
        }
    }
}

/// Notes what was seen; the time stands still as long as it looks the same.
fn see(sighting: &mut Option<Sighting>, lease: Option<Lease>) {
    let version = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
    if sighting.as_ref().is_none_or(|seen| version(&seen.lease) != version(&lease)) {
        *sighting = Some(Sighting { lease, since: Instant::now() });
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
}

fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.5..=1.5))
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What went wrong, once: kube's own text repeats its source.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
