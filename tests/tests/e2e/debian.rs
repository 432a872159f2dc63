//! cloud-init and qemu-guest-agent themselves, in a real Debian from an image that was imported: what the one makes of the
//! seed, and what Kvmoor makes of the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::PostParams;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{Phase, RestorePhase, SnapshotPhase, VirtualMachine, names};
use kvmoor_dev::{binaries, debian_image};
use kvmoor_tests::files::{Files, Serve};
use kvmoor_tests::vm::{TestVm, in_phase};
use kvmoor_tests::wait;
use serde_json::json;

use crate::crash::{Ended, MOST, arm, converge};
use crate::guest_data::{SECRET, SEEN, secret, secrets};
use crate::images::{TestImage, restart_with, sha256};
use crate::shared::Shared;
use crate::snapshots::{TestRestore, TestSnapshot};

/// A Debian in software on a loaded machine has booted by then.
const BOOT: Duration = Duration::from_secs(400);
const LARGEST: &str = "KVMOOR_LARGEST_IMAGE";
/// The guest's address on the isolated network, where only its agent can tell it.
const LAB: &str = "10.77.0.5";
/// Has the guest note when its file systems are frozen and thawed; once after it was told to, it is slow to freeze.
const HOOK: &str = "write_files:\n- path: /etc/qemu/fsfreeze-hook.d/note\n  permissions: '0755'\n  content: |\n    #!/bin/sh\n    \
                    [ $1 = freeze ] && rm /run/slow && sleep 25\n    mkdir -p /run/www && echo $1 >>/run/www/hook\n";
/// Has the guest write to its disk all the time, and tell how often it could.
const BEAT: &str = "- mkdir -p /run/www\n- nohup sh -c 'n=0; while sleep 1; do n=$((n + 1)); echo $n >/root/beat && sync \
                    /root/beat && echo $n >/run/www/beat; done' > /dev/null 2>&1 &\n";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKyAKw27lhVRRYMIZtmHeBqJDPmSp5Fwvn3BBVy0ZzQO somebody";

pub async fn cloud_init_and_the_guest_agent(shared: &Shared) -> Result<()> {
    // The other cases are about what is too large.
    restart_with(shared, LARGEST, "4Gi").await?;
    let outcome = follow(shared).await;
    restart_with(shared, LARGEST, "64Mi").await?;
    outcome
}

async fn follow(shared: &Shared) -> Result<()> {
    let file = debian_image::ensure(&binaries::cache_dir()?).await?;
    let bytes = Arc::new(tokio::fs::read(&file).await.with_context(|| file.display().to_string())?);
    let files = Files::start().await?;
    let url = files.serve("/debian.qcow2", Serve::File(bytes.clone()));
    let image = TestImage::create(shared, "debian", &url, &sha256(&bytes), "qcow2").await?;
    drop(bytes);

    let namespace = shared.namespace("debian").await?;
    let user_data = format!(
        "#cloud-config\n# {SECRET}\nusers: [default, {{ name: kim, groups: [sudo] }}]\n{HOOK}runcmd:\n{BEAT}- mkdir -p /run/www\n- cd \
         /run/www && id kim > kim && cat /home/debian/.ssh/authorized_keys > keys && df --output=size -m / > size\n- cd \
         /run/www && cp /var/lib/cloud/data/instance-id instance && cat /etc/network/interfaces.d/* > net && hostname > name\n\
         - cd /run/www && nohup python3 -m http.server 80 > /dev/null 2>&1 &\n"
    );
    let spec = json!({
        "cpu": 2, "memory": "512Mi", "osType": image.name, "disk": { "size": "3Gi" }, "terminationGracePeriodSeconds": 1,
        "networks": [{ "name": "default", "type": "Nat" }, { "name": "lab", "type": "Isolated" }],
        "cloudInit": {
            "sshAuthorizedKeys": [KEY],
            "userDataSecretRef": { "name": "boot" },
            "networkDataSecretRef": { "name": "boot" },
        },
    });
    let vm = TestVm::create(&shared.cluster, &namespace, "debbie", spec).await?;
    let network = format!(
        "version: 2\nethernets:\n  lan0:\n    match: {{ macaddress: '{}' }}\n    set-name: lan0\n    dhcp4: true\n  lab0:\n    \
         match: {{ macaddress: '{}' }}\n    set-name: lab0\n    addresses: [{LAB}/24]\n",
        names::mac_address(vm.uid(), "default"),
        names::mac_address(vm.uid(), "lab"),
    );
    let data = secret("boot", json!({ "user-data": user_data, "network-config": network }))?;
    secrets(shared, &namespace).await?.create(&PostParams::default(), &data).await?;
    vm.until("is Running", SEEN, |vm| in_phase(vm, Phase::Running)).await?;
    let name = wait::until("cloud-init is done", BOOT, || vm.http("/name"), |_| true).await?;
    ensure!(name == "debbie", "the guest's host name: {name}");
    ensure!(vm.http("/keys").await?.contains(KEY), "the default user has the key");
    ensure!(vm.http("/kim").await?.contains("(kim)"), "the user of the user data is there");
    ensure!(vm.http("/instance").await? == vm.uid(), "the instance id is the UID");
    ensure!(vm.http("/net").await?.contains("lan0"), "the network data was heeded");
    let size = vm.http("/size").await?;
    let mebibytes: u64 = size.lines().last().unwrap_or_default().trim().parse().with_context(|| size.clone())?;
    ensure!(mebibytes > 2500, "the root file system has grown to the disk: {mebibytes} MiB");
    the_agent_tells(shared, &vm).await?;
    the_agent_freezes(shared, &namespace, &vm).await?;
    it_is_thawed_after_a_restore(shared, &namespace, &vm).await?;
    a_slow_agent(shared, &namespace, &vm).await?;
    vm.remove().await?;
    image.delete().await?;
    shared.drop_namespace(&namespace).await
}

