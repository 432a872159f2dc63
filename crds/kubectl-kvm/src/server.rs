//! Kvmoor's API server: a session, and a ticket for each WebSocket, so that no token stands in a URL.

use anyhow::{Context as _, Result, bail};
use kvmoor_crds::VirtualMachine;
use serde_json::{Value, json};

use crate::args::ServerArgs;
use crate::socket::{self, Socket};

/// A session at the API server, for one virtual machine.
pub struct Server {
    http: reqwest::Client,
    base: String,
    token: String,
    id: i64,
}

impl Server {
    /// Logs in, or takes the token that is given.
    pub async fn connect(args: &ServerArgs, vm: &VirtualMachine) -> Result<Self> {
        let ServerArgs { server, token, username, password } = args;
        let id = vm.status.as_ref().and_then(|status| status.id).context("the virtual machine has no number yet")?;
        let base = server.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build()?;
        let mut session = Self { http, base, token: String::new(), id };
        session.token = match (token, username, password) {
            (Some(token), _, _) => token.clone(),
            (None, Some(username), Some(password)) => {
                let account = json!({ "username": username, "password": password });
                session.post("/api/auth/login", &account, "token").await.context("cannot log in")?
            }
            _ => bail!("set KVMOOR_TOKEN, or KVMOOR_USERNAME and KVMOOR_PASSWORD"),
        };
        Ok(session)
    }

    /// Opens a WebSocket of the virtual machine: `vnc` or `serial`.
    pub async fn open(&self, kind: &str) -> Result<Socket> {
        let Self { id, .. } = self;
        let ticket = self.post(&format!("/api/vms/{id}/console-ticket"), &json!({}), "ticket").await;
        let ticket = ticket.context("cannot get a ticket")?;
        socket::open(&self.base, &format!("/ws/{kind}?id={id}&ticket={ticket}")).await
    }

    /// A call; answers one field of what comes back.
    async fn post(&self, path: &str, body: &Value, field: &str) -> Result<String> {
        let mut request = self.http.post(format!("{}{path}", self.base)).json(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let answer = request.send().await.with_context(|| format!("{} does not answer", self.base))?;
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap_or_default();
        if !status.is_success() {
            bail!("{status}: {}", answer.get("message").and_then(Value::as_str).unwrap_or("no reason was given"));
        }
        let value = answer.get(field).and_then(Value::as_str);
        Ok(value.with_context(|| format!("the answer has no {field}"))?.to_owned())
    }
}
