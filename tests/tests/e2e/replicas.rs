//! Users whose requests go to several replicas of the API server, one of which has not heard yet of what another did.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmoor_dev::process::Managed;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::wait;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::shared::Shared;

const SOON: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);
/// The other replica is this much behind.
const BEHIND: Duration = Duration::from_millis(300);

pub async fn what_one_has_made_the_other_knows(shared: &Shared) -> Result<()> {
    let (server, url) = shared.cluster.another_api_server("behind")?;
    server.start()?;
    let there = Rest::new(&url)?.with_token(shared.admin.token().context("a token")?);
    wait::until("the replica is ready", SOON, || there.get("/api/ready"), |_| true).await?;
    let (password, changed) = ("password of two", "another password of two");
    for round in 0..5 {
        let vm = json!({ "name": "Made there", "cpu": 1, "memory": 16, "disk": 16, "start": false });
        let made = shared.admin.post("/api/vms", vm);
        let made = behind(&server, made, |made: Value| get(&there, format!("/api/vms/{}", made["id"]))).await?;
        there.ok(Method::DELETE, &format!("/api/vms/{}", made["id"]), None).await?;

        let name = format!("by way of two {round}");
        let user = json!({ "username": name, "password": password, "role": "user" });
        let made = shared.admin.post("/api/admin/users", user);
        let user = behind(&server, made, |made: Value| get(&there, format!("/api/admin/users/{}", made["id"]))).await?;
        // A new password ends all sessions: the next one is younger than what the other replica knows of the user.
        let session = shared.anonymous()?.login(&name, password).await?;
        let body = json!({ "current_password": password, "new_password": changed });
        session.ok(Method::POST, "/api/auth/password", Some(body)).await?;
        let again = shared.anonymous()?;
        let again = again.login(&name, changed);
        let me = behind(&server, again, |session: Rest| {
            get(&there.with_token(session.token().unwrap_or_default()), "/api/auth/me".to_owned())
        });
        ensure!(me.await?["id"] == user["id"], "the same user");
        shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{}", user["id"]), None).await?;
    }
    server.stop(STOP).await;
    Ok(())
}

fn get(session: &Rest, path: String) -> impl Future<Output = Result<Value>> + use<> {
    let session = session.clone();
    async move { session.get(&path).await }
}

/// Halts `server` while `first` is done elsewhere, and asks it `then` while it still does not know of that.
async fn behind<T, F: Future<Output = Result<Value>>>(
    server: &Managed,
    first: impl Future<Output = Result<T>>,
    then: impl FnOnce(T) -> F,
) -> Result<Value> {
    ensure!(server.signal(Signal::SIGSTOP), "it runs");
    let done = first.await;
    let go_on = async {
        sleep(BEHIND).await;
        server.signal(Signal::SIGCONT);
    };
    match done {
        Ok(done) => Ok(tokio::join!(then(done), go_on).0.context("by the replica that was behind")?),
        Err(error) => {
            server.signal(Signal::SIGCONT);
            Err(error)
        }
    }
}