/// The agent connects, and what it says is told.
async fn the_agent_tells(shared: &Shared, vm: &TestVm<'_>) -> Result<()> {
    vm.until_condition(types::GUEST_AGENT_CONNECTED, "True", "Connected").await?;
    let is_told = |vm: &VirtualMachine| {
        let status = vm.status.clone().unwrap_or_default();
        let name = status.guest_os_info.and_then(|os| os.hostname);
        name.as_deref() == Some("debbie") && status.addresses.iter().any(|address| address.address == LAB)
    };
    let status = vm.until("the guest tells of itself", BOOT, is_told).await?.status.context("a status")?;
    let os = status.guest_os_info.context("just seen")?;
    ensure!(os.id.as_deref() == Some("debian") && os.version_id.as_deref() == Some("12"), "{os:?}");
    ensure!(os.name.is_some_and(|name| name.contains("Debian")) && os.machine.is_some(), "name and machine");
    ensure!(os.kernel_release.is_some_and(|release| release.contains("cloud")), "the kernel's release");
    let networks: Vec<_> = status.addresses.iter().map(|address| address.network.as_deref()).collect();
    ensure!(networks == [Some("default"), Some("lab")], "{:?}", status.addresses);
    let seen = shared.admin.get(&format!("/api/vms/{}", status.id.context("an id")?)).await?;
    ensure!(seen["guest_agent"] == true && seen["guest_os"]["hostname"] == "debbie", "{seen}");
    Ok(())
}

/// The file systems are frozen for a snapshot, and thawed after it, whatever crashes when.
async fn the_agent_freezes(shared: &Shared, namespace: &str, vm: &TestVm<'_>) -> Result<()> {
    let process = shared.cluster.node_controller(0)?;
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} side effects");
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let snapshot = TestSnapshot::create(shared, namespace, &format!("frozen-{n}"), "debbie").await?;
        let is_over =
            || async { Ok(snapshot.phase().await? == Some(SnapshotPhase::Ready) && !may_be_frozen(vm).await?) };
        let what = format!("snapshot {n} is taken, and the guest thawed");
        let ended = converge(process, &what, SEEN, is_over).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        was_frozen(&snapshot).await?;
        works_on(vm, &format!("after snapshot {n}")).await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 7, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("snapshot with frozen file systems: {crashes} points of crash");
    Ok(())
}

