//! One reconcile: parse, observe, plan, execute, status, publish, a file each.
//!
//! Level-triggered: why it was called does not matter. Rounds follow each other until there is nothing to do, so that
//! what is published was observed and not assumed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Image, VirtualMachine, VirtualMachineStatus, conditions};

use super::advance::advance;
use super::clones::{self, BEING_CLONED};
use super::context::{Context, Root};
use super::desired::{self, Desired, Identity};
use super::execute::{Failure, Outcome, execute};
use super::hypervisor::{DomainFacts, Hypervisor};
use super::metadata::Halt;
use super::observe::{Observed, observe};
use super::plan::{Plan, Step, plan, seed_due};
use super::publish::{Base, DEADLINE, PublishError, publish};
use super::{disk_steps, guest_agent, report, status};

/// Looked at again after this, even if nothing ever happens.
const SAFETY_NET: Duration = Duration::from_secs(3600);
/// The watch of Images needs a moment to bring one that was just made.
const UNSEEN: Duration = Duration::from_millis(200);
/// Looked at again after this while the hypervisor cannot be asked; its coming back wakes all anyway.
const UNREACHABLE: Duration = Duration::from_secs(30);
/// The watch needs a moment to bring the object that a conflict tells of.
const CONFLICT: Duration = Duration::from_millis(50);
/// Steps that take longer than this are told of while they last.
const LONG_STEP: Duration = Duration::from_secs(2);
/// What stands in the way is looked at again at least this often: to look costs little.
const BLOCKED: Duration = Duration::from_secs(30);
/// More rounds than any plan needs.
const ROUNDS: usize = 8;

/// Why a reconcile must be repeated soon.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The status could not be written.
    #[error("cannot publish the status")]
    Publish(#[from] PublishError),
    /// The API server could not be asked whether a deletion is real.
    #[error("cannot confirm the deletion: {0}")]
    Confirm(String),
    /// The API server could not be asked whether there is an Image.
    #[error("cannot ask for the image: {0}")]
    Image(String),
}

impl ReconcileError {
    /// In a word, for those who count; nothing where it is in the order of things.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Publish(PublishError::Conflict | PublishError::Gone) => None,
            Self::Publish(PublishError::Timeout | PublishError::Refused(_)) | Self::Confirm(_) | Self::Image(_) => {
                Some("api_unavailable")
            }
        }
    }
}

/// Brings one virtual machine closer to what is wanted, and says how it is.
pub async fn reconcile<H: Hypervisor>(root: Arc<Root>, ctx: Arc<Context<H>>) -> Result<Action, ReconcileError> {
    let reconciles = ctx.metrics.reconciles.clone();
    let result = reconciles.time(attempt(root, ctx)).await;
    if let Err(error) = &result
        && let Some(reason) = error.reason()
    {
        reconciles.failed(reason);
    }
    result
}

async fn attempt<H: Hypervisor>(root: Arc<Root>, ctx: Arc<Context<H>>) -> Result<Action, ReconcileError> {
    let object = match &root.0 {
        Ok(object) => object,
        Err(invalid) => {
            tracing::warn!(vm.name = invalid.metadata.name, error = invalid.error, "cannot read the object");
            return Ok(Action::await_change());
        }
    };
    let generation = object.metadata.generation;
    let desired = match desired::parse(object, |name| ctx.image(name)) {
        Ok(Ok(desired)) => confirmed(&ctx, desired).await?,
        Ok(Err(untouched)) => return Ok(leave_alone(&ctx, object, untouched)),
        Err(invalid) => return publish_invalid(&ctx, object, &invalid).await,
    };
    let identity = desired.identity();
    ctx.known.learn(&identity.uid, &root);
    let base = ctx.written.newest(&identity.uid, object);
    if is_ahead_of_its_image(&ctx, &desired, &base.status).await? {
        return Ok(Action::requeue(UNSEEN));
    }

    if matches!(desired, Desired::Absent { confirmed: true, .. }) && !ctx.copier.end(&identity.uid).await {
        return Ok(Action::requeue(CONFLICT));
    }
    let turn = ctx.turns.change(&identity.uid);
    let revision = desired.revision(generation);
    let work = rounds(&ctx, &desired, &revision, generation, turn.is_some());
    tokio::pin!(work);
    let settled = match tokio::time::timeout(LONG_STEP, &mut work).await {
        Ok(settled) => settled,
        Err(_) => tokio::join!(work, tell_of_long_step(&ctx, &desired, &base, generation)).0,
    };

    let base = ctx.written.newest(&identity.uid, object);
    let failure = settled.failure.as_ref();
    let next = status::of(&desired, &settled.observed, failure, &base.status, generation, Timestamp::now());
    let is_written = publish(&ctx.client, &ctx.written, identity, &base, &next).await?;
    ctx.api_failures.succeeded(&identity.uid);
    if is_written {
        ctx.copier.changed(identity);
        tell_of_trouble(&ctx, identity, &base.status, &next, &settled);
    }
    let next_step = match &desired {
        // What is asked of its snapshots waits, too.
        Desired::Present(_) if turn.is_none() => None,
        Desired::Present(machine) => advance(&ctx, machine, &settled.observed).await?,
        Desired::Absent { .. } => {
            ctx.snapshots_changed.notify_one();
            None
        }
    };
    let next = next_step.unwrap_or(settled.requeue_after);
    Ok(Action::requeue(ctx.guests.look_again(&identity.uid, Instant::now()).map_or(next, |delay| delay.min(next))))
}

