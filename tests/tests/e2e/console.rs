//! What the hosts serve: measurements and displays, who gets them, and that nothing of a console stays behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use kvmoor_crds::{Host, Phase, agent};
use kvmoor_dev::SYSTEM_NAMESPACE;
use kvmoor_tests::picture::Picture;
use kvmoor_tests::rfb::Viewer;
use kvmoor_tests::vm::{SOON, TestVm, blank, tiny, with};
use kvmoor_tests::wait;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::shared::Shared;

pub async fn number(vm: &TestVm<'_>) -> Result<i64> {
    let vm = vm.until("has a number", SOON, |vm| vm.status.as_ref().is_some_and(|status| status.id.is_some())).await?;
    vm.status.and_then(|status| status.id).context("just seen")
}

pub async fn remove_user(shared: &Shared, name: &str) -> Result<()> {
    let users = shared.admin.get("/api/admin/users").await?;
    let user = users.as_array().into_iter().flatten().find(|user| user["username"] == name).context("it is listed")?;
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{}", user["id"]), None).await?;
    Ok(())
}

pub async fn measurements(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("measured").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "measured", with(tiny(), json!({ "cpu": 2 }))).await?;
    vm.until_booted().await?;
    let path = format!("/api/vms/{}/stats", number(&vm).await?);
    let before = shared.admin.get(&path).await?;
    let number = |stats: &Value, pointer: &str| {
        stats.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("{pointer} in {stats}"))
    };
    ensure!(before["state"] == "running", "{before}");
    ensure!(before["cpu"]["count"] == 2 && number(&before, "/cpu/time_ns")? > 1e9, "{before}");
    ensure!(before["memory"]["total"] == 96 && before["memory"]["total_bytes"] == 96 << 20, "{before}");
    ensure!((1.0..=96.0).contains(&number(&before, "/memory/used")?), "{before}");
    ensure!(number(&before, "/uptime_seconds")? >= 1.0, "{before}");
    ensure!(before["disks"][0]["name"] == "vda" && number(&before, "/disks/0/read_bytes")? > 0.0, "{before}");
    ensure!(number(&before, "/disks/0/capacity_bytes")? >= f64::from(1 << 30), "{before}");

    // Work for the guest: each answer is a process of its own there.
    let mut busiest = 0.0_f64;
    for _ in 0..3 {
        let work = async {
            for _ in 0..5 {
                vm.http("/meminfo").await?;
            }
            anyhow::Ok(())
        };
        let (worked, stats) = tokio::join!(work, shared.admin.get(&path));
        worked?;
        busiest = busiest.max(number(&stats?, "/cpu/percent")?);
    }
    ensure!(busiest > 0.0 && busiest <= 100.0, "the guest has worked: {busiest} %");
    let after = shared.admin.get(&path).await?;
    for pointer in ["/networks/0/rx_bytes", "/networks/0/tx_bytes", "/networks/0/tx_packets", "/cpu/time_ns"] {
        let (before, after) = (number(&before, pointer)?, number(&after, pointer)?);
        ensure!(after > before, "{pointer} has grown: {before} to {after}");
    }

    let stranger = shared.user("measured-stranger").await?;
    let (status, body) = stranger.call(Method::GET, &path, None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "a stranger: {status} {body}");
    remove_user(shared, "measured-stranger").await?;

    let node = shared.cluster.node_controller(0)?;
    ensure!(node.signal(Signal::SIGSTOP), "stop the node controller");
    let begin = Instant::now();
    let outcome = shared.admin.call(Method::GET, &path, None).await;
    let took = begin.elapsed();
    ensure!(node.signal(Signal::SIGCONT), "let the node controller go on");
    let (status, body) = outcome?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {body}");
    ensure!(body["message"].as_str().is_some_and(|message| message.contains("host")), "{body}");
    ensure!(took < Duration::from_millis(2500), "after {took:?}");

    vm.patch(json!({ "powerState": "Stopped", "terminationGracePeriodSeconds": 1 })).await?;
    vm.until_phase(Phase::Stopped).await?;
    let off = shared.admin.get(&path).await?;
    ensure!(off["state"] == "shut off" && off["cpu"]["percent"] == 0.0 && off["uptime_seconds"] == 0, "{off}");
    ensure!(off["memory"]["used"] == 0 && off["memory"]["total"] == 96, "{off}");
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// A token of a service account.
async fn token(shared: &Shared, account: &str, audience: Option<&str>) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(shared.cluster.client().await?, SYSTEM_NAMESPACE);
    let spec = TokenRequestSpec { audiences: audience.map(str::to_owned).into_iter().collect(), ..Default::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("a status")?.token)
}

