//! What to do next: `plan(desired, observed, now)`.
//!
//! Pure and total: no I/O, no clock, no error. It imports neither the Kubernetes client nor libvirt. Whatever is decided
//! about a virtual machine is decided here; `execute` only does it.
//!
//! What must happen once is recorded in the domain's metadata by a step *before* the step that does it, or in such a way
//! that what follows from the record is idempotent. So the process may end between any two steps:
//!
//! ```text
//!              start                      guest goes off by itself
//!   fresh ───────────────> started ────────────────────────────────> halted
//!     ^                       │                                        │ start again: policy and delay allow it
//!     │                       │ stop, restart or power-off asked       v
//!     │      off              v                                     started
//!     └──────────────────  stopping: power button, every 10 s, then the plug
//! ```
//!
//! A restart records its number together with `stopping`; a power-off is a `stopping` whose time is over. Both are then
//! "bring it down, forget the run, start what is wanted", whatever crashes when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kvmoor_crds::{NetworkType, PowerState, RestartPolicy, names, quantity};

use super::desired::{Desired, Machine};
use super::disks::{self, DiskPlan};
use super::domain_xml::{self, Disk, DiskFormat, DomainConfig};
use super::guest_data::Told;
use super::hypervisor::{Domain, DomainFacts, OffCause, Power};
use super::images;
use super::metadata::{Halt, Metadata};
use super::observe::{Facts, Observed};
use super::retries;
use super::seed::Seed;
use super::volume_xml::{Backing, Volume};
use crate::delay::doubled;

mod clone;
mod grow;

pub use grow::{Differing, differing, may_grow};

/// How often the power button is pressed while the guest does not go.
const PRESS_EVERY: Duration = Duration::from_secs(10);
/// The delay before a crashed guest is started again; it doubles with every further crash.
const FIRST_RESTART: Duration = Duration::from_secs(5);
/// The longest such delay.
const LAST_RESTART: Duration = Duration::from_secs(300);
/// A guest that has run for so long has not crashed "again".
const LONG_RUN: SignedDuration = SignedDuration::from_mins(10);
/// Bounds of the interval at which a running guest without address is looked at.
const LEASE_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A guest that runs for so long without an address may be refused one.
const ADDRESS_BY: Duration = Duration::from_secs(20);

/// One thing to do: one idempotent call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create the seed volume and write it.
    WriteSeed(Seed),
    /// Create a volume unless it is there.
    EnsureVolume(Volume),
    /// Make the isolated network of that name, and have it run.
    EnsureNetwork(String),
    /// Make this the domain's persistent configuration.
    Define(Box<DomainConfig>, Box<Metadata>),
    /// Write down in the domain what must be remembered.
    Record(Box<Metadata>),
    /// Start the domain.
    Start {
        /// With halted CPUs.
        paused: bool,
    },
    /// Halt its CPUs.
    Suspend,
    /// Let its CPUs run.
    Resume,
    /// Let its CPUs run, to see whether the disks are well again.
    RetryDisks,
    /// Press the ACPI power button.
    PressPowerButton,
    /// Press the reset button.
    Reset,
    /// Turn the domain off.
    Destroy,
    /// Make a volume larger, whether a guest uses it or not.
    GrowDisk {
        /// Name of the volume.
        volume: String,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// Give a disk to the guest that runs.
    AttachDisk(Disk),
    /// Take a disk away from the guest that runs, by the name of the volume.
    DetachDisk(String),
    /// Bring the disks back to a snapshot in them that libvirt does not know of.
    GoBack(String),
    /// Delete snapshots in the disks that libvirt does not know of.
    ForgetSnapshots(Vec<String>),
    /// Delete a volume.
    DeleteVolume(String),
    /// Plug in CPUs, up to so many.
    GrowCpus(u32),
    /// Plug in memory, up to so many MiB.
    GrowMemory(u64),
    /// Remove the domain's configuration.
    Undefine,
}