/// Where the rounds ended.
struct Settled {
    observed: Observed,
    failure: Option<Failure>,
    requeue_after: Duration,
    /// How the guest was found to have gone off by itself.
    halted: Option<Halt>,
}

/// Observe, decide and do, until nothing is left to do, something fails, or nothing is known.
async fn rounds<H: Hypervisor>(
    ctx: &Context<H>,
    desired: &Desired,
    revision: &str,
    generation: Option<i64>,
    may_change: bool,
) -> Settled {
    let uid = desired.identity().uid.as_str();
    let attempt = |what: &str| format!("{what}/{revision}");
    let mut halted = None;
    for _ in 0..ROUNDS {
        let now = Timestamp::now();
        let mut observed = full_observation(ctx, desired, uid).await;
        ctx.importer.attend(desired, &mut observed, |uid| ctx.known.get(uid));
        clones::attend(ctx, desired, &mut observed).await;
        let decided = plan(desired, &observed, now);
        if matches!(observed, Observed::Unreachable(_)) {
            ctx.metrics.reconciles.failed("LibvirtUnavailable");
            return Settled { observed, failure: None, requeue_after: UNREACHABLE, halted };
        }
        let is_idle = decided.steps.is_empty() && decided.disks.is_empty();
        if !may_change && !is_idle {
            let message = "Its disks are being copied for a clone; it goes on when that is done".to_owned();
            let failure = Failure { step: BEING_CLONED, reason: BEING_CLONED, message };
            return Settled { observed, failure: Some(failure), requeue_after: BLOCKED, halted };
        }
        let held = |step: &Step| ctx.failures.held(uid, &attempt(step.name()), Instant::now());
        if let Some((failure, remaining)) = decided.steps.iter().find_map(held) {
            return Settled { observed, failure: Some(failure), requeue_after: remaining, halted };
        }
        let of_disks = disk_steps::attempt(&decided.disks, revision);
        let put_off = disk_steps::put_off(ctx, desired, generation, &decided.disks, &of_disks).await;
        let disks = if put_off.is_some() { &[] } else { decided.disks.as_slice() };
        if let Some((failure, remaining)) = put_off.filter(|_| decided.steps.is_empty()) {
            let requeue_after = soonest(remaining, &decided);
            return Settled { observed, failure: Some(failure), requeue_after, halted };
        }
        halted = halted.or_else(|| decided.steps.iter().find_map(|step| recorded_halt(step, &observed)));
        let (outcome, attempted) = match execute(&*ctx.hypervisor, uid, &decided.steps).await {
            Outcome::Done => (disk_steps::execute(&*ctx.hypervisor, uid, disks).await, Some(of_disks)),
            other => (other, None),
        };
        match outcome {
            Outcome::Failed(failure) => {
                ctx.metrics.reconciles.failed(failure.reason);
                let attempted = attempted.unwrap_or_else(|| attempt(failure.step));
                let delay = ctx.failures.failed(uid, &attempted, failure.clone(), Instant::now());
                // Earlier steps may have been done: what is published is what is now.
                let observed = observe(&*ctx.hypervisor, desired, ctx.remembered(uid)).await;
                let requeue_after = soonest(delay, &decided);
                return Settled { observed, failure: Some(failure), requeue_after, halted };
            }
            Outcome::Unreachable(error) => {
                ctx.metrics.reconciles.failed("LibvirtUnavailable");
                return Settled {
                    observed: Observed::Unreachable(error),
                    failure: None,
                    requeue_after: UNREACHABLE,
                    halted,
                };
            }
            Outcome::Stale(_) => continue,
            Outcome::Done => {}
        }
        if decided.steps.contains(&Step::PressPowerButton) {
            ctx.presses.pressed(uid, now);
        }
        if decided.steps.contains(&Step::RetryDisks) {
            ctx.retries.tried(uid, now);
        }
        if decided.steps.is_empty() && disks.is_empty() {
            let (failure, requeue_after) = settle(ctx, uid, &decided, attempt);
            return Settled { observed, failure, requeue_after, halted };
        }
    }
    // Every round found the domain changed by somebody else. Look again when it has calmed down.
    let observed = observe(&*ctx.hypervisor, desired, ctx.remembered(uid)).await;
    Settled { observed, failure: None, requeue_after: Duration::from_secs(1), halted }
}

