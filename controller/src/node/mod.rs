//! The node controller: makes libvirt on one host match the virtual machines bound to it.
//!
//! ```text
//!   watch (spec.nodeName) ─┐
//!   domain events ─────────┤                             ┌─> status (server-side apply)
//!   resync, reconnect ─────┴─> parse, observe, plan, execute ─> libvirt
//! ```
//!
//! `plan` decides and does nothing, `execute` does and decides nothing; `hypervisor` is the one way to libvirt. `agent`
//! serves measurements and displays to the API server. This file only connects the parts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, stream};
use kube::Client;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kvmoor_crds::{Image, VirtualMachineRestore, VirtualMachineSnapshot};
use kvmoor_telemetry::Telemetry;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

mod address_pool;
mod advance;
mod agent;
mod args;
mod backoff;
mod clones;
mod context;
mod desired;
mod disk_steps;
mod disks;
mod domain_xml;
mod execute;
mod guest_agent;
mod guest_data;
mod host;
mod hypervisor;
mod images;
mod lease;
mod metadata;
mod metrics;
mod network_xml;
mod observe;
mod operation;
mod orphans;
mod plan;
mod publish;
mod queue;
mod quiesce;
mod reconcile;
mod report;
mod retries;
mod room;
mod seed;
mod serial_log;
mod snapshot_xml;
mod status;
mod sweep;
mod tell;
mod turns;
mod volume_xml;
mod xml;
mod xml_reader;

pub use args::Args;

use clones::Copier;
use context::{Context, Known, Presses, Root};
use guest_agent::Guests;
use hypervisor::libvirt::{EventSource, Libvirt, Settings};
use images::{Fetcher, Guard, Importer, Limits, Peers, Sources};
use metrics::Metrics;
use queue::{Queue, RestoreRoot, SnapshotRoot};
use turns::Turns;

/// Everything is looked at this often, whatever events say.
const RESYNC: Duration = Duration::from_secs(300);
/// How long the first list of a kind may take.
const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// How long reconciles may take to finish on shutdown; Kubernetes gives a pod 30 s.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);
/// How often a store is asked whether it is complete.
const STORE_CHECK: Duration = Duration::from_secs(1);
/// How often it is asked whether libvirt has swallowed every thread.
const STUCK_CHECK: Duration = Duration::from_secs(30);

