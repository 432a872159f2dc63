//! libvirt as a [`Hypervisor`]: which call runs where and for how long at most. What a call does is in `domain`, `volume`
//! and `host`.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use kvmoor_crds::agent::Stats;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;

use super::super::address_pool::AddressPool;
use super::super::args::VirtSetting;
use super::super::domain_xml::{Disk, DomainConfig};
use super::super::guest_agent::GuestReport;
use super::super::images::record::{Content, Record};
use super::super::metadata::Metadata;
use super::super::metrics::LibvirtCalls;
use super::super::room::Room;
use super::super::serial_log;
use super::super::snapshot_xml::SnapshotFacts;
use super::super::volume_xml::Volume;
use super::{Class, DiskFacts, DomainFacts, HostFacts, HvError, Hypervisor, ImageFacts, Listed, Resumption};

mod calls;
mod clone;
mod connection;
mod disk;
mod disk_errors;
mod display;
mod domain;
mod error;
mod events;
mod guest;
mod guests;
mod host;
mod image;
mod leases;
mod live;
mod measure;
mod resize;
pub mod serial;
mod snapshot;
mod volume;

pub use clone::{Contents, VolumeCopy};
pub use connection::Connection;
pub use events::EventSource;
pub use image::{Inventory, Piece};

/// For what only reads.
const READ: Duration = Duration::from_secs(15);
/// For what somebody waits for who gives up soon.
const PROMPT: Duration = Duration::from_secs(2);
/// For what changes something: libvirt waits 30 s for another job on the domain, QEMU may take its time, and the first
/// definition after an update of QEMU makes libvirt try it out.
const CHANGE: Duration = Duration::from_secs(120);
/// For what writes a guest's whole memory to disk or reads it back.
const LONG: Duration = Duration::from_secs(1800);
/// Bytes a second that a copy has at least, beyond [`LONG`].
const SLOWEST: u64 = 10 << 20;
/// For what waits for a guest agent, beyond what libvirt itself waits for each answer.
const GUEST: Duration = Duration::from_secs(60);
/// How long a call waits for its turn to speak with a guest.
const TURN: Duration = Duration::from_secs(60);
/// Calls of a kind that wait for guests at a time: those that do not answer keep only so many of libvirt's threads.
const GUESTS_AT_ONCE: usize = 4;
/// The pool's directory is not read anew more often than this for an image that it does not have.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// Where libvirt is and what of it is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connection URI.
    pub uri: String,
    /// Storage pool for images and disks.
    pub pool: String,
    /// Network of interfaces with NAT.
    pub network: String,
    /// Bridges that interfaces may be connected to.
    pub bridges: Vec<String>,
    /// How guests are to run.
    pub virt: VirtSetting,
    /// Where this process sees what libvirt writes down of the guests' serial ports.
    pub serial_logs: PathBuf,
}

/// libvirt.
pub struct Libvirt {
    settings: Settings,
    connection: Connection,
    calls: calls::Calls,
    refreshed: Arc<Mutex<Option<Instant>>>,
    /// Turns for questions to guest agents.
    questions: Arc<Semaphore>,
    /// Turns for having them freeze or thaw: no question keeps a guest frozen.
    freezes: Arc<Semaphore>,
}

impl Libvirt {
    /// libvirt, the events of its domains, and the task that keeps the connection.
    ///
    /// # Errors
    /// If libvirt's event loop cannot be started.
    pub fn new(
        settings: Settings,
        stop: CancellationToken,
    ) -> Result<(Self, EventSource, impl Future<Output = ()> + Send), HvError> {
        events::start_loop()?;
        let calls = calls::Calls::new();
        let (sink, source) = events::channel();
        let (connection, keep) = connection::open(settings.clone(), calls.clone(), sink, stop);
        let [questions, freezes] = [(); 2].map(|()| Arc::new(Semaphore::new(GUESTS_AT_ONCE)));
        let refreshed = Arc::default();
        Ok((Self { settings, connection, calls, refreshed, questions, freezes }, source, keep))
    }

    /// The connection, to wait for its coming and going.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// What is counted of its calls.
    pub fn counted(&self) -> LibvirtCalls {
        self.calls.counted.clone()
    }