/// When to look again after a failure: no later than without it.
fn soonest(delay: Duration, decided: &Plan) -> Duration {
    decided.requeue_after.map_or(delay, |requeue_after| delay.min(requeue_after))
}

/// What is, with what the guest is to be told where a seed is to be written.
async fn full_observation<H: Hypervisor>(ctx: &Context<H>, desired: &Desired, uid: &str) -> Observed {
    let mut observed = settled_observation(ctx, desired, uid).await;
    if let (Desired::Present(machine), Observed::Complete(facts)) = (desired, &mut observed)
        && seed_due(machine, &facts.domain)
    {
        facts.told = ctx.guest_data.of(&machine.identity).await;
    }
    guest_agent::attend(ctx, desired, &mut observed);
    observed
}

/// What is, but not in the middle of a restore: one that was begun may still be under way in libvirt, begun by a process
/// that is gone.
async fn settled_observation<H: Hypervisor>(ctx: &Context<H>, desired: &Desired, uid: &str) -> Observed {
    let observed = observe(&*ctx.hypervisor, desired, ctx.remembered(uid)).await;
    let is_restoring = matches!(&observed, Observed::Complete(facts)
        if matches!(&facts.domain, DomainFacts::Ours(domain) if domain.metadata.restoring.is_some()));
    if !is_restoring || matches!(desired, Desired::Absent { .. }) {
        return observed;
    }
    match ctx.hypervisor.take_turn(uid).await {
        Ok(()) => observe(&*ctx.hypervisor, desired, ctx.remembered(uid)).await,
        Err(error) => Observed::Unreachable(error),
    }
}

/// Nothing is left to do: either all is as wanted, or something stands in the way.
fn settle<H>(
    ctx: &Context<H>,
    uid: &str,
    decided: &Plan,
    attempt: impl Fn(&str) -> String,
) -> (Option<Failure>, Duration) {
    let Some(blocked) = &decided.blocked else {
        ctx.failures.succeeded(uid);
        return (None, decided.requeue_after.unwrap_or(SAFETY_NET));
    };
    let failure = Failure { step: blocked.reason, reason: blocked.reason, message: blocked.message.clone() };
    let (now, attempt) = (Instant::now(), attempt(blocked.reason));
    let delay = match ctx.failures.held(uid, &attempt, now) {
        Some((_, remaining)) => remaining,
        None => ctx.failures.failed(uid, &attempt, failure.clone(), now),
    };
    (Some(failure), soonest(delay.min(BLOCKED), decided))
}

/// A cached object says that it is being deleted; nothing is destroyed before the API server itself has said so of this
/// very object.
async fn confirmed<H>(ctx: &Context<H>, desired: Desired) -> Result<Desired, ReconcileError> {
    let Desired::Absent { identity, .. } = desired else {
        return Ok(desired);
    };
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &identity.namespace);
    let live = api.get_metadata_opt(&identity.name).await.map_err(|error| match error {
        kube::Error::Api(status) => ReconcileError::Confirm(status.message.clone()),
        other => ReconcileError::Confirm(other.to_string()),
    })?;
    let confirmed = live.is_some_and(|live| {
        live.metadata.deletion_timestamp.is_some()
            && live.metadata.uid.is_some_and(|uid| uid.eq_ignore_ascii_case(&identity.uid))
    });
    Ok(Desired::Absent { identity, confirmed })
}

/// Whether there is an Image for a root disk that is not made yet, of which the watch has not told: the disk would be
/// blank, and stay so.
async fn is_ahead_of_its_image<H>(
    ctx: &Context<H>,
    desired: &Desired,
    status: &VirtualMachineStatus,
) -> Result<bool, ReconcileError> {
    let Desired::Present(machine) = desired else { return Ok(false) };
    let Some(name) = &machine.root.unknown_os else { return Ok(false) };
    if ctx.has_image(name) || conditions::is_true(&status.conditions, types::PROVISIONED) {
        return Ok(false);
    }
    let images: Api<Image> = Api::all(ctx.client.clone());
    let found = tokio::time::timeout(DEADLINE, images.get_metadata_opt(name)).await;
    let found = found.map_err(|_| ReconcileError::Image("no answer".to_owned()))?;
    Ok(found.map_err(|error| ReconcileError::Image(error.to_string()))?.is_some())
}

