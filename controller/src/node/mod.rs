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
use futures::{FutureExt, Stream, StreamExt, stream};
use kube::Client;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kvmoor_crds::Image;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

mod agent;
mod args;
mod backoff;
mod context;
mod desired;
mod domain_xml;
mod execute;
mod host;
mod hypervisor;
mod lease;
mod metadata;
mod observe;
mod plan;
mod publish;
mod reconcile;
mod report;
mod seed;
mod status;
mod sweep;
mod volume_xml;
mod xml;

pub use args::Args;

use context::{Context, Known, Presses, Root};
use hypervisor::libvirt::{EventSource, Libvirt, Settings};

/// Everything is looked at this often, whatever events say.
const RESYNC: Duration = Duration::from_secs(300);
/// How long the first list of Images may take.
const IMAGES_DEADLINE: Duration = Duration::from_secs(60);
/// How long reconciles may take to finish on shutdown; Kubernetes gives a pod 30 s.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);
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
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Settings {
        uri: args.libvirt_uri.clone(),
        pool: args.storage_pool.clone(),
        network: args.network.clone(),
        virt: args.virt_type,
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
    let (endpoint, serve) =
        agent::start(&args, client.clone(), &system_namespace, Arc::clone(&hypervisor), background.clone()).await?;
    spawn(Box::pin(serve));
    spawn(Box::pin(lease::renew(client.clone(), system_namespace, args.node_name.clone())));

    let images = images(&client, &spawn).await?;
    let fields = format!("spec.nodeName={}", args.node_name);
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
    };
    spawn(Box::pin(reporter.run()));

    let known = Arc::new(Known::default());
    let ctx = Arc::new(Context {
        client,
        node_name: args.node_name.clone(),
        hypervisor: Arc::clone(&hypervisor),
        images,
        written: Default::default(),
        failures: Default::default(),
        api_failures: Default::default(),
        presses: Presses::default(),
        known: Arc::clone(&known),
    });
    spawn(Box::pin(sweep_regularly(Arc::clone(&ctx), machines.clone())));
    let (changed, resync) = triggers(events, known);
    tracing::info!(host.name = args.node_name, "watching the virtual machines of this host");
    let reconciles = controller
        .with_config(Config::default().concurrency(args.concurrency))
        .reconcile_on(changed)
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
async fn images(
    client: &Client,
    spawn: &impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
) -> anyhow::Result<Store<DeserializeGuard<Image>>> {
    let (store, writer) = reflector::store();
    let api: Api<DeserializeGuard<Image>> = Api::all(client.clone());
    let watch = reflector::reflector(writer, watcher(api, watcher::Config::default()).default_backoff());
    spawn(Box::pin(watch.for_each(|event| {
        if let Err(error) = event {
            tracing::warn!(%error, "cannot watch Images");
        }
        std::future::ready(())
    })));
    tokio::time::timeout(IMAGES_DEADLINE, store.wait_until_ready())
        .await
        .context("the Kubernetes API gave no list of Images")?
        .context("the watch of Images ended")?;
    Ok(store)
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
    if machines.wait_until_ready().await.is_err() {
        return;
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
