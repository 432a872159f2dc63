//! `/ws/vm-status`: who sees what, in which order, and how it ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kvmoor_crds::VirtualMachine;
use kvmoor_tests::feed::{Closed, Feed, Options};
use kvmoor_tests::rest::Rest;
use kvmoor_tests::token;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::shared::Shared;

/// Changes of both virtual machines together in the case with two users.
const CHANGES: usize = 1000;
/// The contract's time for closing a feed whose right has ended.
const REVOKED: Duration = Duration::from_secs(5);

/// A virtual machine that is not started, and a way to change it that shows.
struct Renamed {
    api: Api<VirtualMachine>,
    object: String,
    id: i64,
}

impl Renamed {
    async fn create(shared: &Shared, owner: &Rest) -> Result<Self> {
        let vm = owner.post("/api/vms", json!({ "name": "first", "cpu": 1, "memory": 32, "start": false })).await?;
        let id = vm["id"].as_i64().context("an id")?;
        let path = format!("/api/vms/{id}");
        wait::until("it is Stopped", SOON, || owner.get(&path), |vm| vm["phase"] == "Stopped").await?;
        let namespace = vm["namespace"].as_str().context("a namespace")?;
        let api = Api::namespaced(shared.cluster.client().await?, namespace);
        Ok(Self { api, object: vm["resource_name"].as_str().context("a name")?.to_owned(), id })
    }