impl Step {
    /// Its name in logs, and what tells one failure from another.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WriteSeed(_) => "WriteSeed",
            Self::EnsureVolume(_) => "EnsureVolume",
            Self::EnsureNetwork(_) => "EnsureNetwork",
            Self::Define(..) => "Define",
            Self::Record(_) => "Record",
            Self::Start { .. } => "Start",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::RetryDisks => "RetryDisks",
            Self::PressPowerButton => "PressPowerButton",
            Self::Reset => "Reset",
            Self::Destroy => "Destroy",
            Self::GrowDisk { .. } => "GrowDisk",
            Self::AttachDisk(_) => "AttachDisk",
            Self::DetachDisk(_) => "DetachDisk",
            Self::GoBack(_) => "GoBack",
            Self::ForgetSnapshots(_) => "ForgetSnapshots",
            Self::DeleteVolume(_) => "DeleteVolume",
            Self::GrowCpus(_) => "GrowCpus",
            Self::GrowMemory(_) => "GrowMemory",
            Self::Undefine => "Undefine",
        }
    }

    /// The volume that it is about.
    pub fn volume(&self) -> Option<&str> {
        match self {
            Self::EnsureVolume(volume) => Some(&volume.name),
            Self::AttachDisk(disk) => Some(&disk.volume),
            Self::GrowDisk { volume, .. } | Self::DetachDisk(volume) | Self::DeleteVolume(volume) => Some(volume),
            _ => None,
        }
    }

    /// Whether it deletes data, or begins to.
    pub fn sheds_data(&self) -> bool {
        matches!(self, Self::DetachDisk(_) | Self::DeleteVolume(_))
    }
}

/// Why nothing can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Reason of the condition.
    pub reason: &'static str,
    /// A sentence that the user can act on.
    pub message: String,
}

/// What to do now, and when to look again if nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps in order. The first that fails ends it.
    pub steps: Vec<Step>,
    /// Steps about disks, which follow when those are done: whether a guest lets go of a disk, or there is room for one
    /// more, keeps nothing else from being done.
    pub disks: Vec<Step>,
    /// When to look again.
    pub requeue_after: Option<Duration>,
    /// What stands in the way.
    pub blocked: Option<Blocked>,
}

impl Plan {
    fn blocked(reason: &'static str, message: String) -> Self {
        Self { blocked: Some(Blocked { reason, message }), ..Self::default() }
    }
}

/// Decides.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let Observed::Complete(facts) = observed else {
        // Not to know is no reason to do anything.
        return Plan::default();
    };
    match desired {
        Desired::Absent { confirmed: false, .. } => Plan::default(),
        Desired::Absent { confirmed: true, .. } => removal(facts),
        Desired::Present(machine) => match &facts.domain {
            DomainFacts::Missing if machine.source.is_some() => clone::creation(machine, facts, now),
            DomainFacts::Missing => creation(machine, facts, now),
            DomainFacts::Foreign(what) => foreign(what),
            // Nothing beside a restore, which may be under way in libvirt: what is seen of the domain is not to be judged.
            DomainFacts::Ours(domain) if domain.metadata.restoring.is_some() => Plan::default(),
            DomainFacts::Ours(domain) if domain.metadata.settling.is_some() => clone::settle(machine, facts, domain),
            DomainFacts::Ours(domain) => Draft::new(machine, facts, domain, now).finish(),
        },
    }
}

/// When a guest that went off by itself is started again; `None` if it is not.
pub fn restart_due(policy: RestartPolicy, metadata: &Metadata) -> Option<Timestamp> {
    let halt = metadata.halted?;
    let nth = match (policy, halt) {
        (RestartPolicy::Never, _) | (RestartPolicy::OnFailure, Halt::Guest) => return None,
        (RestartPolicy::OnFailure | RestartPolicy::Always, Halt::Crash | Halt::Panic) => metadata.crashes.max(1),
        // A guest that powered itself off is started at once, and with a delay only if it keeps doing so.
        (RestartPolicy::Always, Halt::Guest) => metadata.crashes.saturating_sub(1),
    };
    let delay = match nth {
        0 => Duration::ZERO,
        nth => doubled(FIRST_RESTART, nth, LAST_RESTART),
    };
    let halted_at = from_millis(metadata.crashed_at.unwrap_or_default());
    Some(halted_at.saturating_add(delay).unwrap_or(halted_at))
}

