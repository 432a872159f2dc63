//! What guests reach and what they may pretend to be, by the traffic of real guests: isolation of NAT, spoofing, bridges,
//! isolated segments.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use kvmoor_crds::conditions::types;
use kvmoor_crds::{Phase, VirtualMachine, names};
use kvmoor_tests::events::until_warned;
use kvmoor_tests::vm::{BOOT, SOON, TestVm, blank, condition, tiny, with};
use kvmoor_tests::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::crash::{Ended, MOST, arm, converge};
use crate::shared::Shared;

/// Says which network of libvirt's guests on NAT are on.
const NETWORK: &str = "KVMOOR_NETWORK";

/// A web server on the host that guests call; it keeps the paths that they asked for.
struct Ear {
    port: u16,
    heard: Arc<Mutex<BTreeSet<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Ear {
    async fn open() -> Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(Mutex::new(BTreeSet::new()));
        let kept = heard.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    let length = stream.read(&mut head).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..length]).into_owned();
                    let path = head.split_whitespace().nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
                    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                });
            }
        });
        Ok(Self { port, heard, _task: AbortOnDropHandle::new(task) })
    }

    fn has_heard(&self, word: &str) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).contains(word)
    }
}

/// What all scripts begin with: `call HOST PORT WORD` says whether a web server answers, asked for the path WORD. By nc:
/// busybox's wget looks up the port of `http`, and a statically linked one cannot.
fn script(ear: &Ear, rest: &str) -> Value {
    json!(format!(
        "#!/bin/sh\nport={}\ngw=$(ip route | awk '/^default/ {{ print $3 }}')\nip=$(cat /run/address)\n\
         call() {{ if printf 'GET /%s HTTP/1.0\\r\\n\\r\\n' \"$3\" | nc -w 5 \"$1\" \"$2\" | grep -q HTTP; then\n\
         echo \"reached $3\"; else echo \"missed $3\"; fi; }}\n\
         tell() {{ call \"$gw\" \"$port\" \"$1\"; }}\n{rest}\necho the end\n",
        ear.port
    ))
}

async fn told(shared: &Shared, namespace: &str, name: &str, change: Value, script: Value) -> Result<()> {
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(shared.cluster.client().await?, namespace);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { "user-data": script },
    });
    secrets.create(&Default::default(), &serde_json::from_value(secret)?).await?;
    let spec = with(tiny(), json!({ "cloudInit": { "userDataSecretRef": { "name": name } } }));
    TestVm::create(&shared.cluster, namespace, name, with(spec, change)).await?;
    Ok(())
}

/// What the guest's script said, once it is at its end.
async fn said(vm: &TestVm<'_>) -> Result<String> {
    wait::until("the script is at its end", BOOT, || vm.http("/runcmd.log"), |log| log.contains("the end")).await
}

pub async fn tenants_do_not_reach_each_other(shared: &Shared) -> Result<()> {
    let ear = Ear::open().await?;
    let (one, two) = (shared.namespace("tenant-one").await?, shared.namespace("tenant-two").await?);
    // Both are willing: each sends all that is for the other by the host, which routes.
    let detour = "net=$(ip route | awk '/^[0-9].*link/ { print $1 }')\n\
        for it in /proc/sys/net/ipv4/conf/*/accept_redirects; do echo 0 >$it; done\n\
        ip route add $gw dev eth0; ip route del $net dev eth0; ip route flush cache; ip route";
    told(shared, &one, "first", json!({}), script(&ear, detour)).await?;
    let first = TestVm::existing(&shared.cluster, &one, "first").await?;
    first.until_booted().await?;
    said(&first).await?;
    let status = first.get().await?.status.context("a status")?;
    let address = status.addresses.first().context("an address")?.address.clone();
    let rest = format!(
        "tell outside\ncall {address} 80 neighbour\nping -c 2 -W 2 {address} >/dev/null && echo pinged\n\
         arping -c 2 -w 3 -I eth0 {address} >/dev/null && echo arpinged\ntell outside-still\n{detour}\n\
         call {address} 80 by-the-router\nping -c 2 -W 2 {address} >/dev/null && echo pinged\ntell outside-by-router"
    );
    told(shared, &two, "second", json!({}), script(&ear, &rest)).await?;
    let second = TestVm::existing(&shared.cluster, &two, "second").await?;
    second.until_booted().await?;
    let log = said(&second).await?;
    ensure!(log.contains("reached outside\n") && log.contains("reached outside-still"), "it reaches the host: {log}");
    ensure!(log.contains("missed neighbour"), "another tenant's guest is not reached: {log}");
    ensure!(log.contains("missed by-the-router"), "nor where both send it by the host: {log}");
    ensure!(log.contains("reached outside-by-router"), "which they reach: {log}");
    ensure!(!log.contains("pinged"), "by no protocol: {log}");
    ensure!(ear.has_heard("outside-still"), "the host heard it");
    ensure!(first.http("/").await? == "first", "which was there all the time");
    first.remove().await?;
    second.remove().await?;
    shared.drop_namespace(&one).await?;
    shared.drop_namespace(&two).await
}