    async fn rename(&self, name: &str) -> Result<()> {
        let patch = json!({ "spec": { "displayName": name } });
        self.api.patch(&self.object, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }
}

async fn remove_user(shared: &Shared, session: &Rest) -> Result<()> {
    let me = session.get("/api/auth/me").await?;
    shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{}?force=true", me["id"]), None).await?;
    Ok(())
}

/// The names in the updates of a virtual machine, one for each frame.
fn names(frames: &[Value], id: i64) -> Vec<&str> {
    let of_it = frames.iter().filter(|frame| frame["vm"]["id"] == id);
    of_it.filter_map(|frame| frame["vm"]["name"].as_str()).collect()
}

pub async fn each_sees_its_own_in_order_and_nothing_else(shared: &Shared) -> Result<()> {
    let (a, b) = (shared.user("feed-a").await?, shared.user("feed-b").await?);
    ensure!(Feed::open(&a, "").await?.list().await?.is_empty(), "nothing yet");
    let mut before = Feed::open(&a, "").await?;
    before.frame().await?;
    let (of_a, of_b) = (Renamed::create(shared, &a).await?, Renamed::create(shared, &b).await?);
    let first = before.frame().await?;
    ensure!(first["type"] == "vm_update" && first["vm"]["id"] == of_a.id, "a new one is told: {first}");

    let (mut feed_a, mut feed_b) = (Feed::open(&a, "").await?, Feed::open(&b, "").await?);
    let (mut all, mut one) =
        (Feed::open(&shared.admin, "").await?, Feed::open(&a, &format!("vm_id={}", of_a.id)).await?);
    ensure!(feed_a.list().await? == [of_a.id] && feed_b.list().await? == [of_b.id], "each its own");
    let everything = all.list().await?;
    ensure!(everything.contains(&of_a.id) && everything.contains(&of_b.id), "an admin sees both: {everything:?}");
    let shown = one.frame().await?;
    ensure!(shown["type"] == "vm_update", "{shown}");
    ensure!(shown["vm"] == a.get(&format!("/api/vms/{}", of_a.id)).await?, "the same as over REST: {shown}");

    let expected: Vec<String> = (0..CHANGES / 2).map(|n| format!("change {n}")).collect();
    let rename = async |vm: &Renamed| {
        for name in &expected {
            vm.rename(name).await?;
        }
        anyhow::Ok(())
    };
    let last = expected.last().context("changes")?;
    let is_last = |frame: &Value| frame["vm"]["name"] == last.as_str();
    let read = async |feed: &mut Feed| feed.until("the last change", is_last).await;
    let both = async {
        let mut frames = read(&mut all).await?;
        frames.extend(read(&mut all).await?);
        anyhow::Ok(frames)
    };
    let (_, _, frames_a, frames_b, frames_one, frames_all) =
        tokio::try_join!(rename(&of_a), rename(&of_b), read(&mut feed_a), read(&mut feed_b), read(&mut one), both)?;
    ensure!(names(&frames_a, of_a.id) == expected && frames_a.len() == expected.len(), "a: each change once, in order");
    ensure!(names(&frames_b, of_b.id) == expected && frames_b.len() == expected.len(), "b: each change once, in order");
    ensure!(names(&frames_one, of_a.id) == expected && frames_one.len() == expected.len(), "one: the same");
    for id in [of_a.id, of_b.id] {
        ensure!(names(&frames_all, id) == expected, "the admin sees each of both");
    }

    a.ok(Method::DELETE, &format!("/api/vms/{}", of_a.id), None).await?;
    let gone = |frame: &Value| frame["type"] == "vm_deleted" && frame["vm_id"] == of_a.id;
    feed_a.until("it is gone", gone).await?;
    let (frames, closed) = one.rest().await?;
    ensure!(frames.last().is_some_and(gone), "{frames:?}");
    ensure!(closed.code == 1000, "nothing more to come: {closed:?}");
    b.ok(Method::DELETE, &format!("/api/vms/{}", of_b.id), None).await?;
    // Up to the end nothing of a's: what follows a's deletion in b's feed is b's own.
    let frames = feed_b.until("b's is gone", |frame| frame["type"] == "vm_deleted").await?;
    let own = |frame: &Value| frame["vm_id"] == of_b.id || frame["vm"]["id"] == of_b.id;
    ensure!(frames.iter().all(own), "{frames:?}");
    remove_user(shared, &a).await?;
    remove_user(shared, &b).await
}

pub async fn refused_before_the_upgrade(shared: &Shared) -> Result<()> {
    let (a, b) = (shared.user("refused-a").await?, shared.user("refused-b").await?);
    let vm = Renamed::create(shared, &a).await?;
    let base = shared.cluster.api_url();
    let (token_a, token_b) = (a.token().context("a token")?, b.token().context("a token")?);
    let cases = [
        (String::new(), 401),
        ("token=x.y.z".to_owned(), 401),
        (format!("vm_id={}", vm.id), 401),
        (format!("token={token_b}&vm_id={}", vm.id), 404),
        (format!("token={token_a}&vm_id=999999999"), 404),
        (format!("token={token_a}&vm_id=one"), 404),
    ];
    for (query, status) in cases {
        let refused = Feed::try_open(&base, &query, Options::default()).await?.err().context("it was let in")?;
        ensure!(refused.status == status && refused.body["message"].is_string(), "{query}: {refused:?}");
    }
    let host = base.strip_prefix("http://").context("plain HTTP")?;
    for (origin, welcome) in [
        (format!("http://{host}"), true),
        ("http://evil.example".to_owned(), false),
        ("null".to_owned(), false),
        (format!("http://{host}.evil.example"), false),
    ] {
        let options = Options { origin: Some(&origin), ..Options::default() };
        let opened = Feed::try_open(&base, &format!("token={token_a}"), options).await?;
        ensure!(opened.is_ok() == welcome, "{origin}");
        if let Err(refused) = opened {
            ensure!(refused.status == 403, "{origin}: {refused:?}");
        }
    }
    // Without an upgrade it is an error like any other.
    let (code, answer) = a.call(Method::GET, "/ws/vm-status", None).await?;
    ensure!(code == StatusCode::BAD_REQUEST && answer["error"] == "Invalid request", "{code} {answer}");
    remove_user(shared, &a).await?;
    remove_user(shared, &b).await
}

pub async fn a_ticket_is_for_one_use(shared: &Shared) -> Result<()> {
    let user = shared.user("tickets").await?;
    let stranger = shared.user("tickets-stranger").await?;
    let (vm, other) = (Renamed::create(shared, &user).await?, Renamed::create(shared, &user).await?);
    let base = shared.cluster.api_url();
    let ticket_path = format!("/api/vms/{}/console-ticket", vm.id);
    let (code, _) = stranger.call(Method::POST, &ticket_path, None).await?;
    ensure!(code == StatusCode::NOT_FOUND, "a stranger gets no ticket: {code}");
    let get = async |path: &str| {
        let answer = user.ok(Method::POST, path, None).await?;
        ensure!(answer["expires_in"] == 30, "{answer}");
        Ok(answer["ticket"].as_str().context("a ticket")?.to_owned())
    };
    let open = |query: String| {
        let base = base.clone();
        async move { Feed::try_open(&base, &query, Options::default()).await }
    };

    let ticket = get(&ticket_path).await?;
    // Refused for what it is not for, and not used up by that.
    for query in [format!("ticket={ticket}"), format!("ticket={ticket}&vm_id={}", other.id)] {
        let refused = open(query.clone()).await?.err().with_context(|| format!("let in: {query}"))?;
        ensure!(refused.status == 401, "{query}: {refused:?}");
    }
    let mut feed = open(format!("ticket={ticket}&vm_id={}", vm.id)).await?.ok().context("refused")?;
    ensure!(feed.frame().await?["vm"]["id"] == vm.id, "the one it is for");
    let again = open(format!("ticket={ticket}&vm_id={}", vm.id)).await?.err().context("let in twice")?;
    ensure!(again.status == 401, "{again:?}");
    let (code, _) = user.with_token(&ticket).call(Method::GET, "/api/vms", None).await?;
    ensure!(code == StatusCode::UNAUTHORIZED, "a ticket is no session: {code}");

    let ticket = get("/api/auth/feed-ticket").await?;
    let refused = open(format!("ticket={ticket}&vm_id={}", vm.id)).await?.err().context("let in")?;
    ensure!(refused.status == 401, "{refused:?}");
    let mut all = open(format!("ticket={ticket}")).await?.ok().context("refused")?;
    ensure!(all.list().await? == [vm.id, other.id], "both");
    // What a ticket opened ends with the session that asked for it.
    user.post("/api/auth/logout", json!({})).await?;
    ensure!(all.rest().await?.1.code == 1008, "with the session");
    ensure!(feed.rest().await?.1.code == 1008, "with the session");
    let user = shared.anonymous()?.login("tickets", "password of tickets").await?;
    remove_user(shared, &user).await?;
    remove_user(shared, &stranger).await
}

pub async fn closed_when_the_right_ends(shared: &Shared) -> Result<()> {
    let expect_closed = async |what: &str, mut feed: Feed, since: Instant| {
        let (_, Closed { code, reason }) = feed.rest().await.with_context(|| what.to_owned())?;
        ensure!(code == 1008 && !reason.is_empty(), "{what}: {code} {reason}");
        ensure!(since.elapsed() <= REVOKED, "{what}: after {:?}", since.elapsed());
        anyhow::Ok(())
    };

    let user = shared.user("revoked").await?;
    let vm = Renamed::create(shared, &user).await?;
    let id = user.get("/api/auth/me").await?["id"].as_i64().context("an id")?;
    let account = format!("/api/admin/users/{id}");
    let (all, one) = (Feed::open(&user, "").await?, Feed::open(&user, &format!("vm_id={}", vm.id)).await?);
    let now = Instant::now();
    user.post("/api/auth/logout", json!({})).await?;
    expect_closed("logged out, all", all, now).await?;
    expect_closed("logged out, one", one, now).await?;

    let user = shared.anonymous()?.login("revoked", "password of revoked").await?;
    shared.admin.ok(Method::PUT, &format!("{account}/role"), Some(json!({ "role": "admin" }))).await?;
    let (all, one) = (Feed::open(&user, "").await?, Feed::open(&user, &format!("vm_id={}", vm.id)).await?);
    let now = Instant::now();
    shared.admin.ok(Method::PUT, &format!("{account}/role"), Some(json!({ "role": "user" }))).await?;
    expect_closed("demoted, all", all, now).await?;
    expect_closed("demoted, one", one, now).await?;

    let feed = Feed::open(&user, "").await?;
    let me = user.get("/api/auth/me").await?;
    let now = Instant::now();
    shared.admin.ok(Method::PUT, &account, Some(json!({ "password": "another password" }))).await?;
    expect_closed("another password", feed, now).await?;

    let user = shared.anonymous()?.login("revoked", "another password").await?;
    let epoch = {
        let users: Api<kvmoor_crds::User> = Api::all(shared.cluster.client().await?);
        users.get(&kvmoor_crds::names::user_object("revoked")).await?.spec.session_epoch
    };
    let uid = me["uuid"].as_str().context("a uuid")?;
    let short = user.with_token(&token::ending_in(&shared.cluster, uid, epoch, 3).await?);
    let feed = Feed::open(&short, "").await?;
    let now = Instant::now() + Duration::from_secs(2);
    expect_closed("expired", feed, now).await?;

    let feed = Feed::open(&user, "").await?;
    let now = Instant::now();
    shared.admin.ok(Method::DELETE, &format!("{account}?force=true"), None).await?;
    expect_closed("deleted", feed, now).await
}

pub async fn the_slow_are_closed_and_others_not_delayed(shared: &Shared) -> Result<()> {
    let user = shared.user("slow").await?;
    let vm = Renamed::create(shared, &user).await?;
    let query = format!("token={}", user.token().context("a token")?);
    let options = Options { receive_buffer: Some(4096), ..Options::default() };
    let mut slow = Feed::try_open(&shared.cluster.api_url(), &query, options).await?.ok().context("refused")?;
    slow.list().await?;
    let mut quick = Feed::open(&user, "").await?;
    quick.list().await?;
    let long = "x".repeat(100);
    let mut worst = Duration::ZERO;
    for n in 0..1000 {
        let name = format!("{n} {long}");
        vm.rename(&name).await?;
        let written = Instant::now();
        let frame = quick.frame().await?;
        worst = worst.max(written.elapsed());
        ensure!(frame["vm"]["name"] == name.as_str(), "{frame}");
    }
    ensure!(worst < Duration::from_secs(1), "the quick one waited {worst:?}");
    // What was sent to the slow one before it was given up has no gap.
    let slow = tokio::time::timeout(Duration::from_secs(20), async {
        let mut seen = Vec::new();
        loop {
            match slow.message().await {
                Some(Ok(Message::Text(text))) => seen.push(serde_json::from_str::<Value>(&text)?),
                Some(Ok(Message::Close(frame))) => return anyhow::Ok((seen, frame.map(|frame| u16::from(frame.code)))),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok((seen, None)),
            }
        }
    });
    let (seen, code) = slow.await.context("the slow one was never closed")??;
    let expected: Vec<_> = (0..seen.len()).map(|n| format!("{n} {long}")).collect();
    ensure!(names(&seen, vm.id) == expected, "no gap");
    ensure!(seen.len() < 1000, "it was given up");
    // It did not read for longer than the farewell lasts, so the code may not have got through any more.
    ensure!(code.is_none_or(|code| code == 1013), "{code:?}");

    // One that begins to read again in time hears why.
    let several = try_join_all((0..4).map(|_| Renamed::create(shared, &user))).await?;
    let mut late = Feed::try_open(&shared.cluster.api_url(), &query, options).await?.ok().context("refused")?;
    late.list().await?;
    drop(quick);
    // What the first one got, what its queue held, and what may have been lost with its connection; of several at a time,
    // or on a busy machine the farewell would be over before the last of them.
    let each = (seen.len() + 256 + 150).div_ceil(several.len());
    let renames = several.iter().map(|vm| {
        let long = &long;
        async move {
            for n in 0..each {
                vm.rename(&format!("again {n} {long}")).await?;
            }
            anyhow::Ok(())
        }
    });
    // Whoever neither reads nor says anything is taken to be gone before it is too slow.
    let nudges = async {
        loop {
            late.nudge().await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let done: Result<Vec<()>> = tokio::select! {
        done = try_join_all(renames) => done,
        refused = nudges => refused,
    };
    done?;
    let (_, closed) = late.rest().await?;
    ensure!(closed.code == 1013, "{closed:?}");
    remove_user(shared, &user).await
}

pub async fn pings(shared: &Shared) -> Result<()> {
    let user = shared.user("pinged").await?;
    let (mut listening, mut deaf) = (Feed::open(&user, "").await?, Feed::open(&user, "").await?);
    deaf.list().await?;
    let mut times = Vec::new();
    let begin = Instant::now();
    // A peer that answers is kept for longer than one that does not.
    while begin.elapsed() < Duration::from_secs(46) {
        if let Ok(message) = tokio::time::timeout(Duration::from_secs(1), listening.message()).await {
            match message.context("it ended")?? {
                Message::Ping(_) => times.push(begin.elapsed().as_secs()),
                Message::Text(_) => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
    }
    ensure!((3..=4).contains(&times.len()), "a ping every 15 s: {times:?}");
    // It was never read from, so no ping was answered; the server has let go of it without a word.
    let end = tokio::time::timeout(Duration::from_secs(5), async {
        while let Some(Ok(message)) = deaf.message().await {
            ensure!(message.is_ping(), "{message:?}");
        }
        Ok(())
    });
    end.await.context("the deaf one is still connected")??;
    remove_user(shared, &user).await
}

pub async fn the_server_stops_and_all_come_back(shared: &Shared) -> Result<()> {
    const CLIENTS: usize = 300;
    let user = shared.user("storm").await?;
    let vm = Renamed::create(shared, &user).await?;
    let open_all = async || {
        let open = || async {
            let mut feed = Feed::open(&user, "").await?;
            ensure!(feed.list().await? == [vm.id], "the list");
            Ok(feed)
        };
        try_join_all((0..CLIENTS).map(|_| open())).await
    };
    let mut feeds = open_all().await?;
    let server = shared.cluster.api_server()?;
    let begin = Instant::now();
    let closings = try_join_all(feeds.iter_mut().map(Feed::rest));
    let (_, closings) = tokio::join!(server.stop(Duration::from_secs(15)), closings);
    ensure!(begin.elapsed() < Duration::from_secs(10), "it stopped after {:?}", begin.elapsed());
    for (_, closed) in closings? {
        ensure!(closed.code == 1001, "{closed:?}");
    }
    server.start()?;
    shared.cluster.wait_ready().await?;
    wait::until("a login works", SOON, || user.get("/api/vms"), |_| true).await?;
    let begin = Instant::now();
    let feeds = open_all().await?;
    ensure!(begin.elapsed() < SOON && feeds.len() == CLIENTS, "all came back after {:?}", begin.elapsed());
    drop(feeds);
    remove_user(shared, &user).await
}
