//! Images that an admin uploads: through the API server into the pool of a host, whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_crds::Phase;
use kvmoor_crds::conditions::types;
use kvmoor_dev::process::Managed;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::upload::Upload;
use kvmoor_tests::vm::{SOON, TestVm, in_phase};
use kvmoor_tests::{pool, wait};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bad_input::FullPool;
use crate::crash::{Ended, MOST, arm, crash_or_finish, disarm};
use crate::images::{KEEP, TestImage, restart_with, sha256, tiny_file};
use crate::shared::Shared;

const LARGEST: &str = "KVMOOR_LARGEST_IMAGE";
/// Zeros that are sent at a time.
const PIECE: usize = 1 << 20;

/// Where the file of an image goes.
fn content(name: &str) -> String {
    format!("/api/images/{name}/content")
}

/// Creates an Image over REST whose file is then uploaded.
async fn create(shared: &Shared, name: &str, sha256: &str, format: &str) -> Result<TestImage> {
    let image = json!({ "name": name, "sha256": sha256, "format": format });
    let made = shared.admin.post("/api/images", image).await?;
    ensure!((&made["uploaded"], &made["hosts"]) == (&json!(true), &json!(0)), "{made}");
    TestImage::named(shared, name, sha256).await
}

/// Sends a file with its length.
async fn upload(session: &Rest, path: &str, file: &[u8]) -> Result<(StatusCode, Value)> {
    let mut upload = Upload::begin(session, path, Some(file.len())).await?;
    // Who is refused in the middle is not listened to until the end.
    drop(upload.send(file).await);
    upload.answer().await
}

/// Uploads as soon as the API server has heard where a node controller that was just started listens.
async fn until_taken(shared: &Shared, image: &TestImage, file: &[u8]) -> Result<()> {
    let path = content(&image.name);
    let again = || async { upload(&shared.admin, &path, file).await };
    let taken = |(status, _): &(StatusCode, Value)| status.is_success();
    wait::until(&format!("{} is uploaded", image.name), SOON, again, taken).await.map(drop)
}

fn refused(what: &str, answer: &(StatusCode, Value), status: StatusCode, words: &str) -> Result<()> {
    let message = answer.1["message"].as_str().unwrap_or_default();
    ensure!(answer.0 == status && message.contains(words), "{what}: {answer:?}, expected {status} and {words:?}");
    Ok(())
}

pub async fn a_guest_boots_from_what_was_uploaded(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("upload-boots").await?;
    let user = shared.user("upload-user").await?;
    let file = tiny_file(shared, 512 * 21)?;
    let (sum, path) = (sha256(&file), content("uploaded"));
    let body = json!({ "name": "uploaded", "sha256": sum });
    let (status, _) = user.call(Method::POST, "/api/images", Some(body)).await?;
    ensure!(status == StatusCode::FORBIDDEN, "users create no images: {status}");
    let image = create(shared, "uploaded", &sum, "qcow2").await?;
    let vm = TestVm::create(&shared.cluster, &namespace, "first", image.spec()).await?;
    let message = vm.until_condition(types::PROVISIONED, "False", "ImageNotUploaded").await?;
    ensure!(message.contains(&path), "it says what is to be done: {message}");
    ensure!(vm.domains().await?.is_empty() && vm.volumes().await?.is_empty(), "nothing of it in libvirt yet");
    refused("a user's", &upload(&user, &path, &file).await?, StatusCode::FORBIDDEN, "Admin")?;
    let (status, answer) = upload(&shared.admin, &path, &file).await?;
    ensure!(status == StatusCode::CREATED && answer["hosts"] == 1, "{status} {answer}");
    vm.until_phase(Phase::Running).await?;
    vm.until_condition(types::PROVISIONED, "True", "Provisioned").await?;
    ensure!(vm.until_booted().await? == "first", "the guest runs from the image");
    image.check_whole(shared).await?;
    for host in [String::new(), format!("?host={}", shared.cluster.node_name(0))] {
        let (status, answer) = upload(&shared.admin, &format!("{path}{host}"), &file).await?;
        ensure!(status == StatusCode::OK && answer["hosts"] == 1, "once is enough: {status} {answer}");
    }
    image.check_whole(shared).await?;
    let path = "/api/images/uploaded";
    let (status, _) = user.call(Method::DELETE, path, None).await?;
    ensure!(status == StatusCode::FORBIDDEN, "users delete no images: {status}");
    let starts = vm.starts()?;
    let gone = shared.admin.ok(Method::DELETE, path, None).await?;
    ensure!((&gone["deleted"], &gone["name"]) == (&json!(true), &json!("uploaded")), "{gone}");
    refused("again", &shared.admin.call(Method::DELETE, path, None).await?, StatusCode::NOT_FOUND, "Image not found")?;
    let listed = shared.admin.get("/api/images").await?;
    ensure!(!listed.to_string().contains("\"uploaded\","), "it is gone: {listed}");
    vm.patch(json!({ "requests": { "restart": 1 } })).await?;
    wait::until("it is started again", SOON, || async { vm.starts() }, |now| *now > starts).await?;
    vm.until_phase(Phase::Running).await?;
    ensure!(vm.until_booted().await? == "first", "what stands on the image boots on");
    image.check_whole(shared).await?;
    vm.remove().await?;
    shared.drop_namespace(&namespace).await
}