/// The MAC address under which the host knows a guest's address.
async fn neighbour(address: &str) -> Result<String> {
    let output = tokio::process::Command::new("ip").args(["-4", "neigh", "show", "to", address]).output().await?;
    let said = String::from_utf8(output.stdout)?;
    let mac = said.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    Ok(mac.with_context(|| format!("no neighbour {address}: {said}"))?.to_owned())
}

pub async fn a_guest_that_pretends_is_not_heard(shared: &Shared) -> Result<()> {
    let ear = Ear::open().await?;
    let namespace = shared.namespace("spoofs").await?;
    let victim = TestVm::create(&shared.cluster, &namespace, "victim", tiny()).await?;
    victim.until_booted().await?;
    let status = victim.get().await?.status.context("a status")?;
    let address = status.addresses.first().context("an address")?.address.clone();
    // Which address a guest gets depends on its UID: it may be any.
    let rest = "mac=$(cat /sys/class/net/eth0/address)\nother=${ip%.*}.253\n\
        if [ $other = $ip ]; then other=${ip%.*}.252; fi\n\
        tell own-first\n\
        ip addr flush dev eth0; ip addr add $other/24 dev eth0; ip route replace default via $gw\n\
        tell other-ip\n\
        ip addr flush dev eth0; ip addr add $ip/24 dev eth0; ip route replace default via $gw\n\
        tell own-second\n\
        ip link set eth0 down; ip link set eth0 address 52:54:00:66:66:66; ip link set eth0 up\n\
        ip route replace default via $gw; tell other-mac\n\
        ip link set eth0 down; ip link set eth0 address $mac; ip link set eth0 up\n\
        ip route replace default via $gw; tell own-third";
    let claim =
        format!("ip addr add {address}/32 dev lo\narping -U -c 5 -I eth0 {address}\narping -A -c 5 -I eth0 {address}");
    told(shared, &namespace, "spoofs", json!({}), script(&ear, &format!("{rest}\n{claim}"))).await?;
    let vm = TestVm::existing(&shared.cluster, &namespace, "spoofs").await?;
    vm.until_booted().await?;
    let log = said(&vm).await?;
    for own in ["own-first", "own-second", "own-third"] {
        ensure!(log.contains(&format!("reached {own}")) && ear.has_heard(own), "{own}: {log}");
    }
    for other in ["other-ip", "other-mac"] {
        ensure!(log.contains(&format!("missed {other}")) && !ear.has_heard(other), "{other}: {log}");
    }
    ensure!(log.contains("ARPING"), "it claims another's address: {log}");
    ensure!(neighbour(&address).await? == names::mac_address(victim.uid(), "default"), "and is not believed");
    ensure!(victim.http("/").await? == "victim", "whose guest is reached");
    victim.remove().await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn only_bridges_that_are_allowed(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("bridged").await?;
    let host = shared.cluster.host(0)?;
    let bridge = host.bridge().context("a private host")?.to_owned();
    let on = |bridge: &str| json!({ "networks": [{ "name": "lan", "type": "Bridge", "bridge": bridge }] });
    let refused = TestVm::create(
        &shared.cluster,
        &namespace,
        "x",
        with(
            blank(),
            json!({ "networks": [
        { "name": "lan", "type": "Bridge" }] }),
        ),
    );
    ensure!(refused.await.is_err(), "a bridge without a name is refused at once");
    let vm = TestVm::create(&shared.cluster, &namespace, "bridged", with(tiny(), on(&bridge))).await?;
    let missing = TestVm::create(&shared.cluster, &namespace, "missing", with(blank(), on("kvm-nothing"))).await?;
    for vm in [&vm, &missing] {
        let message = vm.until_condition(types::READY, "False", "BridgeNotAllowed").await?;
        ensure!(message.contains("no bridge is allowed"), "{message}");
        ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing is made");
    }
    let process = shared.cluster.node_controller(0)?;
    process.kill().await;
    process.set_env("KVMOOR_ALLOW_BRIDGE", Some(&format!("{bridge},kvm-nothing")));
    process.start()?;
    vm.until_phase(Phase::Running).await?;
    let message = missing.until_condition(types::READY, "False", "BridgeMissing").await?;
    ensure!(message.contains("kvm-nothing"), "{message}");
    // The DHCP server there is libvirt's, which knows nothing of this guest but its MAC address.
    let mac = names::mac_address(vm.uid(), "lan");
    let leases = || async { host.virsh().run(&["net-dhcp-leases", "default", "--mac", &mac]).await };
    let leases = wait::until("it has asked for an address", BOOT, leases, |leases| leases.contains(&mac)).await?;
    let address = leases.split_whitespace().find_map(|word| word.strip_suffix("/24")).context("an address")?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/");
    let get = || async { Ok(client.get(&url).send().await?.text().await?) };
    wait::until("it answers on the bridge", BOOT, get, |name| name.trim() == "bridged").await?;
    process.set_env("KVMOOR_ALLOW_BRIDGE", None);
    vm.remove().await?;
    missing.remove().await?;
    process.kill().await;
    process.start()?;
    shared.drop_namespace(&namespace).await
}

pub async fn an_isolated_segment_is_the_namespaces_own(shared: &Shared) -> Result<()> {
    let ear = Ear::open().await?;
    let (one, two) = (shared.namespace("segment-one").await?, shared.namespace("segment-two").await?);
    let networks = json!({ "networks": [{ "name": "default" }, { "name": "lan", "type": "Isolated" }] });
    let rest = |own: u8| {
        format!(
            "ip link set eth1 up\nif udhcpc -i eth1 -n -q -t 3 -T 1 -s /bin/true; then echo led astray; fi\n\
             ip addr add 10.9.0.{own}/24 dev eth1\ncall 10.9.0.1 80 first\ntell outside"
        )
    };
    // The first guest would hand out addresses, and so lead the others where it wants.
    let server =
        "start 10.9.0.50\\nend 10.9.0.60\\ninterface eth1\\nlease_file /run/leases\\npidfile /run/udhcpd.pid\\n";
    let serves = format!(
        "printf '{server}' >/run/udhcpd.conf; touch /run/leases; udhcpd /run/udhcpd.conf; pidof udhcpd && echo serves"
    );
    told(shared, &one, "first", networks.clone(), script(&ear, &format!("{}\n{serves}", rest(1)))).await?;
    let first = TestVm::existing(&shared.cluster, &one, "first").await?;
    first.until_booted().await?;
    let log = said(&first).await?;
    ensure!(log.contains("serves"), "its DHCP server runs: {log}");
    told(shared, &one, "second", networks.clone(), script(&ear, &rest(2))).await?;
    let second = TestVm::existing(&shared.cluster, &one, "second").await?;
    second.until_booted().await?;
    let log = said(&second).await?;
    ensure!(log.contains("reached first"), "the namespace's guests reach each other: {log}");
    ensure!(!log.contains("led astray"), "and none is a DHCP server to another: {log}");
    told(shared, &two, "stranger", networks, script(&ear, &rest(3))).await?;
    let stranger = TestVm::existing(&shared.cluster, &two, "stranger").await?;
    stranger.until_booted().await?;
    let log = said(&stranger).await?;
    ensure!(log.contains("missed first") && log.contains("reached outside"), "and nobody else does: {log}");

    // What was defined is valid by libvirt's own schema.
    let host = shared.cluster.host(0)?;
    let xml = host.virsh().run(&["dumpxml", "--inactive", &second.domain()]).await?;
    let file = shared.cluster.dir().join("validated.xml");
    std::fs::write(&file, xml)?;
    host.virsh().run(&["define", "--validate", &file.to_string_lossy()]).await?;

    let name = names::isolated_network(&two);
    let listed = || async { host.virsh().run(&["net-list", "--all", "--name"]).await };
    ensure!(listed().await?.contains(&name), "the segment is a network");
    stranger.remove().await?;
    let process = shared.cluster.node_controller(0)?;
    process.kill().await;
    process.start()?;
    wait::until("a segment without guests goes", SOON, listed, |names| !names.contains(&name)).await?;
    ensure!(listed().await?.contains(&names::isolated_network(&one)), "the other stays");
    first.remove().await?;
    second.remove().await?;
    shared.drop_namespace(&one).await?;
    shared.drop_namespace(&two).await
}

pub async fn no_address_is_left(shared: &Shared) -> Result<()> {
    let (process, virsh) = (shared.cluster.node_controller(0)?, shared.cluster.host(0)?.virsh());
    // The network of the other cases has leases of their guests.
    let file = shared.cluster.dir().join("scarce.xml");
    let one = "<range start='198.19.0.2' end='198.19.0.2'/>";
    let xml = format!(
        "<network><name>scarce</name><forward mode='nat'/><ip address='198.19.0.1' netmask='255.255.255.0'>\
         <dhcp>{one}</dhcp></ip></network>"
    );
    std::fs::write(&file, xml)?;
    virsh.run(&["net-create", &file.to_string_lossy()]).await?;
    let outcome = on_the_scarce_network(shared).await;
    process.kill().await;
    process.set_env(NETWORK, None);
    process.start()?;
    virsh.run(&["net-destroy", "scarce"]).await?;
    outcome
}

async fn on_the_scarce_network(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("no-address").await?;
    let process = shared.cluster.node_controller(0)?;
    process.kill().await;
    process.set_env(NETWORK, Some("scarce"));
    process.start()?;
    shared.cluster.wait_ready().await?;
    let first = TestVm::create(&shared.cluster, &namespace, "first", tiny()).await?;
    first.until_booted().await?;
    let second = TestVm::create(&shared.cluster, &namespace, "second", tiny()).await?;
    let is_told = |vm: &VirtualMachine| is_so(vm, types::ADDRESS_ERROR);
    let vm = second.until("has no address, and says why", BOOT, is_told).await?;
    ensure!(is_so(&vm, types::READY), "it runs: {:?}", vm.status);
    let message = second.until_condition(types::ADDRESS_ERROR, "True", "AddressesExhausted").await?;
    ensure!(message.contains("network scarce has given away all of its 1"), "{message}");
    let note = until_warned(&shared.cluster, &namespace, second.uid(), types::ADDRESS_ERROR).await?;
    ensure!(note == message, "{note}");
    let more = "<range start='198.19.0.3' end='198.19.0.9'/>";
    let add = ["net-update", "scarce", "add-last", "ip-dhcp-range", more, "--live"];
    shared.cluster.host(0)?.virsh().run(&add).await?;
    ensure!(second.until_booted().await? == "second", "it asks again");
    second.until_condition(types::ADDRESS_ERROR, "False", "NoError").await?;
    first.remove().await?;
    second.remove().await?;
    shared.drop_namespace(&namespace).await
}

fn is_so(vm: &VirtualMachine, type_: &str) -> bool {
    condition(vm, type_).is_some_and(|condition| condition.status == "True")
}

/// The process ends after each side effect of removing a segment that no guest is on any more.
pub async fn crash_while_a_segment_goes(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-segment").await?;
    let process = shared.cluster.node_controller(0)?;
    let network = names::isolated_network(&namespace);
    let virsh = shared.cluster.host(0)?.virsh();
    let listed = || async { virsh.run(&["net-list", "--all", "--name"]).await };
    let networks = json!({ "networks": [{ "name": "lan", "type": "Isolated" }] });
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "more than {MOST} side effects");
        let name = format!("segment-{n}");
        let vm = TestVm::create(&shared.cluster, &namespace, &name, with(blank(), networks.clone())).await?;
        vm.until_phase(Phase::Running).await?;
        vm.remove().await?;
        ensure!(listed().await?.contains(&network), "{name}: the segment outlives its guest");
        arm(process, n).await?;
        let gone = || async { Ok(!listed().await?.contains(&network)) };
        let ended = converge(process, &format!("{name}: the segment goes"), SOON, gone).await?;
        crashes += usize::from(matches!(ended, Ended::Crashed));
        shared.cluster.wait_ready().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 2, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("a segment that goes: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}