fn leave_alone<H>(ctx: &Context<H>, object: &VirtualMachine, untouched: desired::Untouched) -> Action {
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    if untouched == desired::Untouched::Released {
        ctx.forget(uid);
    }
    Action::await_change()
}

async fn publish_invalid<H>(
    ctx: &Context<H>,
    object: &VirtualMachine,
    invalid: &desired::Invalid,
) -> Result<Action, ReconcileError> {
    let metadata = &object.metadata;
    let (Some(uid), Some(namespace), Some(name)) = (&metadata.uid, &metadata.namespace, &metadata.name) else {
        return Ok(Action::await_change());
    };
    let identity = Identity { uid: uid.clone(), namespace: namespace.clone(), name: name.clone() };
    let base = ctx.written.newest(uid, object);
    let next = status::invalid(&invalid.to_string(), &base.status, metadata.generation, Timestamp::now());
    publish(&ctx.client, &ctx.written, &identity, &base, &next).await?;
    Ok(Action::await_change())
}

/// Says what is being done. Not being able to is no reason to stop doing it.
async fn tell_of_long_step<H: Hypervisor>(ctx: &Context<H>, desired: &Desired, base: &Base, generation: Option<i64>) {
    let observed = observe(&*ctx.hypervisor, desired, ctx.remembered(desired.identity().uid.as_str())).await;
    let Some(next) = status::interim(desired, &observed, &base.status, generation, Timestamp::now()) else {
        return;
    };
    if let Err(error) = publish(&ctx.client, &ctx.written, desired.identity(), base, &next).await {
        tracing::debug!(vm.uid = desired.identity().uid, %error, "cannot tell of a long step");
    }
}

/// Events for what a user should hear of, once each: they go with the write that tells it first.
fn tell_of_trouble<H>(
    ctx: &Context<H>,
    identity: &Identity,
    before: &VirtualMachineStatus,
    now: &VirtualMachineStatus,
    settled: &Settled,
) {
    let message = |status: &VirtualMachineStatus| {
        conditions::find(&status.conditions, conditions::types::SYNCHRONIZED)
            .filter(|condition| condition.status == "False")
            .map(|condition| condition.message.clone())
    };
    if let Some(failure) = &settled.failure
        && message(before) != message(now)
    {
        report::warn(&ctx.client, &ctx.node_name, identity, failure.reason, &failure.message);
    }
    let tell = |reason, note: &str| report::warn(&ctx.client, &ctx.node_name, identity, reason, note);
    let note = now.message.as_deref().unwrap_or_default();
    if let Some(halt) = settled.halted {
        tell(status::halt_reason(halt), note);
    }
    let ready = |status: &VirtualMachineStatus| {
        conditions::find(&status.conditions, types::READY).map(|condition| condition.reason.clone())
    };
    if ready(now).as_deref() == Some(status::CRASH_LOOP) && ready(before) != ready(now) {
        tell(status::CRASH_LOOP, note);
    }
    for error in [types::DISK_ERROR, types::ADDRESS_ERROR] {
        let message = |status: &VirtualMachineStatus| {
            conditions::find(&status.conditions, error)
                .filter(|condition| condition.status == "True")
                .map(|condition| condition.message.clone())
        };
        if let Some(news) = message(now).filter(|news| message(before).as_ref() != Some(news)) {
            tell(error, &news);
        }
    }
}

/// How the guest went off by itself, if a step writes down for the first time that it crashed.
fn recorded_halt(step: &Step, observed: &Observed) -> Option<Halt> {
    let (Step::Record(metadata), Observed::Complete(facts)) = (step, observed) else {
        return None;
    };
    let DomainFacts::Ours(domain) = &facts.domain else {
        return None;
    };
    metadata.halted.filter(|halt| *halt != Halt::Guest && domain.metadata.halted.is_none())
}

/// What to do after a reconcile that must be repeated.
pub fn error_policy<H>(root: Arc<Root>, error: &ReconcileError, ctx: Arc<Context<H>>) -> Action {
    use kube::Resource;
    let uid = root.meta().uid.as_deref().unwrap_or_default();
    match error {
        ReconcileError::Publish(PublishError::Conflict) => Action::requeue(CONFLICT),
        ReconcileError::Publish(PublishError::Gone) => Action::await_change(),
        ReconcileError::Publish(_) | ReconcileError::Confirm(_) | ReconcileError::Image(_) => {
            tracing::warn!(vm.uid = uid, %error, cause = std::error::Error::source(error).map(tracing::field::display), "repeated later");
            Action::requeue(ctx.api_failures.failed(uid, "", (), Instant::now()))
        }
    }
}
