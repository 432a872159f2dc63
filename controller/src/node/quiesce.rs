//! A snapshot of a guest whose file systems are frozen by its agent, and the end of the frost, whatever happens.
//!
//! ```text
//!   record begun ──> freeze ──> record how that went ──> snapshot ──> thaw ──> record nothing
//! ```
//!
//! What is recorded says that the guest may be frozen: as long as it does, whoever looks at the virtual machine thaws it,
//! which does no harm to one that is not. So it is after the process has ended anywhere in between, and after the guest
//! was brought back to a snapshot, whose memory was frozen when it was taken and which has the record in it.
//!
//! A guest that does not freeze in time has its snapshot all the same: its memory is in it.

use std::time::{Duration, Instant};

use super::context::Context;
use super::hypervisor::{Domain, HvError, Hypervisor, Power};
use super::metadata::{Freeze, Metadata};

/// What is tried.
const THAW: &str = "Thaw";
/// After so many attempts a snapshot does not wait any longer for the thaw: it is taken of the guest as it is.
const ATTEMPTS: u32 = 3;
/// What could not be recorded is recorded after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What became of a guest that may be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// It is not frozen, or an event will tell when it can be thawed.
    NotNeeded,
    /// It was thawed.
    Given,
    /// It may be frozen still; it is tried again after this, and a snapshot waits for it.
    Soon(Duration),
    /// It may be frozen still; it is tried again after this.
    Later(Duration),
}

impl Relief {
    /// When to try again.
    pub fn again(self) -> Option<Duration> {
        match self {
            Self::NotNeeded | Self::Given => None,
            Self::Soon(delay) | Self::Later(delay) => Some(delay),
        }
    }
}

/// What is to be done for a guest that may be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing, or nothing yet.
    Nothing,
    /// Thaw it.
    Thaw,
    /// Forget that it was: one that is off boots without frost.
    Forget,
}

fn need(domain: &Domain) -> Need {
    let Metadata { freeze, restoring, .. } = &domain.metadata;
    // While it is being restored, nothing else is done with it.
    if freeze.is_none() || restoring.is_some() {
        return Need::Nothing;
    }
    match &domain.power {
        Power::Running if domain.agent => Need::Thaw,
        power if power.is_active() => Need::Nothing,
        _ => Need::Forget,
    }
}

/// Thaws a guest that may be frozen, if it can be asked to.
pub async fn relieve<H: Hypervisor>(ctx: &Context<H>, domain: &Domain) -> Relief {
    let metadata = &domain.metadata;
    let uid = metadata.uid.as_str();
    let need = need(domain);
    if need == Need::Nothing {
        return Relief::NotNeeded;
    }
    if need == Need::Thaw {
        if let Some(((), remaining)) = ctx.thaws.held(uid, THAW, Instant::now()) {
            return put_off(ctx, uid, remaining);
        }
        if let Err(error) = ctx.hypervisor.thaw(uid).await {
            tracing::warn!(vm.uid = uid, %error, "the guest may be frozen");
            let delay = ctx.thaws.failed(uid, THAW, (), Instant::now());
            return put_off(ctx, uid, delay);
        }
        tracing::info!(vm.uid = uid, "thawed");
    }
    ctx.thaws.succeeded(uid);
    match ctx.hypervisor.record(&marked(metadata, None)).await {
        Ok(()) => Relief::Given,
        Err(error) => {
            tracing::warn!(vm.uid = uid, %error, "cannot record that the guest is thawed");
            Relief::Soon(AGAIN)
        }
    }
}

/// Whether the guest agent did not thaw the guest when it was last asked to.
pub fn is_frozen<H>(ctx: &Context<H>, uid: &str) -> bool {
    ctx.thaws.last(uid, THAW).is_some()
}

fn put_off<H>(ctx: &Context<H>, uid: &str, delay: Duration) -> Relief {
    after(ctx.thaws.last(uid, THAW).map_or(0, |((), attempts)| attempts), delay)
}

