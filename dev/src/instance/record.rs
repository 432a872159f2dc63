//! What a cluster has on the machine, on disk: written before it is needed, read by whoever cleans up after a death.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{files, process::ProcessId};

/// Everything of one cluster that outlives a SIGKILL of its owner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The process that runs the cluster.
    pub owner: Option<ProcessId>,
    /// The cluster's directory.
    pub dir: PathBuf,
    /// Whether `dir` goes when the cluster ends.
    pub temporary: bool,
    /// Child processes by name.
    #[serde(default)]
    pub processes: BTreeMap<String, ProcessId>,
    /// The directories that libvirt hosts see as `/run/libvirt`; a process that sees one belongs to that host.
    #[serde(default)]
    pub hosts: Vec<PathBuf>,
    /// Those of them in network namespaces of their own: they leave nothing in that of the machine.
    #[serde(default)]
    pub own_networks: Vec<PathBuf>,
    /// Networks of the libvirt hosts.
    #[serde(default)]
    pub networks: Vec<NetworkRecord>,
    /// Directories in which containerd has one for each container of a node's pods.
    #[serde(default)]
    pub containers: Vec<PathBuf>,
}

/// A NAT network: its /24 and its bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The bridge's interface name.
    pub bridge: String,
    /// The network address of the /24.
    pub subnet: Ipv4Addr,
}

impl State {
    /// The state of the cluster with this runtime directory; `None` when there is none.
    pub(crate) fn read(run_dir: &Path) -> Result<Option<Self>> {
        let path = file(run_dir);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Keeps the state file in step.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    state: Mutex<State>,
}

impl Recorder {
    pub(super) fn new(run_dir: &Path, state: State) -> Result<Self> {
        let recorder = Self { path: file(run_dir), state: Mutex::new(state) };
        recorder.change(|_| {})?;
        Ok(recorder)
    }

    /// The state as recorded.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a child process, in place of an earlier one of the same name.
    pub(crate) fn process(&self, name: &str, id: ProcessId) -> Result<()> {
        self.change(|state| {
            let _ = state.processes.insert(name.to_owned(), id);
        })
    }

    /// Records a libvirt host by its private `/run/libvirt`, and whether it is in a network namespace of its own.
    pub(crate) fn host(&self, run: &Path, own_network: bool) -> Result<()> {
        self.change(|state| {
            state.hosts.push(run.to_owned());
            if own_network {
                state.own_networks.push(run.to_owned());
            }
        })
    }

    /// Records that a libvirt host leaves nothing more in the network of the machine.
    pub(crate) fn network_elsewhere(&self, run: &Path) -> Result<()> {
        self.change(|state| state.own_networks.push(run.to_owned()))
    }

    /// Records a network.
    pub(crate) fn network(&self, network: NetworkRecord) -> Result<()> {
        self.change(|state| state.networks.push(network))
    }

    /// Records where containerd has its containers.
    pub(crate) fn containers(&self, tasks: &Path) -> Result<()> {
        self.change(|state| state.containers.push(tasks.to_owned()))
    }

    fn change(&self, edit: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut state);
        files::write_private(&self.path, serde_json::to_vec_pretty(&*state)?)
    }
}

fn file(run_dir: &Path) -> PathBuf {
    run_dir.join("state.json")
}
