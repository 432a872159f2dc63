//! Doing what was decided: one match arm, one idempotent call.
//!
//! As much as possible, behaviour should *not* live here. The first step that fails ends it; what was done before stays
//! done, and the next observation sees it. Cancelled anywhere, nothing is lost but the knowledge of it.

use super::hypervisor::{Class, HvError, Hypervisor};
use super::plan::Step;
use super::seed;

/// Reason of a failure: the running guest has no room for one more disk.
pub const DISK_NEEDS_RESTART: &str = "DiskNeedsRestart";

/// What came of the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All were done.
    Done,
    /// The domain was not in the state in which the step was decided: observe and decide again.
    Stale(HvError),
    /// The hypervisor stopped answering: what became of the step is not known.
    Unreachable(HvError),
    /// A step failed.
    Failed(Failure),
}

/// A step that failed, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step's name, or the reason of a plan that is blocked.
    pub step: &'static str,
    /// Reason of the condition.
    pub reason: &'static str,
    /// A sentence that the user can act on.
    pub message: String,
}

/// Does the steps in order.
pub async fn execute(hypervisor: &impl Hypervisor, uid: &str, steps: &[Step]) -> Outcome {
    for step in steps {
        match perform_one(hypervisor, uid, step).await {
            Outcome::Done => {}
            other => return other,
        }
    }
    Outcome::Done
}

/// Does a step.
pub async fn perform_one(hypervisor: &impl Hypervisor, uid: &str, step: &Step) -> Outcome {
    let started = std::time::Instant::now();
    let result = perform(hypervisor, uid, step).await;
    let duration_ms = started.elapsed().as_millis();
    match result {
        Ok(()) => {
            tracing::info!(vm.uid = uid, step = step.name(), duration_ms, "done");
            Outcome::Done
        }
        Err(error) if error.class == Class::Stale => {
            tracing::info!(vm.uid = uid, step = step.name(), duration_ms, %error, "overtaken");
            Outcome::Stale(error)
        }
        Err(error) if error.is_unreachable() => {
            tracing::warn!(vm.uid = uid, step = step.name(), duration_ms, %error, "no answer");
            Outcome::Unreachable(error)
        }
        Err(error) => {
            tracing::warn!(vm.uid = uid, step = step.name(), duration_ms, %error, "failed");
            Outcome::Failed(explain(step, &error))
        }
    }
}

async fn perform(hypervisor: &impl Hypervisor, uid: &str, step: &Step) -> Result<(), HvError> {
    match step {
        Step::WriteSeed(seed) => {
            let bytes = seed::image(seed)
                .map_err(|error| HvError::new(Class::Failed, "make the cloud-init seed", &error.to_string()))?;
            hypervisor.write_volume(&seed.volume, bytes).await
        }
        Step::EnsureVolume(volume) => hypervisor.create_volume(volume.clone()).await,
        Step::EnsureNetwork(name) => hypervisor.ensure_isolated_network(name).await,
        Step::Define(config, metadata) => hypervisor.define(config, metadata).await,
        Step::Record(metadata) => hypervisor.record(metadata).await,
        Step::Start { paused } => hypervisor.start(uid, *paused).await,
        Step::Suspend => hypervisor.suspend(uid).await,
        Step::Resume => hypervisor.resume(uid).await,
        Step::RetryDisks => hypervisor.retry_disks(uid).await,
        Step::PressPowerButton => hypervisor.press_power_button(uid).await,
        Step::Reset => hypervisor.reset(uid).await,
        Step::Destroy => hypervisor.destroy(uid).await,
        Step::GrowDisk { volume, bytes } => hypervisor.grow_disk(uid, volume, *bytes).await,
        Step::AttachDisk(disk) => hypervisor.attach_disk(uid, disk).await,
        Step::DetachDisk(volume) => hypervisor.detach_disk(uid, volume).await,
        Step::GoBack(snapshot) => hypervisor.go_back(uid, snapshot).await,
        Step::ForgetSnapshots(names) => hypervisor.forget_snapshots(uid, names).await,
        Step::DeleteVolume(name) => hypervisor.delete_volume(name).await,
        Step::GrowCpus(to) => hypervisor.grow_cpus(uid, *to).await,
        Step::GrowMemory(to) => hypervisor.grow_memory(uid, *to).await,
        Step::Undefine => hypervisor.undefine(uid).await,
    }
}

/// The failure in the user's words: what was attempted, what libvirt said, and what may help.
fn explain(step: &Step, error: &HvError) -> Failure {
    let (reason, advice) = match (error.class, step) {
        (Class::PoolFull, _) => ("PoolFull", "make room in the host's storage pool; it is tried again"),
        (Class::PoolMissing, _) => ("StoragePoolUnavailable", "start the host's storage pool; it is tried again"),
        (Class::NetworkMissing, _) => ("NetworkUnavailable", "start the host's network; it is tried again"),
        (Class::Foreign, _) => ("ForeignDomain", "rename or remove the other one on the host"),
        (_, Step::GrowCpus(_) | Step::GrowMemory(_)) => ("GrowthFailed", "it is tried again"),
        (_, Step::Start { .. }) if error.message.contains("get interface MTU") => {
            ("BridgeMissing", "make the bridge on the host; it is tried again")
        }
        (_, Step::EnsureNetwork(_)) => ("NetworkUnavailable", "it is tried again"),
        // QEMU's words.
        (_, Step::GrowDisk { .. }) if error.message.contains("which has snapshots") => {
            ("DiskHasSnapshots", "the disk is of an old version: delete the snapshots first; it is tried again")
        }
        (_, Step::GrowDisk { .. }) => ("DiskResizeFailed", "it is tried again"),
        // libvirt's words.
        (_, Step::AttachDisk(_)) if error.message.contains("No more available PCI slots") => {
            (DISK_NEEDS_RESTART, "restart the guest to attach it")
        }
        (_, Step::AttachDisk(_)) => ("DiskAttachFailed", "it is tried again"),
        (_, Step::DetachDisk(_)) => ("DiskDetachPending", "unmount it in the guest; it is tried again"),
        (_, Step::GoBack(_) | Step::ForgetSnapshots(_)) => ("CloneFailed", "it is tried again"),
        (_, Step::Start { .. }) => ("StartFailed", "it is tried again"),
        (_, Step::Define(..)) => ("DefineFailed", "it is tried again"),
        (_, Step::WriteSeed(_) | Step::EnsureVolume(_) | Step::DeleteVolume(_)) => {
            ("VolumeFailed", "it is tried again")
        }
        _ => ("OperationFailed", "it is tried again"),
    };
    Failure { step: step.name(), reason, message: format!("Cannot {}: {}; {advice}", error.op, error.message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_cause_before_the_step() {
        let full = HvError::new(Class::PoolFull, "create the volume", "No space left on device");
        let start = Step::Start { paused: false };
        assert_eq!(explain(&start, &full).reason, "PoolFull");
        let other = HvError::new(Class::Failed, "start the domain", "no memory");
        let failure = explain(&start, &other);
        assert_eq!(failure.reason, "StartFailed");
        assert_eq!(failure.message, "Cannot start the domain: no memory; it is tried again");
    }
}
