//! `kvmoor-controller check`: whether an installation does what it is for, asked as a user asks. It is what `helm test`
//! runs, and needs neither rights in the cluster nor a program besides our own.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Uri};
use kube::{Client, Config};
use serde_json::{Value, json};

/// How long a Service may take until it leads to a pod that answers.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// Settings of the check.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the API is, such as http://kvmoor-api-server.kvmoor-system.svc.
    #[arg(long, env = "KVMOOR_CHECK_URL")]
    url: Uri,
    /// Take any certificate: that of the API server is for the name by which people reach it, not for its Service's.
    #[arg(long)]
    any_certificate: bool,
    /// Name of an admin.
    #[arg(long, env = "KVMOOR_CHECK_USERNAME", default_value = "admin")]
    username: String,
    /// Its password.
    #[arg(long, env = "KVMOOR_CHECK_PASSWORD", hide_env_values = true)]
    password: String,
}

/// Checks it all.
///
/// # Errors
/// The first thing that is not as it should be, and what to do.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { url, any_certificate, username, password } = args;
    let mut config = Config::new(url.clone());
    config.accept_invalid_certs = any_certificate;
    let client = kvmoor_crds::client::from_config(config, kvmoor_crds::client::DEADLINE)?;
    wait_for_health(&client).await.with_context(|| format!("{url} does not answer as it should"))?;
    tracing::info!(%url, "the API server answers and reaches the Kubernetes API");
    let credentials = json!({ "username": username, "password": password });
    let session = ask(&client, Method::POST, "/api/auth/login", None, Some(&credentials)).await.context(
        "the login of the first admin failed; if its password was changed over REST, set admin.password to it",
    )?;
    let token = session.get("token").and_then(Value::as_str).context("the answer to the login has no token")?;
    let me = ask(&client, Method::GET, "/api/auth/me", Some(token), None).await?;
    let name = me.get("username").and_then(Value::as_str).unwrap_or_default();
    tracing::info!(username = name, "logged in");
    let images = ask(&client, Method::GET, "/api/images", Some(token), None).await?;
    let count = images.as_array().map_or(0, Vec::len);
    tracing::info!(images = count, "listed the images");
    let hosts = ask(&client, Method::GET, "/api/hosts", Some(token), None).await?;
    let ready = ready_hosts(&hosts)?;
    tracing::info!(hosts = ready.join(", "), "virtual machines can run");
    Ok(())
}

async fn wait_for_health(client: &Client) -> anyhow::Result<()> {
    let healthy = async {
        let mut last = None;
        loop {
            match ask(client, Method::GET, "/api/health", None, None).await {
                Ok(health) if health.get("status").is_some_and(|status| status == "ok") => return,
                Ok(health) => tracing::info!(%health, "not healthy yet"),
                Err(error) => {
                    let error = format!("{error:#}");
                    if last.as_ref() != Some(&error) {
                        tracing::info!(error, "no answer yet");
                    }
                    last = Some(error);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, healthy)
        .await
        .with_context(|| format!("not healthy within {} s", PATIENCE.as_secs()))
}

async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> anyhow::Result<Value> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let bytes = match body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            serde_json::to_vec(body)?
        }
        None => Vec::new(),
    };
    let answer = client.send(request.body(bytes.into())?).await.with_context(|| format!("ask for {path}"))?;
    let status = answer.status();
    let text = answer.into_body().collect_bytes().await.with_context(|| format!("read the answer of {path}"))?;
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    if !status.is_success() {
        let message = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
        bail!("{path} answers {status}: {message}");
    }
    Ok(value)
}

/// The names of the hosts that can run guests; there must be one.
fn ready_hosts(hosts: &Value) -> anyhow::Result<Vec<String>> {
    let hosts = hosts.as_array().context("the answer of /api/hosts is no list")?;
    let is_ready = |host: &&Value| host.get("ready").is_some_and(|ready| *ready == Value::Bool(true));
    let name = |host: &Value| host.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ready: Vec<_> = hosts.iter().filter(is_ready).map(name).collect();
    ensure!(
        !ready.is_empty(),
        "none of {} hosts can run guests: `kubectl describe kvmhost` says what each lacks; nodeController.nodeSelector \
         says which nodes are hosts",
        hosts.len()
    );
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_enough() {
        let hosts = json!([{ "name": "a", "ready": false }, { "name": "b", "ready": true }]);
        assert_eq!(ready_hosts(&hosts).unwrap(), ["b"]);
        let none = ready_hosts(&json!([{ "name": "a", "ready": false }])).unwrap_err().to_string();
        assert!(none.starts_with("none of 1 hosts"), "{none}");
        assert!(ready_hosts(&json!({})).is_err());
    }
}