pub async fn a_host_serves_only_the_api_server(shared: &Shared) -> Result<()> {
    let hosts: Api<Host> = Api::all(shared.cluster.client().await?);
    let host = hosts.get(&shared.cluster.node_name(0)).await?.status.context("a status")?;
    let address = host.addresses.first().context("an address")?;
    let certificate = host.certificate.context("a certificate")?;
    let pinned = reqwest::Certificate::from_pem(certificate.as_bytes())?;
    let client = reqwest::Client::builder()
        .tls_certs_only([pinned])
        .resolve(agent::SERVER_NAME, format!("{}:{}", address.address, address.port).parse()?)
        .no_proxy()
        .build()?;
    let ours = agent::audience(&shared.cluster.node_name(0));
    let stats = agent::stats_path("550e8400-e29b-41d4-a716-446655440000");
    let image = agent::image_path(&"0".repeat(64), "raw");
    let ask = async |method: Method, path: &str, token: Option<String>| {
        let request = client.request(method, format!("https://{}:{}{path}", agent::SERVER_NAME, address.port));
        let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
        anyhow::Ok(request.send().await?.status())
    };
    let status = |token| ask(Method::GET, &stats, token);
    ensure!(status(None).await? == 401, "without a token");
    ensure!(status(Some("x".into())).await? == 401, "with something else");
    let cluster_wide = token(shared, "kvmoor-api-server", None).await?;
    ensure!(status(Some(cluster_wide)).await? == 401, "with a token for another audience");
    let other = token(shared, "kvmoor-controller-cluster", Some(&ours)).await?;
    ensure!(status(Some(other)).await? == 403, "with another account's token");
    let shown = token(shared, "kvmoor-api-server", Some(&agent::audience("host-1"))).await?;
    ensure!(status(Some(shown)).await? == 401, "with the token that another host is shown");
    let peer = token(shared, "kvmoor-api-server", Some(agent::PEER_AUDIENCE)).await?;
    ensure!(status(Some(peer)).await? == 403, "with one for what hosts give each other");
    let good = token(shared, "kvmoor-api-server", Some(&ours)).await?;
    ensure!(status(Some(good.clone())).await? == 404, "with a good token: there is no such virtual machine");
    ensure!(ask(Method::GET, &image, Some(good)).await? == 403, "the API server has no business with what images hold");
    // Other hosts get images, and nothing else.
    let unbound = token(shared, "kvmoor-controller-node", Some(agent::PEER_AUDIENCE)).await?;
    ensure!(ask(Method::GET, &image, Some(unbound)).await? == 403, "with a token that was issued for no node");
    let name = format!("controller-{}.peer-token", shared.cluster.node_name(0));
    let node = std::fs::read_to_string(shared.cluster.dir().join("components").join(name))?;
    ensure!(ask(Method::GET, &image, Some(node.clone())).await? == 404, "there is no such image");
    ensure!(ask(Method::PUT, &image, Some(node.clone())).await? == 403, "a host takes no files from another");
    ensure!(status(Some(node)).await? == 403, "nor serves it measurements");
    Ok(())
}

fn vnc(id: i64, token: &str) -> String {
    format!("/ws/vnc?id={id}&token={token}")
}

pub async fn view(shared: &Shared, path: &str) -> Result<Viewer> {
    let opened = Viewer::open(&shared.cluster.api_url(), path, &[("sec-websocket-protocol", "binary")]).await?;
    opened.map_err(|refused| anyhow::anyhow!("{refused:?}"))
}

