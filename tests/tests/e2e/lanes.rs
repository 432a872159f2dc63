//! Lanes: processes that share out the cases, each with a cluster and a network namespace of its own, since most of a case
//! is waiting.
//!
//! Why the namespace: libvirt names a guest's interface, and the firewall's chains after it, without regard to another
//! libvirt beside it. Two that start and end guests all the time would now and then remove each other's rules.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use kvmoor_dev::{binaries, debian_image, guest_image};

/// Says which lane a process is: its index and how many there are.
const LANE: &str = "KVMOOR_TEST_LANE";

/// Makes a namespace as a machine is, but for a way out: libvirt looks for interfaces in `/sys`, and kube-apiserver for a
/// default route.
const PREPARE: &str = "sys=$(mktemp -d)\n\
    mount -t sysfs sysfs $sys\n\
    mount --rbind /sys/fs/cgroup $sys/fs/cgroup\n\
    mount --move $sys /sys\n\
    rmdir $sys\n\
    ip link set lo up\n\
    ip link add uplink type bridge\n\
    ip addr add 198.18.0.1/24 dev uplink\n\
    ip link set uplink up\n\
    ip route add default via 198.18.0.2\n\
    exec \"$@\"";

/// One of the lanes.
#[derive(Clone, Copy)]
pub struct Lane {
    index: usize,
    count: usize,
}

impl Lane {
    /// The one that this process is, if it is one.
    pub fn current() -> Result<Option<Self>> {
        let Ok(text) = std::env::var(LANE) else { return Ok(None) };
        let (index, count) = text.split_once('/').with_context(|| format!("{LANE}={text}"))?;
        Ok(Some(Self { index: index.parse()?, count: count.parse()? }))
    }

    /// Whether the n-th case is this lane's.
    pub fn has(self, n: usize) -> bool {
        n % self.count == self.index
    }
}

/// Puts into the cache what clusters need, for in a lane there is no network to fetch it from, and in a case no time to
/// build it.
pub async fn fetch(debian: bool) -> Result<()> {
    let cache = binaries::cache_dir()?;
    binaries::ControlPlaneBinaries::ensure().await?;
    binaries::ensure_helm().await?;
    guest_image::ensure(&cache).await?;
    if debian {
        debian_image::ensure(&cache).await?;
    }
    Ok(())
}

/// Runs so many lanes to their end, and says whether all of their cases passed.
pub fn run(count: usize) -> Result<bool> {
    let program = std::env::current_exe()?;
    let mut lanes = Vec::new();
    for index in 0..count {
        // Whatever ends this process ends them too.
        let mut lane = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "unshare", "--net", "--mount", "sh", "-ec", PREPARE, "lane"])
            .arg(&program)
            .args(std::env::args_os().skip(1))
            .env(LANE, format!("{index}/{count}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a lane with setpriv")?;
        let output = BufReader::new(lane.stdout.take().context("a pipe")?);
        // Line by line, or the lines of one would be torn apart by the other's.
        let printer = thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| println!("{line}")));
        lanes.push((lane, printer));
    }
    let mut passed = true;
    for (mut lane, printer) in lanes {
        passed &= lane.wait()?.success();
        passed &= printer.join().is_ok();
    }
    Ok(passed)
}