    /// Whether no call can be made any more in this process.
    pub fn is_exhausted(&self) -> bool {
        self.calls.exhausted()
    }

    /// What libvirt measures of a virtual machine, but its share of CPU; `None` where it has no domain.
    pub async fn measure(&self, uid: &str) -> Result<Option<Stats>, HvError> {
        let uid = uid.to_owned();
        self.call("measure the domain", PROMPT, move |connect| measure::measure(connect, &uid)).await
    }

    /// Whether a virtual machine is on. While libvirt turns it off, the answer waits for that.
    pub async fn is_on(&self, uid: &str) -> Result<bool, HvError> {
        let uid = uid.to_owned();
        self.call("see whether the domain is on", READ, move |connect| domain::is_on(connect, &uid)).await
    }

    /// A connection to the VNC server of a virtual machine; `None` where it has no domain.
    pub async fn display(&self, uid: &str) -> Result<Option<UnixStream>, HvError> {
        let uid = uid.to_owned();
        self.call("open the display", READ, move |connect| display::open(connect, &uid)).await
    }

    /// The serial port of a virtual machine, whose output goes to `outlet`; `None` where there is no domain.
    pub async fn serial(&self, uid: &str, outlet: serial::Outlet) -> Result<Option<serial::SerialPort>, HvError> {
        let (uri, uid) = (self.settings.uri.clone(), uid.to_owned());
        // Not before libvirt is known to be there: whoever waits is told at once that it is not.
        self.connection.get().await?;
        self.calls.run("open the serial port", READ, move || serial::open(&uri, &uid, outlet)).await
    }

    /// Writes an image into a new volume, as its pieces come. It takes as long as they do, and no longer than `deadline`.
    pub async fn receive_image(
        &self,
        volume: &str,
        length: Option<u64>,
        pieces: mpsc::Receiver<Piece>,
        deadline: Duration,
    ) -> Result<(), HvError> {
        let (pool, volume) = (self.settings.pool.clone(), volume.to_owned());
        let receive = move |connect: &Connect| image::receive(connect, &pool, &volume, length, pieces);
        self.call("write the image", deadline, receive).await
    }

    /// Reads a volume, to its end or until nobody listens any more.
    pub async fn send_image(
        &self,
        volume: &str,
        pieces: mpsc::Sender<Bytes>,
        deadline: Duration,
    ) -> Result<(), HvError> {
        let (pool, volume) = (self.settings.pool.clone(), volume.to_owned());
        let send = move |connect: &Connect| image::send(connect, &pool, &volume, &pieces);
        self.call("read the image", deadline, send).await
    }

    /// The record of an imported image, if all of it is there.
    pub async fn image_record(&self, content: &Content) -> Result<Option<Record>, HvError> {
        let (pool, record) = (self.settings.pool.clone(), content.record());
        let found = self.call("look up the image", READ, move |connect| image::imported(connect, &pool, &record));
        Ok(found.await?.map(|(record, _)| record))
    }

    /// What the pool holds of imported images, and, if asked, which of them other volumes stand on.
    pub async fn inventory(&self, with_backing: bool) -> Result<Inventory, HvError> {
        let pool = self.settings.pool.clone();
        self.call("list the volumes", CHANGE, move |connect| image::inventory(connect, &pool, with_backing)).await
    }

    /// What is in the disks of a domain, with those disks that a snapshot has, where one is named.
    pub async fn contents(&self, uid: &str, snapshot: Option<&str>) -> Result<Contents, HvError> {
        let (uid, snapshot) = (uid.to_owned(), snapshot.map(str::to_owned));
        let look = move |connect: &Connect| clone::contents(connect, &uid, snapshot.as_deref());
        self.call("look at the source's disks", READ, look).await
    }