/// Runs the controller of one host until `shutdown`.
///
/// # Errors
/// If the parts cannot be put together, the Kubernetes API gives no Images, or libvirt has swallowed every thread.
pub async fn run(
    args: Args,
    client: Client,
    system_namespace: String,
    mut telemetry: Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Settings {
        uri: args.libvirt_uri.clone(),
        pool: args.storage_pool.clone(),
        network: args.network.clone(),
        bridges: args.allow_bridge.iter().filter(|name| !name.is_empty()).cloned().collect(),
        virt: args.virt_type,
        serial_logs: args.serial_logs.clone(),
    };
    let background = CancellationToken::new();
    let _ends_with_this = background.clone().drop_guard();
    let (libvirt, events, keep) = Libvirt::new(settings, background.clone())?;
    let hypervisor = Arc::new(libvirt);
    let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = background.clone();
        tokio::spawn(async move { stop.run_until_cancelled(task).await });
    };
    spawn(Box::pin(keep));
    let metrics = Metrics::register(telemetry.registry(), hypervisor.counted());
    let connection = hypervisor.connection();
    spawn(Box::pin(telemetry.serve(move || connection.is_up())));
    spawn(Box::pin(metrics.clone().watch(hypervisor.connection())));
    let (wake, woken) = tokio::sync::mpsc::unbounded_channel();
    let importer = importer(&args, &client, &hypervisor, wake.clone(), &background)?;
    let serving = agent::Serving {
        client: client.clone(),
        hypervisor: Arc::clone(&hypervisor),
        importer: importer.clone(),
        stop: background.clone(),
    };
    let (endpoint, serve) = agent::start(&args, &system_namespace, serving).await?;
    spawn(Box::pin(serve));
    let guest_data = guest_data::Source::new(client.clone(), &system_namespace, args.guest_data_token_file.clone());
    spawn(Box::pin(lease::renew(client.clone(), system_namespace, args.node_name.clone())));

    let images_changed = Arc::new(Notify::new());
    let images = watch_images(&client, &images_changed, &spawn).await?;
    let fields = format!("spec.nodeName={}", args.node_name);
    let known = Arc::new(Known::default());
    let snapshots_changed = Arc::new(Notify::new());
    let (queue, asked) = requests(&client, &fields, &known, &snapshots_changed, &spawn).await?;
    let api: Api<Root> = Api::all(client.clone());
    let controller = Controller::new(api, watcher::Config::default().fields(&fields));
    let machines = controller.store();
    let machines_changed = Arc::new(Notify::new());
    let reporter = host::Reporter {
        client: client.clone(),
        args: args.clone(),
        hypervisor: Arc::clone(&hypervisor),
        endpoint,
        machines: machines.clone(),
        machines_changed: Arc::clone(&machines_changed),
        images: images.clone(),
        importer: importer.clone(),
    };
    spawn(Box::pin(reporter.run()));
    spawn(Box::pin(images::look_out(importer.clone(), Api::all(client.clone()), args.node_name.clone())));
    spawn(Box::pin(images::keep(images::Keeper {
        hypervisor: Arc::clone(&hypervisor),
        importer: importer.clone(),
        images: images.clone(),
        images_changed,
        keep_unused: args.keep_unused_images,
    })));

    let turns = Turns::default();
    let copier = Copier::new(Arc::clone(&hypervisor), turns.clone(), Arc::clone(&known), wake, background.clone());
    let (guests, answered) = Guests::new();
    let ctx = Arc::new(Context {
        client,
        node_name: args.node_name.clone(),
        hypervisor: Arc::clone(&hypervisor),
        images,
        importer,
        written: Default::default(),
        failures: Default::default(),
        api_failures: Default::default(),
        presses: Presses::default(),
        retries: Default::default(),
        machines: machines.clone(),
        copier,
        turns,
        known: Arc::clone(&known),
        queue,
        told: Default::default(),
        metrics,
        operation_failures: Default::default(),
        thaws: Default::default(),
        snapshots_changed,
        guests,
        guest_data,
    });
    spawn(Box::pin(orphans::release(Arc::clone(&ctx), machines.clone())));
    spawn(Box::pin(sweep_regularly(Arc::clone(&ctx), machines.clone())));
    let (changed, resync) = triggers(events, known);
    let woken = stream::unfold(woken, |mut woken| async { Some((woken.recv().await?, woken)) });
    tracing::info!(host.name = args.node_name, "watching the virtual machines of this host");
    let reconciles = controller
        .with_config(Config::default().concurrency(args.concurrency))
        .reconcile_on(stream::select_all([changed.boxed(), woken.boxed(), asked, answered.boxed()]))
        .reconcile_all_on(resync)
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(reconcile::reconcile, reconcile::error_policy, ctx)
        .for_each(|result| {
            machines_changed.notify_one();
            if let Err(error) = result {
                tracing::debug!(%error, "reconcile");
            }
            std::future::ready(())
        });
    tokio::select! {
        () = reconciles => Ok(()),
        () = overdue(shutdown, machines) => Ok(()),
        () = exhausted(&hypervisor) => {
            anyhow::bail!("every thread waits for a call of libvirt that does not return; a new process is needed")
        }
    }
}

/// All Images, kept up to date. They are complete before anything is decided: an Image that was not seen yet would make
/// a blank disk.
async fn watch_images(
    client: &Client,
    changed: &Arc<Notify>,
    spawn: &impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
) -> anyhow::Result<Store<DeserializeGuard<Image>>> {
    let (store, writer) = reflector::store();
    let api: Api<DeserializeGuard<Image>> = Api::all(client.clone());
    let watch = reflector::reflector(writer, watcher(api, watcher::Config::default()).default_backoff());
    let changed = Arc::clone(changed);
    spawn(Box::pin(watch.for_each(move |event| {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot watch Images"),
        }
        std::future::ready(())
    })));
    tokio::time::timeout(LIST_DEADLINE, store.wait_until_ready())
        .await
        .context("the Kubernetes API gave no list of Images")?
        .context("the watch of Images ended")?;
    Ok(store)
}

/// What imports images.
fn importer(
    args: &Args,
    client: &Client,
    hypervisor: &Arc<Libvirt>,
    wake: UnboundedSender<ObjectRef<Root>>,
    stop: &CancellationToken,
) -> anyhow::Result<Importer> {
    let guard = Guard::new(args.image_sources_allowed.clone(), args.image_sources_denied.clone());
    let fetcher = Fetcher::new(guard).context("cannot set up the download of images")?;
    let peers = Peers::new(client.clone(), args.peer_token_file.clone(), args.node_name.clone());
    let sources = Sources { fetcher, peers };
    let limits = Limits { file: args.largest_image, virtual_size: args.largest_image_disk };
    Ok(Importer::new(Arc::clone(hypervisor), sources, limits, wake, Arc::default(), stop.clone()))
}

