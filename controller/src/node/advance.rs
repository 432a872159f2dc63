//! The effects of `operation`: one step of the operation whose turn it is, after the virtual machine itself was looked at.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::Api;
use kvmoor_crds::VirtualMachineRestore;

use super::context::Context;
use super::desired::Machine;
use super::execute::Failure;
use super::hypervisor::{Class, DomainFacts, HvError, Hypervisor};
use super::metadata::Metadata;
use super::observe::Observed;
use super::operation::{self, Decision, Kind, Operation, Outcome, decide};
use super::publish::PublishError;
use super::queue::Request;
use super::quiesce::{self, Relief};
use super::reconcile::ReconcileError;
use super::report;
use super::tell::{Progress, tell};

/// What fails so often for a reason of its own is not tried again. A deletion always is.
const ATTEMPTS: u32 = 3;
/// The domain is looked at again after this while it changes.
const CHANGING: Duration = Duration::from_secs(1);
/// How long the API server may take to say whether a restore still is to be done.
const DEADLINE: Duration = Duration::from_secs(10);

/// Does one step. Answers when to come again, if there is anything left to do.
pub async fn advance<H: Hypervisor>(
    ctx: &Context<H>,
    machine: &Machine,
    observed: &Observed,
) -> Result<Option<Duration>, ReconcileError> {
    let Observed::Complete(facts) = observed else { return Ok(None) };
    let DomainFacts::Ours(domain) = &facts.domain else { return Ok(None) };
    let uid = machine.identity.uid.as_str();
    let relief = quiesce::relieve(ctx, domain).await;
    if relief == Relief::Given {
        return Ok(Some(Duration::ZERO));
    }
    let queue = ctx.queue.of(
        &machine.identity,
        |snapshot| ctx.told.snapshots.newest(snapshot),
        |restore| ctx.told.restores.newest(restore),
    );
    let head = match &domain.metadata.restoring {
        None => queue.first(),
        Some(begun) => queue.iter().find(|(operation, _)| operation.uid == *begun),
    };
    let Some((operation, request)) = head else {
        if domain.metadata.restoring.is_none() {
            return Ok(relief.again());
        }
        tracing::warn!(vm.uid = uid, "the restore that was begun is not asked for any more");
        let decision = operation::without_restoring(&domain.metadata);
        return Ok(Some(perform(ctx, &domain.metadata, "", &decision).await.map_or(CHANGING, |()| Duration::ZERO)));
    };
    if let (Kind::Take { .. }, Relief::Soon(delay)) = (operation.kind, relief) {
        return Ok(Some(delay));
    }
    let snapshot = match ctx.hypervisor.snapshot(uid, &operation.libvirt_name).await {
        Ok(snapshot) => snapshot,
        Err(error) => return failed(ctx, operation, request, &error).await,
    };
    let attempt = operation.libvirt_name.as_str();
    let held = ctx.operation_failures.held(&operation.uid, attempt, Instant::now());
    let given_up = ctx
        .operation_failures
        .last(&operation.uid, attempt)
        .filter(|(_, attempts)| *attempts >= ATTEMPTS && operation.kind != Kind::Delete)
        .map(|(failure, _)| failure);
    let now = Timestamp::now();
    let decision = decide(machine, domain, &facts.host.boot_id, operation, snapshot.as_ref(), given_up, now);
    match &decision {
        Decision::Wait => return Ok(Some(CHANGING)),
        Decision::Over(outcome) => {
            tell(&ctx.client, &ctx.told, operation, request, Progress::Over(outcome)).await?;
            if let Outcome::Failed { reason, message } = outcome {
                report::warn_of(&ctx.client, &ctx.node_name, request, reason, message);
            }
            tracing::info!(vm.uid = uid, operation.uid, kind = ?operation.kind, failed = failed_with(outcome), "over");
            ctx.metrics.operation(operation.kind, outcome);
            ctx.operation_failures.succeeded(&operation.uid);
            return Ok(Some(Duration::ZERO));
        }
        Decision::Take { .. } | Decision::Delete | Decision::Record(_) | Decision::Revert { .. } => {}
    }
    let gives_up = matches!(&decision, Decision::Record(metadata) if metadata.restoring.is_none());
    if let Some((_, remaining)) = held.filter(|_| !gives_up) {
        return Ok(Some(remaining));
    }
    if let Request::Restore(restore) = request
        && !is_still_asked_for(ctx, restore).await?
    {
        return Ok(Some(CHANGING));
    }
    if !gives_up {
        tell(&ctx.client, &ctx.told, operation, request, Progress::Begun(None)).await.or_else(tolerated)?;
    }
    match perform(ctx, &domain.metadata, &operation.libvirt_name, &decision).await {
        Ok(()) => Ok(Some(Duration::ZERO)),
        Err(error) => failed(ctx, operation, request, &error).await,
    }
}