    /// Copies a volume that nobody writes to into a new one. It may take as long as its length lets expect, and ends soon
    /// after `cancel`; it is waited for.
    pub async fn copy_volume(&self, copy: &VolumeCopy, cancel: &CancellationToken) -> Result<(), HvError> {
        let (pool, from) = (self.settings.pool.clone(), copy.from.clone());
        let length = move |connect: &Connect| clone::length(connect, &pool, &from);
        let length = self.call("look at the source's disk", READ, length).await?;
        let deadline = LONG.saturating_add(Duration::from_secs(length / SLOWEST));
        let (pool, copy) = (self.settings.pool.clone(), copy.clone());
        // Dropped with this call, when that passed its deadline.
        let (cancel, _guard) = {
            let own = cancel.child_token();
            (own.clone(), own.drop_guard())
        };
        self.call("copy the disk", deadline, move |connect| clone::copy(connect, &pool, &copy, &cancel)).await
    }

    /// Runs a blocking call with the connection.
    async fn call<T: Send + 'static>(
        &self,
        op: &'static str,
        deadline: Duration,
        call: impl FnOnce(&Connect) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let live = self.connection.get().await?;
        self.calls.run(op, deadline, move || call(&live.connect)).await
    }

    /// A call that waits for a guest, when it is its turn. It keeps its turn as long as libvirt waits.
    async fn guest_call<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        op: &'static str,
        call: impl FnOnce(&Connect) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let turn = match tokio::time::timeout(TURN, Arc::clone(turns).acquire_owned()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(HvError::new(Class::Busy, op, "too many other guests do not answer")),
        };
        let call = move |connect: &Connect| {
            let _turn = turn;
            call(connect)
        };
        self.call(op, GUEST, call).await
    }

    /// A change of one domain.
    async fn change(
        &self,
        op: &'static str,
        uid: &str,
        call: impl FnOnce(&Connect, &str) -> Result<(), HvError> + Send + 'static,
    ) -> Result<(), HvError> {
        let uid = uid.to_owned();
        self.call(op, CHANGE, move |connect| call(connect, &uid)).await
    }
}

impl Hypervisor for Libvirt {
    async fn host(&self) -> Result<HostFacts, HvError> {
        Ok(self.connection.get().await?.host())
    }

    async fn domain(&self, uid: &str) -> Result<DomainFacts, HvError> {
        let uid = uid.to_owned();
        self.call("observe the domain", READ, move |connect| domain::observe(connect, &uid)).await
    }