/// All snapshots and restores of this host, kept up to date, and the virtual machines that they are about whenever one
/// changes. They are complete before anything is decided.
async fn requests(
    client: &Client,
    fields: &str,
    known: &Arc<Known>,
    snapshots_changed: &Arc<Notify>,
    spawn: &impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
) -> anyhow::Result<(Queue, BoxStream<'static, ObjectRef<Root>>)> {
    let config = watcher::Config::default().fields(fields);
    let (snapshots, snapshot_writer) = reflector::store();
    let (restores, restore_writer) = reflector::store();
    let (asked, wakes) = tokio::sync::mpsc::unbounded_channel();
    let api: Api<SnapshotRoot> = Api::all(client.clone());
    let watch = reflector::reflector(snapshot_writer, watcher(api, config.clone()).default_backoff());
    let wake = {
        let (known, asked, changed) = (Arc::clone(known), asked.clone(), Arc::clone(snapshots_changed));
        move |snapshot: &VirtualMachineSnapshot| {
            if let Some(vm) = queue::vm_uid(snapshot).and_then(|uid| known.get(uid)) {
                // Nobody listens any more only when the process ends.
                let _ = asked.send(vm);
            }
            changed.notify_one();
        }
    };
    let wake_by_snapshot = wake.clone();
    spawn(Box::pin(watch.for_each(move |event| {
        touched(event, &wake_by_snapshot);
        std::future::ready(())
    })));
    let api: Api<RestoreRoot> = Api::all(client.clone());
    let watch = reflector::reflector(restore_writer, watcher(api, config).default_backoff());
    let queue = Queue { snapshots: snapshots.clone(), restores: restores.clone() };
    spawn(Box::pin(watch.for_each(move |event| {
        touched(event, &|restore: &VirtualMachineRestore| {
            if let Some(snapshot) = queue.snapshot_of(restore) {
                wake(&snapshot);
            }
        });
        std::future::ready(())
    })));
    let ready = async { tokio::try_join!(snapshots.wait_until_ready(), restores.wait_until_ready()) };
    tokio::time::timeout(LIST_DEADLINE, ready)
        .await
        .context("the Kubernetes API gave no list of snapshots and restores")?
        .context("the watch of snapshots and restores ended")?;
    let wakes = stream::unfold(wakes, |mut wakes| async { Some((wakes.recv().await?, wakes)) });
    Ok((Queue { snapshots, restores }, wakes.boxed()))
}

/// Calls `wake` with the object that a watch tells of.
fn touched<K>(event: watcher::Result<watcher::Event<DeserializeGuard<K>>>, wake: &impl Fn(&K)) {
    match event {
        Ok(watcher::Event::Apply(root) | watcher::Event::InitApply(root) | watcher::Event::Delete(root)) => {
            match &root.0 {
                Ok(object) => wake(object),
                Err(invalid) => tracing::warn!(name = invalid.metadata.name, error = invalid.error, "cannot read"),
            }
        }
        Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
        Err(error) => tracing::warn!(%error, "cannot watch snapshots or restores"),
    }
}

/// What wakes reconciles beside the watch: domain events, one by one, and reasons to look at everything.
fn triggers(
    events: EventSource,
    known: Arc<Known>,
) -> (impl Stream<Item = ObjectRef<Root>> + Send, impl Stream<Item = ()> + Send) {
    let EventSource { changed, resync } = events;
    // What was never reconciled is about to be.
    let changed = stream::unfold(changed, |mut changed| async { Some((changed.recv().await?, changed)) })
        .filter_map(move |uid| std::future::ready(known.get(&uid)));
    let resync = stream::unfold(resync, |resync| async {
        // Either way it is time.
        let _ = tokio::time::timeout(RESYNC, resync.notified()).await;
        Some(((), resync))
    });
    (changed, resync)
}

async fn sweep_regularly(ctx: Arc<Context<Libvirt>>, machines: Store<Root>) {
    let mut orphans = HashSet::new();
    // A store wakes only the last that waits for it, which may be the controller: so this looks again and again.
    loop {
        match tokio::time::timeout(STORE_CHECK, machines.wait_until_ready()).await {
            Ok(Ok(())) => break,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
    loop {
        orphans = sweep::sweep(&ctx, &machines, &orphans).await;
        tokio::time::sleep(RESYNC).await;
    }
}

/// Ends when a shutdown has taken too long. What is left undone then is done by the next process.
async fn overdue(shutdown: CancellationToken, machines: Store<Root>) {
    shutdown.cancelled().await;
    // Stopped before its first list was complete, the controller waits for it for ever, with nothing to finish.
    if machines.wait_until_ready().now_or_never().is_some() {
        tokio::time::sleep(SHUTDOWN_DEADLINE).await;
        tracing::warn!("reconciles did not finish in time");
    }
}

async fn exhausted(hypervisor: &Libvirt) {
    loop {
        tokio::time::sleep(STUCK_CHECK).await;
        if hypervisor.is_exhausted() {
            // Once may be chance; a call may be about to return.
            tokio::time::sleep(STUCK_CHECK).await;
            if hypervisor.is_exhausted() {
                return;
            }
        }
    }
}