fn removal(facts: &Facts) -> Plan {
    let mut steps = Vec::new();
    match &facts.domain {
        DomainFacts::Foreign(what) => return foreign(what),
        DomainFacts::Missing => steps.extend(facts.volumes.iter().cloned().map(Step::DeleteVolume)),
        DomainFacts::Ours(domain) => {
            if domain.power.is_active() {
                steps.push(Step::Destroy);
            }
            // The domain goes last: its metadata is what says whose volumes they are.
            steps.extend(facts.volumes.iter().cloned().map(Step::DeleteVolume));
            steps.push(Step::Undefine);
        }
    }
    Plan { steps, ..Plan::default() }
}

fn foreign(what: &str) -> Plan {
    Plan::blocked("ForeignDomain", format!("{what}. It is left alone; remove it on the host to let this one go on"))
}

fn creation(machine: &Machine, facts: &Facts, now: Timestamp) -> Plan {
    let disks: Vec<String> = machine.disks.iter().map(|disk| disk.name.clone()).collect();
    let config = match machine.config(&facts.host, &disks) {
        Ok(config) => config,
        Err(blocked) => return Plan { blocked: Some(blocked), ..Plan::default() },
    };
    let seed = match full_seed(machine, facts) {
        Ok(seed) => seed,
        Err(blocked) => return Plan { blocked: Some(blocked), ..Plan::default() },
    };
    let (backing, virtual_size) = match (&machine.root.image, &facts.image) {
        (None, _) => (None, 0),
        (Some(image), Some(found)) => {
            if machine.root.is_explicit && machine.root.capacity < found.virtual_size {
                return too_small(&image.name, found.virtual_size);
            }
            (Some(Backing { path: found.path.clone(), format: image.format }), found.virtual_size)
        }
        (Some(image), None) => {
            let (reason, message) = images::obstacle(image, facts.import.as_ref(), &facts.host.pool);
            return Plan::blocked(reason, message);
        }
    };
    let root_size = machine.root.capacity.max(virtual_size);
    let sizes = machine.disks.iter().map(|disk| disk.capacity);
    if let Err(blocked) = disks::within(machine, sizes.fold(root_size, u64::saturating_add)) {
        return Plan { blocked: Some(blocked), ..Plan::default() };
    }
    let mut metadata = fresh(machine, &config, &seed, disks);
    let volume = |name: &str, capacity, backing| {
        Step::EnsureVolume(Volume { name: name.to_owned(), capacity, format: DiskFormat::Qcow2, backing })
    };
    let mut steps = vec![Step::WriteSeed(seed), volume(&machine.root.volume, root_size, backing)];
    steps.extend(machine.disks.iter().map(|extra| volume(&extra.volume, extra.capacity, None)));
    steps.push(Step::Define(Box::new(config), Box::new(metadata.clone())));
    if machine.power != PowerState::Stopped {
        steps.extend(start(machine, facts, &mut metadata, now));
    }
    Plan { steps, ..Plan::default() }
}

