//! The Kubernetes API with the caller's kubeconfig, and waiting for what was asked there.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use kvmoor_crds::{VirtualMachine, client};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::args::{ClusterArgs, Wait};

/// How long the head of an answer may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A namespace of the cluster.
pub struct Namespace {
    client: Client,
    name: String,
}

/// The namespace that the arguments and the kubeconfig name.
pub async fn connect(args: &ClusterArgs) -> Result<Namespace> {
    let ClusterArgs { namespace, context, kubeconfig } = args;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let config = Config::from_custom_kubeconfig(read.context("cannot read the kubeconfig")?, &options).await;
    let config = config.context("the kubeconfig does not say how to reach the cluster")?;
    let name = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = client::from_config(config, DEADLINE).context("cannot make a client of the Kubernetes API")?;
    Ok(Namespace { client, name })
}

impl Namespace {
    /// Objects of one kind in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// A virtual machine of it.
    pub async fn vm(&self, name: &str) -> Result<VirtualMachine> {
        let found = self.api::<VirtualMachine>().get_opt(name).await.context("cannot read the virtual machine")?;
        found.with_context(|| format!("there is no virtual machine {name} in namespace {}", self.name))
    }
}

/// What is to be said of an object that is waited for.
pub enum Progress {
    /// It is done; this is to be printed.
    Done(String),
    /// It cannot be done.
    Failed(String),
    /// Not yet; this is the reason.
    Pending(String),
}

/// Waits until an object is as asked, and prints what became of it.
pub async fn wait<K>(api: &Api<K>, name: &str, wait: &Wait, judge: impl Fn(&K) -> Progress) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    if wait.no_wait {
        println!("{name} asked for");
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(wait.timeout);
    let mut last;
    loop {
        match api.get_opt(name).await {
            Ok(Some(object)) => match judge(&object) {
                Progress::Done(text) => {
                    println!("{name} {text}");
                    return Ok(());
                }
                Progress::Failed(why) => bail!("{name}: {why}"),
                Progress::Pending(why) => last = why,
            },
            Ok(None) => bail!("{name} is gone"),
            // It may be back in a moment.
            Err(error) => last = error.to_string(),
        }
        if Instant::now() >= end {
            bail!("{name}: not done within {} s: {last}", wait.timeout);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The address of a guest that stands first.
pub fn ssh_address(vm: &VirtualMachine) -> Result<&str> {
    let status = vm.status.as_ref();
    let address = status.and_then(|status| status.addresses.first()).map(|address| address.address.as_str());
    address.with_context(|| {
        let message = status.and_then(|status| status.message.as_deref()).unwrap_or("nothing is known of it yet");
        format!("it has no address: {message}")
    })
}
