//! A small client of Kvmoor's REST API, as a user's program would write it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Api;
use kvmoor_crds::{User, conditions, names};
use kvmoor_dev::Cluster;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{secrets, wait};

/// The first admin is made by the cluster controller once it leads; until then nobody can log in.
const FIRST_LOGIN: Duration = Duration::from_secs(30);

/// A session of the cluster's first admin, as soon as there is one.
pub async fn admin(cluster: &Cluster) -> Result<Rest> {
    let users: Api<User> = Api::all(cluster.client().await?);
    let account = cluster.admin();
    let object = names::user_object(&account.username);
    let exists = |user: &Option<User>| {
        let conditions = user.as_ref().and_then(|user| user.status.as_ref()).map(|status| &status.conditions);
        conditions.is_some_and(|conditions| conditions::is_true(conditions, conditions::types::TENANT_READY))
    };
    let look = || async { Ok(users.get_opt(&object).await?) };
    wait::until("the first admin exists", FIRST_LOGIN, look, exists).await?;
    Rest::new(&cluster.api_url())?.login(&account.username, &account.password).await
}

/// A session of the REST API.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Rest {
    /// A client without a session. `base` ends before `/api`.
    pub fn new(base: &str) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token: None })
    }

    /// The same session over connections of its own.
    pub fn alone(&self) -> Result<Self> {
        Ok(Self { token: self.token.clone(), ..Self::new(&self.base)? })
    }

    /// The same session over a new connection for each request.
    pub fn reconnecting(&self) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).pool_max_idle_per_host(0).build()?;
        Ok(Self { http, ..self.clone() })
    }

    /// The same client with a session of that user.
    pub async fn login(&self, username: &str, password: &str) -> Result<Self> {
        let (status, body) = self
            .call(Method::POST, "/api/auth/login", Some(json!({ "username": username, "password": password })))
            .await?;
        ensure!(status == StatusCode::OK, "login of {username}: {status} {body}");
        let token = body["token"].as_str().context("the answer to a login has a token")?.to_owned();
        Ok(Self { token: Some(token), ..self.clone() })
    }

    /// The same client with that token.
    pub fn with_token(&self, token: &str) -> Self {
        secrets::made("a session's token", token.as_bytes());
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Where the API is, without `/api`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The session's token.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// One call: status and body. A body that is neither plain text nor JSON is an error.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            secrets::made_in(path, &body);
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        let is_text =
            answer.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        let text = answer.text().await?;
        if is_text {
            return Ok((status, Value::String(text)));
        }
        let value = serde_json::from_str(&text).with_context(|| format!("{method} {path}: {status}: {text:?}"))?;
        secrets::made_in(path, &value);
        Ok((status, value))
    }

    /// A call that must answer 2xx: its body.
    pub async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, answer) = self.call(method.clone(), path, body).await?;
        if !status.is_success() {
            bail!("{method} {path}: {status} {answer}");
        }
        Ok(answer)
    }

    /// GET that must answer 2xx.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ok(Method::GET, path, None).await
    }

    /// POST that must answer 2xx.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ok(Method::POST, path, Some(body)).await
    }

    /// An action on a virtual machine that must answer 2xx.
    pub async fn action(&self, id: i64, action: &str) -> Result<Value> {
        self.post(&format!("/api/vms/{id}/action"), json!({ "action": action })).await
    }
}