pub async fn refused(shared: &Shared, path: &str, headers: &[(&'static str, &str)], status: u16) -> Result<()> {
    match Viewer::open(&shared.cluster.api_url(), path, headers).await? {
        Ok(_) => anyhow::bail!("{path} {headers:?} was opened"),
        Err(refused) => {
            ensure!(refused.status.as_u16() == status, "{path} {headers:?}: {refused:?}");
            Ok(())
        }
    }
}

pub async fn a_display_over_a_websocket(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("displayed").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "displayed", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let id = number(&vm).await?;
    let token = shared.admin.token().context("a session")?;

    let mut first = view(shared, &vnc(id, token)).await?;
    ensure!(first.protocol.as_deref() == Some("binary"), "{:?}", first.protocol);
    let screen = first.start(false).await?;
    ensure!(screen.width >= 640 && screen.height >= 350, "{screen:?}");
    ensure!(first.update(&screen).await? > 0, "it shows something");
    // A second viewer shares it, even one that asks to be alone.
    let mut second = view(shared, &vnc(id, token)).await?;
    let same = second.start(false).await?;
    ensure!(second.update(&same).await? > 0 && first.update(&screen).await? > 0, "both see it");
    second.close().await?;

    refused(shared, &format!("/ws/vnc?id={id}"), &[], 401).await?;
    refused(shared, &vnc(id, "x"), &[], 401).await?;
    refused(shared, &vnc(999_999, token), &[], 404).await?;
    refused(shared, &vnc(id, token), &[("origin", "https://evil.example")], 403).await?;
    refused(shared, &vnc(id, token), &[("origin", "null")], 403).await?;
    let stranger = shared.user("displayed-stranger").await?;
    refused(shared, &vnc(id, stranger.token().context("a session")?), &[], 404).await?;

    // The right ends with the session.
    let promoted = shared.user("displayed-guest").await?;
    let me = promoted.get("/api/auth/me").await?;
    let role = format!("/api/admin/users/{}/role", me["id"]);
    shared.admin.ok(Method::PUT, &role, Some(json!({ "role": "admin" }))).await?;
    let promoted = shared.anonymous()?.login("displayed-guest", "password of displayed-guest").await?;
    let mut third = view(shared, &vnc(id, promoted.token().context("a session")?)).await?;
    third.start(true).await?;
    promoted.post("/api/auth/logout", json!({})).await?;
    let frame = third.until_closed(Duration::from_secs(5)).await?.context("a close frame")?;
    ensure!(u16::from(frame.code) == 1008, "{frame:?}");
    remove_user(shared, "displayed-guest").await?;
    remove_user(shared, "displayed-stranger").await?;

    // A ticket opens it once.
    let ticket = shared.admin.post(&format!("/api/vms/{id}/console-ticket"), json!({})).await?;
    let ticket = format!("/ws/vnc?id={id}&ticket={}", ticket["ticket"].as_str().context("a ticket")?);
    let mut fourth = view(shared, &ticket).await?;
    fourth.start(true).await?;
    refused(shared, &ticket, &[], 401).await?;
    fourth.close().await?;

    // The host's controller dies: the guest does not, and the code says whose fault it was.
    shared.cluster.node_controller(0)?.kill().await;
    let frame = first.until_closed(SOON).await?.context("a close frame")?;
    ensure!(u16::from(frame.code) == 1011, "{frame:?}");
    shared.cluster.start_components().await?;
    let path = vnc(id, token);
    let mut first = wait::until("the display is back", SOON, || view(shared, &path), |_| true).await?;
    first.start(true).await?;
    vm.patch(json!({ "powerState": "Stopped" })).await?;
    let frame = first.until_closed(SOON).await?.context("a close frame")?;
    ensure!(u16::from(frame.code) == 1000, "{frame:?}");
    vm.until_phase(Phase::Stopped).await?;
    refused(shared, &vnc(id, token), &[], 409).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

fn descriptors(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Opens a console of a virtual machine a hundred times and uses it by `talk`, and checks that
/// neither the API server nor the node controller keeps a descriptor of it.
pub async fn no_descriptor_stays(
    shared: &Shared,
    path: &str,
    talk: impl AsyncFn(&mut Viewer) -> Result<()>,
) -> Result<()> {
    let pids = [shared.cluster.api_server()?.pid(), shared.cluster.node_controller(0)?.pid()];
    let pids: Vec<i32> = pids.into_iter().collect::<Option<_>>().context("both run")?;
    view(shared, path).await?.close().await?;
    let count = || pids.iter().map(|pid| descriptors(*pid)).collect::<Result<Vec<_>>>();
    let before = count()?;
    for round in 0..100 {
        let mut viewer = view(shared, path).await.with_context(|| format!("round {round}"))?;
        talk(&mut viewer).await?;
        // Every other one just goes away.
        if round % 2 == 0 {
            viewer.close().await?;
        }
    }
    // Each process opens a few for its own work now and then.
    let few = |now: &Vec<usize>| now.iter().zip(&before).all(|(now, before)| *now <= before + 4);
    wait::until(&format!("as many descriptors as before, {before:?}"), SOON, || async { count() }, few).await.map(drop)
}

pub async fn consoles_leave_no_descriptor_behind(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("reconnects").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "reconnects", blank()).await?;
    vm.until_phase(Phase::Running).await?;
    let path = vnc(number(&vm).await?, shared.admin.token().context("a session")?);
    no_descriptor_stays(shared, &path, async |viewer| viewer.start(true).await.map(drop)).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// A page with noVNC in Chromium.
struct Page {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Page {
    async fn open(base: &str, id: i64, token: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
        ensure!(folder.join("node_modules").is_dir(), "run dev/setup-browser first");
        let mut child = Command::new("node")
            .arg(folder.join("console.mjs"))
            .args([base, &id.to_string(), token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start node")?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut page = Self { child, input, output };
        let answer = page.answer().await?;
        ensure!(answer["state"] == "connected", "{answer}");
        Ok(page)
    }

    async fn answer(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(Duration::from_secs(60), self.output.next_line()).await??;
        Ok(serde_json::from_str(&line.context("the browser has ended")?)?)
    }

    async fn tell(&mut self, command: &str) -> Result<Value> {
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        self.answer().await
    }

    async fn shot(&mut self, file: &Path) -> Result<Picture> {
        self.tell(&format!("shot {}", file.display())).await?;
        Picture::read(file)
    }

    async fn close(mut self) -> Result<()> {
        self.input.write_all(b"quit\n").await?;
        drop(self.input);
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await??;
        ensure!(ended.success(), "{ended}");
        Ok(())
    }
}

pub async fn novnc_in_chromium(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("browsed").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "browsed", tiny()).await?;
    vm.until_booted().await?;
    let id = number(&vm).await?;
    let token = shared.admin.token().context("a session")?;
    let mut page = Page::open(&shared.cluster.api_url(), id, token).await?;
    let (canvas, screen): (PathBuf, PathBuf) =
        (shared.cluster.dir().join("canvas.ppm"), shared.cluster.dir().join("screen.ppm"));
    let virsh = vm.host().await?.virsh();
    let domain = vm.domain();

    let before = alike(&mut page, &virsh, &domain, &canvas, &screen).await?;
    ensure!(before.lit() > 100, "the guest's screen shows something");
    page.tell("type echo kvmoor; ls /; ls /bin").await?;
    let typed = Duration::from_secs(15);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begin = Instant::now();
    let after = loop {
        let after = alike(&mut page, &virsh, &domain, &canvas, &screen).await?;
        let changed = 1.0 - after.likeness(&before);
        if changed > 0.005 {
            break after;
        }
        ensure!(begin.elapsed() < typed, "the keys have changed {:.2} % of the screen", changed * 100.0);
    };
    ensure!(after.lit() > 100, "the guest's screen still shows something");
    page.close().await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

/// What the canvas shows, once it is what libvirt says that the guest's screen shows.
async fn alike(
    page: &mut Page,
    virsh: &kvmoor_dev::virsh::Virsh,
    domain: &str,
    canvas: &Path,
    screen: &Path,
) -> Result<Picture> {
    let begin = Instant::now();
    loop {
        virsh.run(&["screenshot", domain, &screen.display().to_string()]).await?;
        let (shown, real) = (page.shot(canvas).await?, Picture::read(screen)?);
        let likeness = shown.likeness(&real);
        if likeness > 0.99 {
            return Ok(shown);
        }
        ensure!(
            begin.elapsed() < SOON,
            "the canvas ({}x{}) and the guest's screen ({}x{}) agree in {:.1} %",
            shown.width,
            shown.height,
            real.width,
            real.height,
            likeness * 100.0
        );
    }
}