/// A guest that is brought back to where it was frozen is thawed, whatever crashes when, and as often as it is brought back.
async fn it_is_thawed_after_a_restore(shared: &Shared, namespace: &str, vm: &TestVm<'_>) -> Result<()> {
    let process = shared.cluster.node_controller(0)?;
    let snapshot = TestSnapshot::create(shared, namespace, "frost", "debbie").await?;
    snapshot.until_phase(SnapshotPhase::Ready).await?;
    let mut crashes = 0;
    // The first side effects of a restore come before the revert, when nothing is frozen.
    for n in 4.. {
        ensure!(n < MOST, "more than {MOST} side effects");
        let starts = vm.starts()?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let restore = TestRestore::named(shared, namespace, &format!("thawed-{n}"), &snapshot.name).await?;
        let is_over =
            || async { Ok(restore.phase().await? == Some(RestorePhase::Succeeded) && !may_be_frozen(vm).await?) };
        let what = format!("restore {n} is done, and the guest thawed");
        let ended = converge(process, &what, SEEN, is_over).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        was_frozen(&snapshot).await?;
        works_on(vm, &format!("after restore {n}")).await?;
        ensure!(vm.starts()? == starts + 1, "{n}: QEMU was started {} times", vm.starts()? - starts);
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 6, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("restore of frozen file systems: {crashes} points of crash");
    Ok(())
}

/// Whether it is recorded that the guest may be frozen.
async fn may_be_frozen(vm: &TestVm<'_>) -> Result<bool> {
    let defined = vm.host().await?.virsh().run(&["dumpxml", "--inactive", &vm.domain()]).await?;
    Ok(defined.contains(" freeze="))
}

async fn was_frozen(snapshot: &TestSnapshot) -> Result<()> {
    let indications = snapshot.get().await?.status.context("a status")?.indications;
    ensure!(indications == ["Online", "GuestAgent"], "{}: {indications:?}", snapshot.name);
    Ok(())
}

/// An agent that does not freeze in time keeps nobody from taking the snapshot, and freezes the guest for no longer than
/// it is itself busy with that.
async fn a_slow_agent(shared: &Shared, namespace: &str, vm: &TestVm<'_>) -> Result<()> {
    let freezes = || async { Ok(vm.http("/hook").await?.matches("freeze").count()) };
    let before = freezes().await?;
    let slow = json!({ "execute": "guest-exec", "arguments": { "path": "/usr/bin/touch", "arg": ["/run/slow"] } });
    vm.host().await?.virsh().run(&["qemu-agent-command", &vm.domain(), &slow.to_string()]).await?;
    let snapshot = TestSnapshot::create(shared, namespace, "slow", "debbie").await?;
    let is_taken = |phase: &Option<SnapshotPhase>| *phase == Some(SnapshotPhase::Ready);
    wait::until("the snapshot is taken all the same", SEEN, || snapshot.phase(), is_taken).await?;
    let indications = snapshot.get().await?.status.context("a status")?.indications;
    ensure!(indications == ["Online", "QuiesceFailed"], "{indications:?}");
    wait::until("it freezes in the end", SEEN, freezes, |now| *now > before).await?;
    works_on(vm, "after an agent was slow").await?;
    let mended = |vm: &VirtualMachine| {
        let conditions = vm.status.clone().unwrap_or_default().conditions;
        conditions::is_true(&conditions, types::GUEST_AGENT_CONNECTED)
    };
    vm.until("its agent answers again", SEEN, mended).await?;
    Ok(())
}

/// The guest was frozen, is thawed, and writes to its disk.
async fn works_on(vm: &TestVm<'_>, when: &str) -> Result<()> {
    let is_thawed = |hook: &String| hook.contains("freeze") && hook.ends_with("thaw");
    wait::until(&format!("{when}: the guest is thawed"), SEEN, || vm.http("/hook"), is_thawed).await?;
    let beat = || async { Ok(vm.http("/beat").await?.parse::<u64>()?) };
    let before = wait::until(&format!("{when}: the guest answers"), SEEN, beat, |_| true).await?;
    wait::until(&format!("{when}: the guest writes to its disk"), SEEN, beat, |now| *now > before).await?;
    Ok(())
}