    async fn image(&self, volume: &str) -> Result<Option<ImageFacts>, HvError> {
        let (pool, volume) = (self.settings.pool.clone(), volume.to_owned());
        let refreshed = Arc::clone(&self.refreshed);
        let look_again = move || {
            let mut last = refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last.is_none_or(|last| last.elapsed() >= REFRESH_EVERY);
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        self.call("look up the image", READ, move |connect| volume::image(connect, &pool, &volume, look_again)).await
    }

    async fn imported_image(&self, content: &Content) -> Result<Option<ImageFacts>, HvError> {
        let (pool, record) = (self.settings.pool.clone(), content.record());
        let found =
            self.call("look up the image", READ, move |connect| image::imported(connect, &pool, &record)).await?;
        Ok(found.filter(|(record, _)| !record.retired).map(|(_, facts)| facts))
    }

    async fn volumes(&self, prefix: &str) -> Result<Vec<Listed>, HvError> {
        let (pool, prefix) = (self.settings.pool.clone(), prefix.to_owned());
        self.call("list the volumes", READ, move |connect| volume::list(connect, &pool, &prefix)).await
    }

    async fn domains(&self, prefix: &str) -> Result<Vec<Listed>, HvError> {
        let prefix = prefix.to_owned();
        self.call("list the domains", READ, move |connect| domain::list(connect, &prefix)).await
    }

    async fn address_pool(&self) -> Result<Option<AddressPool>, HvError> {
        let network = self.settings.network.clone();
        self.call("look up the leases", READ, move |connect| host::network::address_pool(connect, &network)).await
    }

    async fn create_volume(&self, volume: Volume) -> Result<(), HvError> {
        let pool = self.settings.pool.clone();
        self.call("create the volume", CHANGE, move |connect| volume::create(connect, &pool, &volume)).await
    }

    async fn write_volume(&self, name: &str, bytes: Vec<u8>) -> Result<(), HvError> {
        let (pool, name) = (self.settings.pool.clone(), name.to_owned());
        self.call("write the volume", CHANGE, move |connect| volume::write(connect, &pool, &name, &bytes)).await
    }

    async fn read_volume(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, HvError> {
        let (pool, name) = (self.settings.pool.clone(), name.to_owned());
        let op = "read the volume";
        let read = move |connect: &Connect| volume::read(op, connect, &volume::pool(connect, &pool)?, &name, most);
        self.call(op, READ, read).await
    }

    async fn delete_volume(&self, name: &str) -> Result<(), HvError> {
        let (pool, name) = (self.settings.pool.clone(), name.to_owned());
        self.call("delete the volume", CHANGE, move |connect| volume::delete(connect, &pool, &name)).await
    }

    async fn ensure_isolated_network(&self, name: &str) -> Result<(), HvError> {
        let name = name.to_owned();
        self.call("make the isolated network", CHANGE, move |connect| host::network::ensure_isolated(connect, &name))
            .await
    }

    async fn remove_unused_networks(&self, prefix: &str) -> Result<(), HvError> {
        let prefix = prefix.to_owned();
        self.call("remove unused networks", CHANGE, move |connect| host::network::remove_unused(connect, &prefix)).await
    }

    async fn disks(&self, uid: &str, volumes: Vec<String>) -> Result<DiskFacts, HvError> {
        let (pool, uid) = (self.settings.pool.clone(), uid.to_owned());
        self.call("look at the disks", READ, move |connect| disk::look(connect, &pool, &uid, &volumes)).await
    }

    async fn grow_disk(&self, uid: &str, volume: &str, bytes: u64) -> Result<(), HvError> {
        let (pool, volume) = (self.settings.pool.clone(), volume.to_owned());
        let grow = move |connect: &Connect, uid: &str| disk::grow(connect, &pool, uid, &volume, bytes);
        self.change("make the disk larger", uid, grow).await
    }

    async fn attach_disk(&self, uid: &str, disk: &Disk) -> Result<(), HvError> {
        let (pool, disk) = (self.settings.pool.clone(), disk.clone());
        self.change("attach the disk", uid, move |connect, uid| disk::attach(connect, &pool, uid, &disk)).await
    }

    async fn detach_disk(&self, uid: &str, volume: &str) -> Result<(), HvError> {
        let (pool, volume) = (self.settings.pool.clone(), volume.to_owned());
        self.change("detach the disk", uid, move |connect, uid| disk::detach(connect, &pool, uid, &volume)).await
    }

    async fn define(&self, config: &DomainConfig, metadata: &Metadata) -> Result<(), HvError> {
        let (config, metadata) = (config.clone(), metadata.clone());
        self.call("define the domain", CHANGE, move |connect| domain::define(connect, &config, &metadata)).await
    }

    async fn record(&self, metadata: &Metadata) -> Result<(), HvError> {
        let metadata = metadata.clone();
        self.call("write the domain's metadata", CHANGE, move |connect| domain::record(connect, &metadata)).await
    }

    async fn start(&self, uid: &str, paused: bool) -> Result<(), HvError> {
        let network = self.settings.network.clone();
        let start = move |connect: &Connect, uid: &str| {
            if let Err(error) = host::network::renew_filters(connect, &network) {
                // What lacks is told by the start of a guest that needs it. The test driver has no filters.
                tracing::debug!(vm.uid = uid, %error, "cannot look after the network filters");
            }
            domain::start(connect, uid, paused)
        };
        self.change("start the domain", uid, start).await
    }

    async fn suspend(&self, uid: &str) -> Result<(), HvError> {
        self.change("pause the domain", uid, domain::suspend).await
    }

    async fn resume(&self, uid: &str) -> Result<(), HvError> {
        self.change("resume the domain", uid, domain::resume).await
    }

    async fn retry_disks(&self, uid: &str) -> Result<(), HvError> {
        self.change("resume the domain", uid, domain::retry_disks).await
    }

    async fn press_power_button(&self, uid: &str) -> Result<(), HvError> {
        self.change("press the domain's power button", uid, domain::press_power_button).await
    }

    async fn reset(&self, uid: &str) -> Result<(), HvError> {
        self.change("reset the domain", uid, domain::reset).await
    }

    async fn destroy(&self, uid: &str) -> Result<(), HvError> {
        self.change("turn the domain off", uid, domain::destroy).await
    }

    async fn ask_guest(&self, uid: &str, macs: Vec<String>) -> Result<GuestReport, HvError> {
        let uid = uid.to_owned();
        let ask = move |connect: &Connect| guest::ask(connect, &uid, &macs);
        self.guest_call(&self.questions, "ask the guest agent", ask).await
    }

    async fn freeze(&self, uid: &str) -> Result<(), HvError> {
        let uid = uid.to_owned();
        self.guest_call(&self.freezes, "freeze the file systems", move |connect| guest::freeze(connect, &uid)).await
    }

    async fn thaw(&self, uid: &str) -> Result<(), HvError> {
        let uid = uid.to_owned();
        self.guest_call(&self.freezes, "thaw the file systems", move |connect| guest::thaw(connect, &uid)).await
    }

    async fn room(&self, uid: &str) -> Result<Room, HvError> {
        let uid = uid.to_owned();
        self.call("read the domain's limits", READ, move |connect| resize::room(connect, &uid)).await
    }

    async fn grow_cpus(&self, uid: &str, to: u32) -> Result<(), HvError> {
        self.change("plug in CPUs", uid, move |connect, uid| resize::cpus(connect, uid, to)).await
    }

    async fn grow_memory(&self, uid: &str, to_mib: u64) -> Result<(), HvError> {
        self.change("plug in memory", uid, move |connect, uid| resize::memory(connect, uid, to_mib)).await
    }

    async fn undefine(&self, uid: &str) -> Result<(), HvError> {
        let logs = self.settings.serial_logs.clone();
        let undefine = move |connect: &Connect, uid: &str| {
            // Before the domain, which is what reminds us of it.
            serial_log::remove(&logs, uid);
            domain::undefine(connect, uid)
        };
        self.change("remove the domain", uid, undefine).await
    }

    async fn go_back(&self, uid: &str, snapshot: &str) -> Result<(), HvError> {
        let (uid, name) = (uid.to_owned(), snapshot.to_owned());
        let go_back = move |connect: &Connect| clone::go_back(connect, &uid, &name);
        self.call("go back to the snapshot in the copies", LONG, go_back).await
    }

    async fn forget_snapshots(&self, uid: &str, names: &[String]) -> Result<(), HvError> {
        let (uid, names) = (uid.to_owned(), names.to_vec());
        let forget = move |connect: &Connect| clone::forget_snapshots(connect, &uid, &names);
        self.call("delete the snapshots in the copies", LONG, forget).await
    }

    async fn snapshot(&self, uid: &str, name: &str) -> Result<Option<SnapshotFacts>, HvError> {
        let (uid, name) = (uid.to_owned(), name.to_owned());
        self.call("look up the snapshot", READ, move |connect| snapshot::look_up(connect, &uid, &name)).await
    }

    async fn take_snapshot(&self, uid: &str, name: &str) -> Result<(), HvError> {
        let (uid, name) = (uid.to_owned(), name.to_owned());
        self.call("take the snapshot", LONG, move |connect| snapshot::take(connect, &uid, &name)).await
    }

    async fn delete_snapshot(&self, uid: &str, name: &str) -> Result<(), HvError> {
        let (uid, name) = (uid.to_owned(), name.to_owned());
        self.call("delete the snapshot", LONG, move |connect| snapshot::delete(connect, &uid, &name)).await
    }

    async fn revert(&self, metadata: &Metadata, snapshot: &str, resumption: Resumption) -> Result<(), HvError> {
        let (metadata, name) = (metadata.clone(), snapshot.to_owned());
        let revert = move |connect: &Connect| snapshot::revert(connect, &metadata, &name, resumption);
        self.call("restore the snapshot", LONG, revert).await
    }

    async fn take_turn(&self, uid: &str) -> Result<(), HvError> {
        self.change("wait for the operation on the domain", uid, snapshot::take_turn).await
    }
}

#[cfg(test)]
mod tests;