pub async fn what_is_wrong_is_said_and_nothing_is_left(shared: &Shared) -> Result<()> {
    let good = tiny_file(shared, 512 * 22)?;
    let mut evil = good.to_vec();
    evil[8..16].copy_from_slice(&2048_u64.to_be_bytes());
    evil[16..20].copy_from_slice(&11_u32.to_be_bytes());
    evil[2048..2059].copy_from_slice(b"/etc/passwd");
    let sum = sha256(&good);
    let cases: [(&str, &[u8], String, &str, &str); 4] = [
        ("up-sum", &good, "0".repeat(64), "qcow2", &sum),
        ("up-evil", &evil, sha256(&evil), "qcow2", "backing file"),
        ("up-raw", &good, sum.clone(), "raw", "qcow2"),
        ("up-empty", &[], sum.clone(), "qcow2", "qcow2"),
    ];
    for (name, file, sum, format, words) in cases {
        let image = create(shared, name, &sum, format).await?;
        let answer = upload(&shared.admin, &content(name), file).await?;
        refused(name, &answer, StatusCode::BAD_REQUEST, words)?;
        image.until_nothing_is_left(shared).await?;
        image.delete().await?;
    }
    // 64 MiB are allowed: by the length that is told, and as it comes.
    let image = create(shared, "up-large", &sum, "raw").await?;
    let large = Upload::begin(&shared.admin, &content("up-large"), Some((64 << 20) + 1)).await?.answer().await?;
    refused("too long", &large, StatusCode::PAYLOAD_TOO_LARGE, "64 MiB")?;
    let mut endless = Upload::begin(&shared.admin, &content("up-large"), None).await?;
    let (zeros, mut pieces) = (vec![0; PIECE], 0);
    while pieces < 80 && endless.send(&zeros).await.is_ok() {
        pieces += 1;
    }
    refused("endless", &endless.answer().await?, StatusCode::PAYLOAD_TOO_LARGE, "64 MiB")?;
    image.until_nothing_is_left(shared).await?;
    // Half of it, and the connection is gone.
    let mut half = Upload::begin(&shared.admin, &content("up-large"), Some(32 << 20)).await?;
    for _ in 0..16 {
        half.send(&zeros).await?;
    }
    let begun = || async { Ok(image.volumes(shared).await?.len()) };
    wait::until("it is being written", SOON, begun, |volumes| *volumes == 1).await?;
    drop(half);
    image.until_nothing_is_left(shared).await?;
    image.delete().await?;
    what_cannot_be_uploaded(shared).await?;
    the_pool_is_full(shared, good).await
}

async fn what_cannot_be_uploaded(shared: &Shared) -> Result<()> {
    let fetched = json!({ "name": "up-fetched", "sha256": "0".repeat(64), "url": "http://192.0.2.1/x" });
    shared.admin.post("/api/images", fetched.clone()).await?;
    for (path, status, words) in [
        (content("up-fetched"), StatusCode::CONFLICT, "not one that is uploaded"),
        (content("tiny"), StatusCode::CONFLICT, "not one that is uploaded"),
        (content("up-nothing"), StatusCode::NOT_FOUND, "Image not found"),
    ] {
        refused(&path, &upload(&shared.admin, &path, b"x").await?, status, words)?;
    }
    let again = shared.admin.call(Method::POST, "/api/images", Some(fetched)).await?;
    refused("again", &again, StatusCode::CONFLICT, "already exists")?;
    for (change, words) in [
        (json!({ "sha256": "0" }), "sha256"),
        (json!({ "url": "file:///etc/passwd" }), "url"),
        (json!({ "name": "Up" }), "name"),
        (json!({ "built_in": true }), "built_in"),
    ] {
        let mut body = json!({ "name": "up-bad", "sha256": "0".repeat(64) });
        body.as_object_mut().context("an object")?.extend(change.as_object().context("an object")?.clone());
        let answer = shared.admin.call(Method::POST, "/api/images", Some(body)).await?;
        refused(words, &answer, StatusCode::BAD_REQUEST, words)?;
    }
    TestImage::named(shared, "up-fetched", &"0".repeat(64)).await?.delete().await?;
    let image = create(shared, "up-where", &"0".repeat(64), "raw").await?;
    let nowhere = format!("{}?host=nowhere", content("up-where"));
    refused("nowhere", &upload(&shared.admin, &nowhere, b"x").await?, StatusCode::NOT_FOUND, "Host not found")?;
    image.delete().await
}

async fn the_pool_is_full(shared: &Shared, file: Arc<Vec<u8>>) -> Result<()> {
    let image = create(shared, "up-full", &sha256(&file), "qcow2").await?;
    let full = FullPool::mount(shared).await?;
    let answer = upload(&shared.admin, &content("up-full"), &file).await?;
    full.unmount().await?;
    pool::refresh(&shared.cluster.host(0)?.virsh()).await?;
    refused("a full pool", &answer, StatusCode::CONFLICT, "has no room")?;
    image.until_nothing_is_left(shared).await?;
    let (status, answer) = upload(&shared.admin, &content("up-full"), &file).await?;
    ensure!(status == StatusCode::CREATED, "with room it is taken: {status} {answer}");
    image.check_whole(shared).await?;
    image.delete().await
}