async fn perform<H: Hypervisor>(
    ctx: &Context<H>,
    before: &Metadata,
    libvirt_name: &str,
    decision: &Decision,
) -> Result<(), HvError> {
    let started = Instant::now();
    let uid = before.uid.as_str();
    let (step, result) = match decision {
        Decision::Take { frozen: true } => {
            ("TakeSnapshot", quiesce::take(&*ctx.hypervisor, before, libvirt_name).await)
        }
        Decision::Take { frozen: false } => ("TakeSnapshot", ctx.hypervisor.take_snapshot(uid, libvirt_name).await),
        Decision::Delete => ("DeleteSnapshot", ctx.hypervisor.delete_snapshot(uid, libvirt_name).await),
        Decision::Record(metadata) => ("Record", ctx.hypervisor.record(metadata).await),
        Decision::Revert { metadata, resumption } => {
            ("Revert", ctx.hypervisor.revert(metadata, libvirt_name, *resumption).await)
        }
        Decision::Wait | Decision::Over(_) => return Ok(()),
    };
    let duration_ms = started.elapsed().as_millis();
    match &result {
        Ok(()) => tracing::info!(vm.uid = uid, step, duration_ms, "done"),
        Err(error) => tracing::warn!(vm.uid = uid, step, duration_ms, %error, "failed"),
    }
    result
}

/// Takes note of a failure, tells of it, and says when to try again.
async fn failed<H>(
    ctx: &Context<H>,
    operation: &Operation,
    request: &Request,
    error: &HvError,
) -> Result<Option<Duration>, ReconcileError> {
    if error.is_unreachable() || error.class == Class::Stale {
        return Ok(Some(CHANGING));
    }
    let message = format!("Cannot {}: {}; it is tried again.", error.op, error.message);
    let (reason, step) = match operation.kind {
        Kind::Take { .. } => ("SnapshotFailed", "TakeSnapshot"),
        Kind::Delete => ("DeleteFailed", "DeleteSnapshot"),
        Kind::Restore => ("RestoreFailed", "Revert"),
    };
    if error.class == Class::Busy {
        tell(&ctx.client, &ctx.told, operation, request, Progress::Begun(Some(&message))).await.or_else(tolerated)?;
        return Ok(Some(CHANGING));
    }
    let failure = Failure { step, reason, message: format!("Cannot {}: {}.", error.op, error.message) };
    let now = Instant::now();
    let said = ctx.operation_failures.last(&operation.uid, &operation.libvirt_name);
    if said.is_none_or(|(said, _)| said.message != failure.message) {
        report::warn_of(&ctx.client, &ctx.node_name, request, reason, &message);
    }
    let delay = ctx.operation_failures.failed(&operation.uid, &operation.libvirt_name, failure, now);
    tell(&ctx.client, &ctx.told, operation, request, Progress::Begun(Some(&message))).await.or_else(tolerated)?;
    Ok(Some(delay.min(Duration::from_secs(30))))
}

/// Not to be able to tell how far it is, because somebody else wrote, is no reason not to do it.
fn tolerated(error: PublishError) -> Result<(), PublishError> {
    match error {
        PublishError::Conflict | PublishError::Gone => Ok(()),
        other => Err(other),
    }
}

/// The cache may lag behind: a restore is done only if the API server itself has it, unfinished.
async fn is_still_asked_for<H>(ctx: &Context<H>, seen: &VirtualMachineRestore) -> Result<bool, ReconcileError> {
    let meta = &seen.metadata;
    let api: Api<VirtualMachineRestore> =
        Api::namespaced(ctx.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let live = tokio::time::timeout(DEADLINE, api.get_opt(meta.name.as_deref().unwrap_or_default()));
    let live = live.await.map_err(|_| ReconcileError::Confirm("no answer".to_owned()))?;
    let live = live.map_err(|error| ReconcileError::Confirm(error.to_string()))?;
    Ok(live.is_some_and(|live| {
        let phase = live.status.as_ref().and_then(|status| status.phase);
        let is_over = matches!(phase, Some(kvmoor_crds::RestorePhase::Succeeded | kvmoor_crds::RestorePhase::Failed));
        live.metadata.uid == meta.uid && live.metadata.deletion_timestamp.is_none() && !is_over
    }))
}

fn failed_with(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Failed { reason, .. } => Some(reason),
        Outcome::Taken(_) | Outcome::Deleted | Outcome::Restored => None,
    }
}
