//! The first virtual machine, `hello`, of the first admin: the proof that everything works.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use kvmoor_crds::{Phase, PowerState, VirtualMachine, VirtualMachineStatus, names};
use serde_json::json;

use super::progress::say;
use crate::{components::TINY, deadline::until};

const NAME: &str = "hello";
const NAMESPACE: Duration = Duration::from_secs(60);
/// Seconds with KVM; a guest under emulation on a busy machine takes a while.
const BOOTED: Duration = Duration::from_secs(240);
const REQUEST: Duration = Duration::from_secs(3);

/// What there is to tell of it.
#[derive(Debug)]
pub(super) struct FirstVm {
    pub(super) namespace: String,
    pub(super) name: &'static str,
    pub(super) uid: String,
    /// `None` when its owner has stopped it.
    pub(super) address: Option<String>,
}

/// Makes it unless it is there, and waits until its guest answers. One that was stopped on purpose is left alone.
pub(super) async fn ensure(client: &Client, admin: &str) -> Result<FirstVm> {
    let namespace = names::user_namespace(&names::user_object(admin));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there = || async { Ok(namespaces.get_opt(&namespace).await?.is_some()) };
    let what = format!("the cluster controller has made the namespace {namespace}; its log is controller-cluster.log");
    until(NAMESPACE, &what, there).await?;
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), &namespace);
    let vm = match api.get_opt(NAME).await? {
        Some(vm) => vm,
        None => {
            let vm = serde_json::from_value(json!({
                "metadata": { "name": NAME },
                "spec": { "displayName": NAME, "cpu": 1, "memory": "128Mi", "osType": TINY },
            }));
            api.create(&PostParams::default(), &vm?).await.context("create the virtual machine hello")?
        }
    };
    let uid = vm.metadata.uid.unwrap_or_default();
    let mut first = FirstVm { namespace, name: NAME, uid, address: None };
    if vm.spec.power_state == PowerState::Running {
        first.address = Some(until_booted(&api, vm.spec.requests.restart).await?);
    }
    Ok(first)
}

/// Waits until it is Running and the guest answers, and says what happens meanwhile. What the status says at first may
/// be of an earlier run, so nothing is taken for granted before the guest has answered.
async fn until_booted(api: &Api<VirtualMachine>, restarts: i64) -> Result<String> {
    let http = reqwest::Client::builder().timeout(REQUEST).no_proxy().build()?;
    let last = RefCell::new((None, String::new()));
    let asked = Cell::new(false);
    let booted = || async {
        let status = api.get(NAME).await?.status.unwrap_or_default();
        let address = status.addresses.first().map(|address| address.address.clone()).unwrap_or_default();
        let runs = status.phase == Some(Phase::Running) && !address.is_empty();
        if status.phase == Some(Phase::Stopped) && !asked.replace(true) {
            // Its guest powered itself off, and that is respected. Starting a cluster asks for it anew.
            let patch = json!({ "spec": { "requests": { "restart": restarts + 1 } } });
            api.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.context("restart hello")?;
        }
        if last.borrow().1 != shown(&status) {
            say(format_args!("      {NAME} is {}", shown(&status)));
        }
        if runs && last.borrow().0.as_ref() != Some(&address) {
            say(format_args!("      {NAME} has the address {address} and boots"));
        }
        last.replace((runs.then(|| address.clone()), shown(&status)));
        if !runs {
            return Ok(false);
        }
        Ok(http.get(format!("http://{address}/")).send().await.is_ok_and(|answer| answer.status().is_success()))
    };
    let waited = until(BOOTED, "the virtual machine hello runs and its guest answers on port 80", booted).await;
    let (address, state) = last.into_inner();
    waited.with_context(|| match &address {
        Some(address) => format!("hello is {state}, but nothing answers at http://{address}/; see its serial console"),
        None => format!("hello is {state}"),
    })?;
    address.context("hello has no address")
}

/// The phase, and why.
fn shown(status: &VirtualMachineStatus) -> String {
    let phase = status.phase.map_or("not taken up yet", Phase::as_str);
    match status.message.as_deref() {
        None | Some("") => phase.to_owned(),
        Some(message) => format!("{phase} ({message})"),
    }
}
