//! What is: the read-only half of a reconcile.
//!
//! Only reads, and as few as the decision needs. A failure is a value, [`Observed::Unreachable`]: not to know is an
//! observation too.

use jiff::Timestamp;
use kvmoor_crds::names;

use super::desired::Desired;
use super::guest_data::Told;
use super::hypervisor::{DomainFacts, HostFacts, HvError, Hypervisor, ImageFacts};

/// What is, as far as it could be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Nothing is known now. It is not the same as "there is nothing".
    Unreachable(HvError),
    /// All of it.
    Complete(Box<Facts>),
}

/// All that is needed to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The host.
    pub host: HostFacts,
    /// The domain.
    pub domain: DomainFacts,
    /// The image that the root disk is to start from. Looked up only while there is no domain.
    pub image: Option<ImageFacts>,
    /// Volumes of the virtual machine. Looked up only when it is to be gone.
    pub volumes: Vec<String>,
    /// When this process last pressed the domain's power button. Not remembered beyond the process: after a restart it
    /// is pressed again, which is what a press that may not have happened needs.
    pub pressed_at: Option<Timestamp>,
    /// What the guest is to be told beyond its spec. Asked only when a seed is to be written.
    pub told: Told,
}

/// Finds out what is.
pub async fn observe(hypervisor: &impl Hypervisor, desired: &Desired, pressed_at: Option<Timestamp>) -> Observed {
    match facts(hypervisor, desired, pressed_at).await {
        Ok(facts) => Observed::Complete(Box::new(facts)),
        Err(error) => Observed::Unreachable(error),
    }
}

async fn facts(
    hypervisor: &impl Hypervisor,
    desired: &Desired,
    pressed_at: Option<Timestamp>,
) -> Result<Facts, HvError> {
    let uid = desired.identity().uid.as_str();
    let host = hypervisor.host().await?;
    let domain = hypervisor.domain(uid).await?;
    let mut facts = Facts { host, domain, image: None, volumes: Vec::new(), pressed_at, told: Told::NotAsked };
    match desired {
        Desired::Absent { .. } => {
            let listed = hypervisor.volumes(&names::volume_prefix(uid)).await?;
            facts.volumes = listed.into_iter().map(|volume| volume.name).collect();
        }
        Desired::Present(machine) => {
            if let (DomainFacts::Missing, Some(image)) = (&facts.domain, &machine.root.image) {
                facts.image = hypervisor.image(&image.volume).await?;
            }
        }
    }
    Ok(facts)
}