/// What becomes of a guest that was not thawed at so many attempts.
fn after(attempts: u32, delay: Duration) -> Relief {
    if attempts < ATTEMPTS { Relief::Soon(delay) } else { Relief::Later(delay) }
}

/// Takes the snapshot of that name, with the file systems frozen meanwhile if the agent does that in time.
pub async fn take(hypervisor: &impl Hypervisor, metadata: &Metadata, name: &str) -> Result<(), HvError> {
    let uid = metadata.uid.as_str();
    hypervisor.record(&marked(metadata, Some(Freeze::Begun))).await?;
    let freeze = match hypervisor.freeze(uid).await {
        Ok(()) => Freeze::Done,
        Err(error) => {
            tracing::warn!(vm.uid = uid, %error, "the snapshot is taken without");
            Freeze::Failed
        }
    };
    let taken = match hypervisor.record(&marked(metadata, Some(freeze))).await {
        Ok(()) => hypervisor.take_snapshot(uid, name).await,
        Err(error) => Err(error),
    };
    let thawed = match hypervisor.thaw(uid).await {
        Ok(()) => hypervisor.record(&marked(metadata, None)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = thawed {
        tracing::warn!(vm.uid = uid, %error, "the guest may be frozen; it is tried again");
    }
    taken
}

fn marked(metadata: &Metadata, freeze: Option<Freeze>) -> Metadata {
    Metadata { freeze, ..metadata.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::hypervisor::{DiskTrouble, OffCause};
    use super::*;

    fn domain(power: Power, freeze: Option<Freeze>, agent: bool) -> Domain {
        let metadata = Metadata { uid: "u".into(), freeze, ..Metadata::default() };
        Domain { power, metadata, cpu: 1, memory_mib: 256, leases: Vec::new(), agent, attached: Vec::new() }
    }

    fn all_powers() -> Vec<Power> {
        let off = [OffCause::Shutdown, OffCause::Other].map(Power::Off);
        let halted = [Power::Paused, Power::Busy, Power::DiskError(DiskTrouble::default()), Power::Stuck("so".into())];
        let ends = [Power::Panicked, Power::Asleep, Power::GoingDown];
        std::iter::once(Power::Running).chain(halted).chain(ends).chain(off).collect()
    }

    #[test]
    fn whoever_may_be_frozen_is_thawed_as_soon_as_that_can_be_asked_for() {
        for freeze in [Freeze::Begun, Freeze::Done, Freeze::Failed] {
            for power in all_powers() {
                let expected = match &power {
                    Power::Running => Need::Thaw,
                    Power::Off(_) => Need::Forget,
                    _ => Need::Nothing,
                };
                assert_eq!(need(&domain(power.clone(), Some(freeze), true)), expected, "{freeze:?} {power:?}");
                let silent = if expected == Need::Thaw { Need::Nothing } else { expected };
                assert_eq!(need(&domain(power.clone(), Some(freeze), false)), silent, "{freeze:?} {power:?}");
            }
        }
    }

    #[test]
    fn nobody_else_is_and_nobody_amid_a_restore() {
        for power in all_powers() {
            assert_eq!(need(&domain(power.clone(), None, true)), Need::Nothing, "{power:?}");
            let mut restored = domain(power.clone(), Some(Freeze::Done), true);
            restored.metadata.restoring = Some("r".into());
            assert_eq!(need(&restored), Need::Nothing, "{power:?}");
        }
    }

    #[test]
    fn a_snapshot_waits_for_three_attempts() {
        let delay = Duration::from_secs(2);
        for attempts in 0..3 {
            assert_eq!(after(attempts, delay), Relief::Soon(delay));
        }
        assert_eq!(after(3, delay), Relief::Later(delay));
        assert_eq!(after(3, delay).again(), Some(delay));
        assert_eq!((Relief::NotNeeded.again(), Relief::Given.again()), (None, None));
    }
}
