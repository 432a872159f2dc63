//! `kvmoor-dev up`, as `make run` calls it: it comes up with a guest that answers, is there once, ends cleanly, and works
//! after it was killed.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a test ends at the first thing that goes wrong")]

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use kvmoor_dev::{libvirt_host::members, owner, process::ProcessId};
use nix::sys::signal::Signal;

const UP: Duration = Duration::from_secs(400);
const END: Duration = Duration::from_secs(90);

/// A directory and a port for `up`, and everything ended and removed at the end.
struct Run {
    dir: PathBuf,
    listen: String,
}

impl Run {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("kvmoor-up-test-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir, listen: format!("127.0.0.1:{port}") }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvmoor-dev"));
        command.arg(name).env("KVMOOR_DEV_DIR", &self.dir).env("KVMOOR_LISTEN", &self.listen);
        command.env("KVMOOR_ADMIN_PASSWORD", "chosen-here").env_remove("KVMOOR_LIBVIRT_URI").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    fn run(&self, name: &str, args: &[&str]) -> Output {
        self.command(name).args(args).output().unwrap()
    }

    /// Starts `up` and waits until it says that it is ready.
    fn up(&self) -> Child {
        let log = self.dir.join("up.log");
        let out = File::create(&log).unwrap();
        let mut up = self.command("up").stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        wait_until(UP, || {
            let ended = up.try_wait().unwrap();
            assert!(ended.is_none(), "it ended, {ended:?}:\n{}", fs::read_to_string(&log).unwrap());
            // One that was killed left its `ready` behind; the next one takes it away before it owns the directory.
            let owns = owner(&self.dir).unwrap().is_some_and(|owner| owner.pid == up.id().cast_signed());
            owns && self.dir.join("ready").exists()
        });
        up
    }

    /// Everything that a running one consists of.
    fn processes(&self) -> Vec<ProcessId> {
        let owner = owner(&self.dir).unwrap().unwrap();
        let mut all = members(&self.libvirt_run());
        all.extend(children(owner.pid));
        all.push(owner);
        all
    }

    /// The `/run/libvirt` of its libvirt host.
    fn libvirt_run(&self) -> PathBuf {
        let uri = fs::read_to_string(self.dir.join("libvirt-uri")).unwrap();
        let (_, socket) = uri.trim().split_once("socket=").unwrap();
        Path::new(socket).parent().unwrap().to_owned()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.run("down", &["--purge"]);
    }
}

fn wait_until(deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !is_so() {
        assert!(Instant::now() < end, "not so after {deadline:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn children(of: i32) -> Vec<ProcessId> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == of.to_string()))
    };
    pids.filter(is_child).filter_map(ProcessId::of).collect()
}

fn bridges() -> Vec<String> {
    let interfaces = fs::read_dir("/sys/class/net").unwrap().flatten();
    interfaces
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("kvm-"))
        .collect()
}

#[test]
fn it_runs_once_and_again_after_a_kill() {
    let run = Run::new();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let start = Instant::now();
    let mut up = run.up();
    eprintln!("ready after {:?}", start.elapsed());
    for file in ["kubeconfig", "libvirt-uri", "bin/kubectl", "logs/api-server.log"] {
        assert!(run.dir.join(file).exists(), "{file}");
    }
    let second = run.run("up", &[]);
    let said = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(second.status.success() && said.contains(&run.listen), "{said}");

    let processes = run.processes();
    assert!(processes.len() >= 12, "control plane, libvirt, dnsmasq, a guest, Kvmoor: {processes:?}");
    let libvirt_run = run.libvirt_run();
    let bridge = bridges().into_iter().find(|bridge| libvirt_run.to_string_lossy().contains(&bridge[4..12])).unwrap();
    up.kill().unwrap();
    up.wait().unwrap();

    let start = Instant::now();
    let mut up = run.up();
    eprintln!("after SIGKILL, ready after {:?}", start.elapsed());
    let left: Vec<_> = processes.iter().filter(|process| process.is_alive()).collect();
    assert!(left.is_empty(), "of the one that was killed there are still {left:?}");

    let processes = run.processes();
    ProcessId::of(up.id().cast_signed()).unwrap().signal(Signal::SIGTERM);
    let start = Instant::now();
    let mut status = None;
    wait_until(END, || {
        status = up.try_wait().unwrap();
        status.is_some()
    });
    eprintln!("ended after {:?}", start.elapsed());
    assert!(status.unwrap().success(), "{status:?}");
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(!run.dir.join("ready").exists());
    assert!(!bridges().contains(&bridge));
    assert!(!libvirt_run.exists());
    assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts);
    let down = run.run("down", &["--purge"]);
    assert!(down.status.success() && !run.dir.exists());
}