/// The metadata of a new domain. It has everything that was asked for behind it.
fn fresh(machine: &Machine, config: &DomainConfig, seed: &Seed, disks: Vec<String>) -> Metadata {
    let identity = &machine.identity;
    Metadata {
        uid: identity.uid.clone(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        image: machine.root.image.as_ref().map(|image| image.name.clone()),
        config: domain_xml::fingerprint(config),
        restart: machine.requests.restart,
        reset: machine.requests.reset,
        power_off: machine.requests.power_off,
        seed: Some(seed.fingerprint()),
        reprovision: machine.requests.reprovision,
        disks,
        ..Metadata::default()
    }
}

fn too_small(image: &str, virtual_size: u64) -> Plan {
    let size = quantity::from_bytes(virtual_size).0;
    Plan::blocked(
        "DiskTooSmall",
        format!(
            "The image {image} holds a disk of {size}, which is larger than disk.size: raise disk.size to {size} at least, or leave it out"
        ),
    )
}

/// Whether a seed is to be written before the next thing: for a new domain, and before the start of one whose spec says
/// something else than its seed. A running guest's seed is left alone.
pub fn seed_due(machine: &Machine, domain: &DomainFacts) -> bool {
    match domain {
        DomainFacts::Missing => true,
        DomainFacts::Foreign(_) => false,
        DomainFacts::Ours(domain) => {
            !domain.power.is_active() && machine.power != PowerState::Stopped && seed_differs(machine, &domain.metadata)
        }
    }
}

fn seed_differs(machine: &Machine, metadata: &Metadata) -> bool {
    metadata.seed.as_deref() != Some(machine.seed.fingerprint().as_str())
}

/// The seed with what the cluster controller told.
fn full_seed(machine: &Machine, facts: &Facts) -> Result<Seed, Blocked> {
    match &facts.told {
        Told::Data(data) => Ok(Seed { told: data.clone(), ..machine.seed.clone() }),
        Told::Lack(lack) => Err(Blocked { reason: lack.kind.reason(), message: lack.message.clone() }),
        Told::Silent(why) => Err(Blocked {
            reason: "GuestDataUnavailable",
            message: format!("What the guest is to be told cannot be asked: {why}; it is tried again"),
        }),
        Told::NotAsked => Err(Blocked {
            reason: "GuestDataUnavailable",
            message: "What the guest is to be told was not asked; it is tried again".to_owned(),
        }),
    }
}

/// Starts, and then says so in the metadata. The other order would make a start that never happened look like a guest
/// that crashed; this one at worst starts a guest again that powered itself off in the moment in which this process died.
fn start(machine: &Machine, facts: &Facts, metadata: &mut Metadata, now: Timestamp) -> Vec<Step> {
    metadata.started = Some(facts.host.boot_id.clone());
    metadata.started_at = Some(now.as_millisecond());
    metadata.halted = None;
    let isolated = machine.nics.iter().any(|nic| nic.network == NetworkType::Isolated);
    let network = isolated.then(|| Step::EnsureNetwork(names::isolated_network(&machine.identity.namespace)));
    let start = Step::Start { paused: machine.power == PowerState::Paused };
    network.into_iter().chain([start, Step::Record(Box::new(metadata.clone()))]).collect()
}

/// Whether a guest may still ask for its address.
fn waits_for_address(machine: &Machine, domain: &Domain) -> bool {
    machine.power == PowerState::Running
        && machine.nics.iter().any(|nic| nic.network == NetworkType::Nat)
        && domain.leases.is_empty()
        && domain.power == Power::Running
}

/// Whether a guest has had the time to boot and to ask for its address, and has none.
pub fn lacks_address(machine: &Machine, domain: &Domain, now: Timestamp) -> bool {
    waits_for_address(machine, domain) && running_for(&domain.metadata, now) >= ADDRESS_BY
}

fn running_for(metadata: &Metadata, now: Timestamp) -> Duration {
    since(from_millis(metadata.started_at.unwrap_or_default()), now)
}

/// A plan for a domain that is there, while it is being made.
struct Draft<'a> {
    machine: &'a Machine,
    facts: &'a Facts,
    domain: &'a Domain,
    now: Timestamp,
    /// What the metadata is to be.
    metadata: Metadata,
    /// What it will be after the steps so far.
    recorded: Metadata,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(machine: &'a Machine, facts: &'a Facts, domain: &'a Domain, now: Timestamp) -> Self {
        let metadata = domain.metadata.clone();
        Self { machine, facts, domain, now, recorded: metadata.clone(), metadata, plan: Plan::default() }
    }

    fn finish(mut self) -> Plan {
        let disks = self.disks();
        if !self.domain.power.is_active() && !disks.volumes.is_empty() {
            // What it is to be started with is made before.
            self.commit();
            self.plan.steps.extend(disks.volumes.iter().cloned());
        }
        let usable = self.redefine(&disks.usable);
        let reset = self.take_up_requests();
        if !self.domain.power.is_active() {
            self.off(usable);
        } else if self.metadata.stopping.is_some() || self.machine.power == PowerState::Stopped {
            self.bring_down();
            return self.plan;
        } else {
            self.keep_up(reset);
        }
        self.change_disks(disks);
        self.plan
    }

    /// What to do about the disks. All that may be there are recorded before anything else.
    fn disks(&mut self) -> DiskPlan {
        let plan = match &self.facts.disks {
            Some(facts) => disks::plan(self.machine, &self.metadata, facts, self.domain),
            None => disks::unknown(self.machine, &self.metadata),
        };
        self.metadata.disks = disks::known(self.machine, &self.metadata);
        plan
    }

    /// Changes the disks, then forgets those that are gone.
    fn change_disks(&mut self, disks: DiskPlan) {
        self.commit();
        if self.domain.power.is_active() {
            self.plan.disks.extend(disks.volumes);
        }
        self.plan.disks.extend(disks.steps);
        if self.metadata.disks != disks.left {
            self.metadata.disks = disks.left;
            self.recorded = self.metadata.clone();
            self.plan.disks.push(Step::Record(Box::new(self.metadata.clone())));
        }
        self.plan.blocked = self.plan.blocked.take().or(disks.blocked);
    }

    fn push(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    /// Records what changed so far, before what follows from it.
    fn commit(&mut self) {
        if self.metadata != self.recorded {
            self.recorded = self.metadata.clone();
            self.push(Step::Record(Box::new(self.metadata.clone())));
        }
    }

    /// Defines the domain again where the configuration in force differs in what we own. Says whether the domain could
    /// be started here.
    fn redefine(&mut self, disks: &[String]) -> Result<(), Blocked> {
        let config = self.machine.config(&self.facts.host, disks)?;
        let fingerprint = domain_xml::fingerprint(&config);
        if self.metadata.config != fingerprint {
            self.metadata.config = fingerprint;
            self.recorded = self.metadata.clone();
            self.push(Step::Define(Box::new(config), Box::new(self.metadata.clone())));
        }
        Ok(())
    }

    /// Takes up what is to be done once. Says whether a reset is to follow.
    fn take_up_requests(&mut self) -> bool {
        let asked = self.machine.requests;
        let restart = asked.restart > self.metadata.restart;
        let power_off = asked.power_off > self.metadata.power_off;
        let reset = asked.reset > self.metadata.reset;
        self.metadata.restart = self.metadata.restart.max(asked.restart);
        self.metadata.power_off = self.metadata.power_off.max(asked.power_off);
        self.metadata.reset = self.metadata.reset.max(asked.reset);
        if !self.domain.power.is_active() {
            if restart {
                self.metadata.forget_run();
            }
        } else if power_off {
            self.metadata.stopping = Some(0);
        } else if restart && self.metadata.stopping.is_none() {
            self.metadata.stopping = Some(self.now.as_millisecond());
        }
        reset
    }

    /// The domain is on and is not to be, or not to stay so.
    fn bring_down(&mut self) {
        let since = *self.metadata.stopping.get_or_insert(self.now.as_millisecond());
        self.commit();
        let deadline = after(from_millis(since), self.machine.grace);
        // A guest that has panicked does nothing any more.
        if self.now >= deadline || self.domain.power == Power::Panicked {
            return self.push(Step::Destroy);
        }
        let mut look_again = deadline;
        if matches!(self.domain.power, Power::Running | Power::Paused | Power::Asleep) {
            let pressed_at = self.facts.remembered.pressed_at.filter(|pressed| pressed.as_millisecond() >= since);
            let press_at = pressed_at.map_or(self.now, |pressed| after(pressed, PRESS_EVERY));
            if self.now >= press_at {
                // Nobody hears the button while the CPUs are halted.
                if self.domain.power == Power::Paused {
                    self.push(Step::Resume);
                }
                self.push(Step::PressPowerButton);
                look_again = look_again.min(after(self.now, PRESS_EVERY));
            } else {
                look_again = look_again.min(press_at);
            }
        }
        self.plan.requeue_after = Some(until(look_again, self.now));
    }

    /// The domain is on, and is to be.
    fn keep_up(&mut self, reset: bool) {
        if self.domain.power == Power::Panicked {
            return self.end_panic();
        }
        let boot = &self.facts.host.boot_id;
        if self.metadata.started.as_ref() != Some(boot) || self.metadata.halted.is_some() {
            self.metadata.started = Some(boot.clone());
            self.metadata.started_at = Some(self.now.as_millisecond());
            self.metadata.halted = None;
        }
        self.commit();
        if reset {
            self.push(Step::Reset);
        }
        match (self.machine.power, &self.domain.power) {
            (PowerState::Paused, Power::Running) => self.push(Step::Suspend),
            (PowerState::Running, Power::Paused) => self.push(Step::Resume),
            (PowerState::Running, Power::DiskError(_)) => self.retry_disks(),
            _ => {}
        }
        // Last: what fails here keeps nothing else from being done.
        self.plan.steps.extend(grow::steps(self.machine, self.domain, self.facts));
        if waits_for_address(self.machine, self.domain) {
            self.plan.requeue_after =
                Some((running_for(&self.metadata, self.now) / 8).clamp(LEASE_EVERY.0, LEASE_EVERY.1));
        }
    }

    /// QEMU is left of a guest that has panicked, so that it is known. It is a crash like any other from here on.
    fn end_panic(&mut self) {
        if self.metadata.halted.is_none() {
            self.take_note_of_halt();
        }
        self.commit();
        self.push(Step::Destroy);
    }

    /// A disk error has halted the guest: the requests that failed are done again when its CPUs are let run.
    fn retry_disks(&mut self) {
        let due = retries::due(self.facts.remembered.retried, self.now);
        if due > self.now {
            self.plan.requeue_after = Some(until(due, self.now));
        } else {
            self.push(Step::RetryDisks);
        }
    }

    /// The domain is off.
    fn off(&mut self, usable: Result<(), Blocked>) {
        if self.machine.power == PowerState::Stopped {
            // So that the next start is one of a domain that never ran.
            self.metadata.forget_run();
            return self.commit();
        }
        if self.metadata.stopping.is_some() {
            self.metadata.forget_run();
        }
        let ran = self.metadata.started.as_ref() == Some(&self.facts.host.boot_id);
        if ran && self.metadata.halted.is_none() {
            self.take_note_of_halt();
        }
        self.commit();
        let due = match self.metadata.halted {
            None => Some(self.now),
            Some(_) => restart_due(self.machine.restart_policy, &self.metadata),
        };
        match (due, usable) {
            (None, _) => {}
            (Some(due), _) if due > self.now => self.plan.requeue_after = Some(until(due, self.now)),
            (Some(_), Err(blocked)) => self.plan.blocked = Some(blocked),
            (Some(_), Ok(())) => {
                if let Err(blocked) = self.renew_seed() {
                    self.plan.blocked = Some(blocked);
                    return;
                }
                let steps = start(self.machine, self.facts, &mut self.metadata, self.now);
                self.recorded = self.metadata.clone();
                self.plan.steps.extend(steps);
            }
        }
    }

    /// Writes the seed that the spec asks for, then says so in the metadata: done twice it is done once.
    fn renew_seed(&mut self) -> Result<(), Blocked> {
        if !seed_differs(self.machine, &self.metadata) {
            return Ok(());
        }
        let seed = full_seed(self.machine, self.facts)?;
        self.metadata.seed = Some(seed.fingerprint());
        self.metadata.reprovision = self.machine.requests.reprovision;
        self.push(Step::WriteSeed(seed));
        self.commit();
        Ok(())
    }

    fn take_note_of_halt(&mut self) {
        let halt = match self.domain.power {
            Power::Off(OffCause::Shutdown) => Halt::Guest,
            Power::Panicked => Halt::Panic,
            _ => Halt::Crash,
        };
        let started_at = from_millis(self.metadata.started_at.unwrap_or_default());
        let ran_long = self.now.duration_since(started_at) >= LONG_RUN;
        self.metadata.crashes = if ran_long { 1 } else { self.metadata.crashes.saturating_add(1) };
        self.metadata.halted = Some(halt);
        self.metadata.crashed_at = Some(self.now.as_millisecond());
    }
}

fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn after(time: Timestamp, delay: Duration) -> Timestamp {
    time.saturating_add(delay).unwrap_or(Timestamp::MAX)
}

/// The time from `now` to a later time.
fn until(time: Timestamp, now: Timestamp) -> Duration {
    since(now, time)
}

fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

#[cfg(test)]
pub mod tests;
