//! What is: the read-only half of a reconcile.
//!
//! Only reads, and as few as the decision needs. A failure is a value, [`Observed::Unreachable`]: not to know is an
//! observation too.

use jiff::Timestamp;
use kvmoor_crds::names;

use super::address_pool::AddressPool;
use super::clones::Cloned;
use super::desired::{Desired, Machine, Origin};
use super::disks;
use super::guest_agent::Guest;
use super::guest_data::Told;
use super::hypervisor::{Class, DiskFacts, Domain, DomainFacts, HostFacts, HvError, Hypervisor, ImageFacts};
use super::images::Import;
use super::plan;
use super::retries::Tried;
use super::room::Room;

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
    /// What the running domain can be given. Looked up only while it is to have more.
    pub room: Option<Room>,
    /// The disks of a domain that exists; none where they cannot be looked at now, so that nothing is decided of them.
    pub disks: Option<DiskFacts>,
    /// Where its import stands, if it is not there and is to be imported.
    pub import: Option<Import>,
    /// Where its disks stand, if it is a clone. Looked at only while there is no domain.
    pub cloned: Cloned,
    /// Volumes of the virtual machine. Looked up only when it is to be gone.
    pub volumes: Vec<String>,
    /// The addresses that guests are given. Looked up only while a guest has waited for one for long.
    pub addresses: Option<AddressPool>,
    /// What this process did before.
    pub remembered: Remembered,
    /// What the guest is to be told beyond its spec. Asked only when a seed is to be written.
    pub told: Told,
}

/// What this process remembers of what it did. It is gone with the process, and then done again: a press or an attempt
/// that may not have happened needs just that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// When it last pressed the domain's power button.
    pub pressed_at: Option<Timestamp>,
    /// When it last let a guest run again that a disk error had halted.
    pub retried: Option<Tried>,
    /// What it knows of the guest agent.
    pub guest: Guest,
    /// Whether the guest did not thaw when its agent was last asked to.
    pub is_frozen: bool,
}

/// Finds out what is.
pub async fn observe(hypervisor: &impl Hypervisor, desired: &Desired, remembered: Remembered) -> Observed {
    match facts(hypervisor, desired, remembered).await {
        Ok(facts) => Observed::Complete(Box::new(facts)),
        Err(error) => Observed::Unreachable(error),
    }
}

async fn facts(hypervisor: &impl Hypervisor, desired: &Desired, remembered: Remembered) -> Result<Facts, HvError> {
    let uid = desired.identity().uid.as_str();
    let host = hypervisor.host().await?;
    let domain = hypervisor.domain(uid).await?;
    let mut facts = Facts {
        host,
        domain,
        image: None,
        import: None,
        room: None,
        disks: None,
        cloned: Cloned::Unknown,
        volumes: Vec::new(),
        addresses: None,
        remembered,
        told: Told::NotAsked,
    };
    match desired {
        Desired::Absent { .. } => {
            let listed = hypervisor.volumes(&names::volume_prefix(uid)).await?;
            facts.volumes = listed.into_iter().map(|volume| volume.name).collect();
        }
        Desired::Present(machine) => match (&facts.domain, &machine.root.image) {
            (DomainFacts::Missing, Some(image)) => {
                facts.image = match &image.origin {
                    Origin::BuiltIn { volume } => hypervisor.image(volume).await?,
                    Origin::Import(source) => hypervisor.imported_image(&source.content).await?,
                    Origin::Unusable(_) => None,
                };
            }
            (DomainFacts::Ours(domain), _) => {
                if plan::may_grow(machine, domain) {
                    facts.room = room(hypervisor, uid).await?;
                }
                if plan::lacks_address(machine, domain, Timestamp::now()) {
                    facts.addresses = if_known(uid, hypervisor.address_pool().await).flatten();
                }
                facts.disks = disk_facts(hypervisor, machine, domain).await;
            }
            _ => {}
        },
    }
    Ok(facts)
}

/// The room of a domain, which may have gone off since it was looked at.
async fn room(hypervisor: &impl Hypervisor, uid: &str) -> Result<Option<Room>, HvError> {
    match hypervisor.room(uid).await {
        Ok(room) => Ok(Some(room)),
        Err(error) if matches!(error.class, Class::NotFound | Class::Stale) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn disk_facts(hypervisor: &impl Hypervisor, machine: &Machine, domain: &Domain) -> Option<DiskFacts> {
    let uid = machine.identity.uid.as_str();
    let mut volumes = vec![machine.root.volume.clone()];
    volumes.extend(disks::known(machine, &domain.metadata).iter().map(|name| names::extra_volume(uid, name)));
    if_known(uid, hypervisor.disks(uid, volumes).await)
}

/// A storage pool or a DHCP server of which nothing is told is no reason not to see to the rest.
fn if_known<T>(uid: &str, looked_at: Result<T, HvError>) -> Option<T> {
    looked_at.inspect_err(|error| tracing::debug!(vm.uid = uid, %error, "not all can be looked at")).ok()
}