pub async fn two_at_once(shared: &Shared) -> Result<()> {
    let file = tiny_file(shared, 512 * 23)?;
    let image = create(shared, "up-twice", &sha256(&file), "qcow2").await?;
    let mut first = Upload::begin(&shared.admin, &content("up-twice"), None).await?;
    let (begin, end) = file.split_at(1 << 20);
    first.send(begin).await?;
    let begun = || async { Ok(image.volumes(shared).await?.len()) };
    wait::until("the first is being written", SOON, begun, |volumes| *volumes == 1).await?;
    let second = upload(&shared.admin, &content("up-twice"), &file).await?;
    refused("the second", &second, StatusCode::CONFLICT, "already")?;
    first.send(end).await?;
    let (status, answer) = first.end().await?;
    ensure!(status == StatusCode::CREATED && answer["hosts"] == 1, "{status} {answer}");
    image.check_whole(shared).await?;
    image.delete().await
}

pub async fn it_stays_while_its_image_is_there(shared: &Shared) -> Result<()> {
    let file = tiny_file(shared, 512 * 24)?;
    restart_with(shared, KEEP, "2s").await?;
    let image = create(shared, "up-unused", &sha256(&file), "qcow2").await?;
    until_taken(shared, &image, &file).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    image.check_whole(shared).await.context("nobody uses it, and it stays")?;
    image.delete().await?;
    image.until_nothing_is_left(shared).await?;
    restart_with(shared, KEEP, "168h").await
}

/// What a process has had in memory at most, in KiB.
fn peak(process: &Managed) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid().context("it runs")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

pub async fn the_api_server_holds_little_of_it(shared: &Shared) -> Result<()> {
    const MIB: usize = 512;
    restart_with(shared, LARGEST, "1Gi").await?;
    let (server, url) = shared.cluster.another_api_server("upload")?;
    server.start()?;
    let there = Rest::new(&url)?.with_token(shared.admin.token().context("a session")?);
    wait::until("the API server is ready", SOON, || there.get("/api/ready"), |_| true).await?;
    let image = create(shared, "up-sparse", &"0".repeat(64), "raw").await?;
    // One that is small, so that all is there that an upload needs.
    let path = content("up-sparse");
    let small = || upload(&there, &path, &[0; 512]);
    wait::until("it knows the host", SOON, small, |(status, _)| *status == StatusCode::BAD_REQUEST).await?;
    let before = peak(&server)?;
    let mut large = Upload::begin(&there, &content("up-sparse"), None).await?;
    let zeros = vec![0; PIECE];
    for _ in 0..MIB {
        large.send(&zeros).await?;
    }
    refused("a large one", &large.end().await?, StatusCode::BAD_REQUEST, "SHA-256")?;
    let more = peak(&server)? - before;
    println!("an upload of {MIB} MiB takes {more} KiB of the API server's memory");
    ensure!(more < 32 << 10, "an upload of {MIB} MiB took {more} KiB of memory");
    image.until_nothing_is_left(shared).await?;
    image.delete().await?;
    server.stop(SOON).await;
    restart_with(shared, LARGEST, "64Mi").await
}

pub async fn crash_while_uploading(shared: &Shared) -> Result<()> {
    let namespace = shared.namespace("crash-upload").await?;
    let process = shared.cluster.node_controller(0)?;
    let mut crashes = 0;
    for n in 1.. {
        ensure!(n < MOST, "an upload has more than {MOST} side effects");
        let name = format!("upload-{n}");
        let file = tiny_file(shared, 512 * (100 + n))?;
        let image = create(shared, &name, &sha256(&file), "qcow2").await?;
        arm(process, n).await?;
        shared.cluster.wait_ready().await?;
        let done = || async { Ok(upload(&shared.admin, &content(&name), &file).await?.0.is_success()) };
        let ended = crash_or_finish(process, done).await?;
        if matches!(ended, Ended::Crashed) {
            crashes += 1;
        }
        disarm(process).await?;
        shared.cluster.wait_ready().await?;
        until_taken(shared, &image, &file).await?;
        let check = || async { image.check_whole(shared).await };
        wait::until(&format!("{name}: is there once"), SOON, check, |()| true).await?;
        if matches!(ended, Ended::Finished) {
            let vm = TestVm::create(&shared.cluster, &namespace, &name, image.spec()).await?;
            vm.until("is Running", SOON, |vm| in_phase(vm, Phase::Running)).await?;
            vm.remove().await?;
        }
        image.delete().await?;
        if matches!(ended, Ended::Finished) {
            break;
        }
    }
    ensure!(crashes >= 3, "only {crashes} side effects were met: is the fault injection compiled in?");
    println!("upload: {crashes} points of crash");
    shared.drop_namespace(&namespace).await
}
