//! `kvmoor-dev up`.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::{prctl, signal::Signal};

use super::{
    fetch,
    first_vm::{self, FirstVm},
    greeting::{Greeting, in_path},
    place::{Place, give_to_caller},
    progress::{Steps, say},
    signals::Signals,
};
use crate::{
    AlreadyRunning, Cluster, instance,
    process::{Managed, ProcessId},
};

/// How to run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address and port of Kvmoor's API.
    #[arg(long, env = "KVMOOR_LISTEN", default_value = "0.0.0.0:18443")]
    listen: SocketAddr,
    /// Use this libvirt, such as qemu:///system, instead of a private one.
    #[arg(long, env = "KVMOOR_LIBVIRT_URI")]
    libvirt_uri: Option<String>,
    /// End, in good order, when the process that started this one has ended.
    #[arg(long)]
    end_with_parent: bool,
}

impl Args {
    /// Call it on the main thread.
    pub(super) fn follow_parent(&self) -> Result<()> {
        if self.end_with_parent {
            prctl::set_pdeathsig(Signal::SIGTERM).context("ask for a signal at the parent's end")?;
        }
        Ok(())
    }

    /// For people on this machine, who cannot go to 0.0.0.0.
    fn url(&self) -> String {
        if self.listen.ip().is_unspecified() {
            return format!("http://localhost:{}", self.listen.port());
        }
        format!("http://{}", self.listen)
    }
}

/// A cluster that is up, with its first virtual machine.
struct Up {
    cluster: Cluster,
    vm: FirstVm,
    kubectl: PathBuf,
    made_password: Option<String>,
}

pub(super) async fn up(place: &Place, args: &Args) -> Result<()> {
    if let Some(owner) = instance::owner(place.dir())? {
        tell_of(place, Some(owner));
        return Ok(());
    }
    let mut signals = Signals::listen()?;
    let started = tokio::select! {
        started = start(place, args) => started,
        () = signals.next() => {
            say("stopped before it was up");
            return Ok(());
        }
    };
    let up = match started {
        Ok(up) => up,
        Err(error) => match error.downcast_ref::<AlreadyRunning>() {
            Some(other) => {
                tell_of(place, other.owner);
                return Ok(());
            }
            None => return Err(error.context(format!("not up; logs are in {}", place.logs().display()))),
        },
    };
    let url = args.url();
    let host = up.cluster.host(0)?;
    Greeting {
        place,
        url: &url,
        username: &up.cluster.admin().username,
        password: up.made_password.as_deref(),
        kubectl: &up.kubectl,
        host,
        vm: &up.vm,
        metrics: metrics(&up.cluster),
    }
    .print();
    place.set_ready(&url)?;
    tokio::select! {
        () = up.cluster.supervise() => {}
        () = signals.next() => {}
    }
    place.unset_ready()?;
    say("\nasking the guests to power off, then ending everything (again to be quick)");
    tokio::select! {
        stopped = end(up.cluster) => stopped?,
        // Dropped halfway, a cluster ends at once.
        () = signals.another() => say("ending at once"),
    }
    say("stopped");
    Ok(())
}

async fn start(place: &Place, args: &Args) -> Result<Up> {
    place.make()?;
    place.unset_ready()?;
    // What a killed run has left may hold the port.
    tokio::task::spawn_blocking(instance::sweep).await??;
    check_listen(args.listen)?;
    let mut steps = Steps::new(5);
    fetch::control_plane(&mut steps).await?;
    fetch::image(&mut steps).await?;
    steps.next("the control plane, and a libvirt host");
    let chosen = env::var("KVMOOR_ADMIN_PASSWORD").ok().filter(|password| !password.is_empty());
    let made_password = if chosen.is_none() { Some(place.made_password()?) } else { None };
    let password = chosen.or_else(|| made_password.clone()).context("a password")?;
    let mut cluster = Cluster::builder().dir(place.dir()).listen(args.listen).admin_password(password);
    if let Some(uri) = args.libvirt_uri.as_ref().filter(|uri| !uri.is_empty()) {
        cluster = cluster.libvirt_uri(uri);
    }
    let cluster = cluster.do_not_start_components().start().await?;
    cluster.control_plane().write_kubeconfig(&place.kubeconfig())?;
    give_to_caller(&place.kubeconfig())?;
    place.write(&place.libvirt_uri(), &format!("{}\n", cluster.host(0)?.uri()), 0o644)?;
    let own_kubectl = place.link_program(cluster.kubectl())?;
    let kubectl = if in_path("kubectl") { "kubectl".into() } else { own_kubectl };
    steps.next("Kvmoor: cluster controller, node controller, API server");
    cluster.start_components().await?;
    steps.next("the first virtual machine, hello");
    let vm = first_vm::ensure(&cluster.client().await?, &cluster.admin().username).await?;
    Ok(Up { cluster, vm, kubectl, made_password })
}

fn metrics(cluster: &Cluster) -> Vec<(String, String)> {
    let url = |process: &Managed| Some((process.name(), cluster.telemetry_url(process).ok()?));
    cluster.processes().into_iter().filter_map(url).collect()
}

async fn end(cluster: Cluster) -> Result<()> {
    let guests = cluster.stop_guests().await;
    cluster.stop().await?;
    guests
}

/// What to say instead of starting a second one.
fn tell_of(place: &Place, owner: Option<ProcessId>) {
    let process = owner.map(|owner| format!(" (process {})", owner.pid)).unwrap_or_default();
    match place.read_ready() {
        Some(url) => say(format_args!("Kvmoor runs already at {url}{process}; `make down` ends it")),
        None => say(format_args!("Kvmoor is starting or stopping already{process}; `make down` ends it")),
    }
}

/// A taken port is the likeliest trouble, and best told before anything else is done.
fn check_listen(listen: SocketAddr) -> Result<()> {
    let Err(error) = TcpListener::bind(listen) else { return Ok(()) };
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port().wrapping_add(1));
    bail!("cannot listen on {listen}: {error}. Stop what uses it, or choose another: KVMOOR_LISTEN={other} make run");
}
