//! Users who go on while the installation changes under them: one that reads and writes over REST and must never be
//! refused, and one that follows the feed and comes back when it is told to.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_tests::feed::Feed;
use kvmoor_tests::rest::Rest;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two virtual machines that are made and deleted.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// Requests over a connection that is kept.
    pub kept: usize,
    /// Requests over a connection of their own.
    pub fresh: usize,
    /// Virtual machines made and deleted.
    pub made: usize,
    /// How often the feed was told to connect again.
    pub reconnects: usize,
}

/// Does `work` while users go on, and fails with the first request of theirs that does.
pub async fn under_load(session: &Rest, work: impl Future<Output = Result<()>>) -> Result<Done> {
    let (end, ended) = watch::channel(false);
    let work = async {
        let result = work.await;
        // Something may go wrong a little later still.
        sleep(Duration::from_secs(3)).await;
        end.send_replace(true);
        result
    };
    let fresh = session.reconnecting()?;
    let kept_session = session.alone()?;
    let (worked, kept, fresh, made, reconnects) = tokio::join!(
        work,
        read(&kept_session, &ended),
        read(&fresh, &ended),
        write(&fresh, &ended),
        follow(session, &ended),
    );
    worked?;
    let done = Done {
        kept: kept.context("over a connection that is kept")?,
        fresh: fresh.context("over a connection for each request")?,
        made: made.context("making and deleting virtual machines")?,
        reconnects: reconnects.context("following the feed")?,
    };
    ensure!(done.kept > 20 && done.fresh > 20 && done.made > 0, "too little was done to say anything: {done:?}");
    Ok(done)
}

async fn read(session: &Rest, ended: &watch::Receiver<bool>) -> Result<usize> {
    let mut count = 0;
    while !*ended.borrow() {
        let list = session.get("/api/vms").await.with_context(|| format!("request {count}"))?;
        ensure!(list.as_array().is_some_and(|list| !list.is_empty()), "an empty list: {list}");
        count += 1;
        sleep(PAUSE).await;
    }
    Ok(count)
}

async fn write(session: &Rest, ended: &watch::Receiver<bool>) -> Result<usize> {
    let mut count = 0;
    while !*ended.borrow() {
        // Off: it is the answer that counts, not a guest.
        let body = json!({ "name": format!("made-{count}"), "cpu": 1, "memory": 64, "start": false });
        let vm = session.post("/api/vms", body).await.with_context(|| format!("virtual machine {count}"))?;
        let id = vm["id"].as_i64().context("an id")?;
        session.ok(Method::DELETE, &format!("/api/vms/{id}"), None).await.context("delete it")?;
        count += 1;
        sleep(WRITE_PAUSE).await;
    }
    Ok(count)
}

/// Follows the feed; each time it is closed it must be with "connect again", and connecting again must work.
async fn follow(session: &Rest, ended: &watch::Receiver<bool>) -> Result<usize> {
    let mut reconnects = 0;
    let mut ended = ended.clone();
    loop {
        let mut feed = Feed::open(session, "").await.with_context(|| format!("connection {reconnects}"))?;
        let closed = tokio::select! {
            closed = until_closed(&mut feed) => closed?,
            _ = ended.wait_for(|ended| *ended) => return Ok(reconnects),
        };
        ensure!(closed.code == 1001 && closed.reason.contains("connect again"), "{closed:?}");
        reconnects += 1;
    }
}

async fn until_closed(feed: &mut Feed) -> Result<kvmoor_tests::feed::Closed> {
    loop {
        if let Err(closed) = feed.next().await? {
            return Ok(closed);
        }
    }
}

/// A field of a body.
pub fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}
