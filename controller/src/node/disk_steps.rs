//! Whether the steps about disks are done now, and doing them.
//!
//! They come last and keep nothing else from being done. Each disk is seen to by itself: a guest that does not let go of
//! one gets the next all the same. After a failure all wait together, until they are due again or others are decided.

use std::time::{Duration, Instant};

use kube::api::Api;
use kvmoor_crds::VirtualMachine;

use super::context::Context;
use super::desired::Desired;
use super::execute::{Failure, Outcome, perform_one};
use super::hypervisor::Hypervisor;
use super::plan::Step;

/// Reason of the condition: the API server has not confirmed that a disk is to be deleted.
pub const UNCONFIRMED: &str = "DeletionUnconfirmed";
/// How long the API server may take to confirm a deletion.
const CONFIRM: Duration = Duration::from_secs(10);
/// It is asked again after this.
const LAGGING: Duration = Duration::from_secs(1);

/// What these steps are known by among the failures: others are another attempt.
pub fn attempt(steps: &[Step], revision: &str) -> String {
    let names: Vec<String> =
        steps.iter().map(|step| format!("{} {}", step.name(), step.volume().unwrap_or_default())).collect();
    format!("{}/{revision}", names.join(","))
}

/// Why the steps are not done now, and how long not.
pub async fn put_off<H>(
    ctx: &Context<H>,
    desired: &Desired,
    generation: Option<i64>,
    steps: &[Step],
    attempt: &str,
) -> Option<(Failure, Duration)> {
    if steps.is_empty() {
        return None;
    }
    let held = ctx.failures.held(&desired.identity().uid, attempt, Instant::now());
    if held.is_some() || !steps.iter().any(Step::sheds_data) || is_still_so(ctx, desired, generation).await {
        return held;
    }
    let message = "The API server has not confirmed that the disk is to be deleted; it is asked again".to_owned();
    Some((Failure { step: UNCONFIRMED, reason: UNCONFIRMED, message }, LAGGING))
}

/// Does the steps, each disk by itself. What is to be recorded when all are done is recorded only then.
pub async fn execute(hypervisor: &impl Hypervisor, uid: &str, steps: &[Step]) -> Outcome {
    let mut failed: Option<Failure> = None;
    let mut stuck: Vec<&str> = Vec::new();
    for step in steps {
        if step.volume().map_or(failed.is_some(), |volume| stuck.contains(&volume)) {
            continue;
        }
        match perform_one(hypervisor, uid, step).await {
            Outcome::Done => {}
            Outcome::Failed(failure) => {
                stuck.extend(step.volume());
                failed.get_or_insert(failure);
            }
            other => return other,
        }
    }
    failed.map_or(Outcome::Done, Outcome::Failed)
}

/// Whether the API server itself, not a cache, has the spec that a disk is to be deleted by.
async fn is_still_so<H>(ctx: &Context<H>, desired: &Desired, generation: Option<i64>) -> bool {
    let identity = desired.identity();
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &identity.namespace);
    let live = tokio::time::timeout(CONFIRM, api.get_metadata_opt(&identity.name)).await;
    let Ok(Ok(Some(live))) = live else { return false };
    live.metadata.generation == generation
        && live.metadata.uid.is_some_and(|uid| uid.eq_ignore_ascii_case(&identity.uid))
}
