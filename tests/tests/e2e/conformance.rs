//! The API's reference as data in `tests/reference`, against the running server: every request is sent as it is printed,
//! and every answer must have the shape that is written there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use kvmoor_tests::rest::Rest;
use kvmoor_tests::shape::{self, Interfaces};
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::shared::Shared;

/// Endpoints of the reference, the two WebSockets among them. Leaving one out of the data is no way to pass.
const ENDPOINTS: usize = 22;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requests {
    pending: BTreeSet<String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    step: String,
    r#as: Actor,
    request: String,
    body: Option<Value>,
    status: Option<u16>,
    socket: Option<Socket>,
    answer: Option<Value>,
    #[serde(default)]
    save: BTreeMap<String, String>,
    until: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Actor {
    Nobody,
    User,
    Admin,
    Stale,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Socket {
    Text,
    Binary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definitions {
    pending: BTreeSet<String>,
    interfaces: Interfaces,
}

fn requests() -> Result<Requests> {
    Ok(serde_yaml::from_str(include_str!("../../reference/requests.yaml"))?)
}

fn definitions() -> Result<Definitions> {
    Ok(serde_yaml::from_str(include_str!("../../reference/interfaces.yaml"))?)
}

impl Step {
    fn method_and_path(&self) -> Result<(Method, &str)> {
        let (method, path) = self.request.split_once(' ').context("method and path")?;
        Ok((method.parse()?, path))
    }

    /// Method and path without values, as the document has them but for the names of parameters.
    fn endpoint(&self) -> Result<String> {
        let (method, path) = self.method_and_path()?;
        let path = path.split('?').next().unwrap_or_default().replace("999999999", "{}");
        Ok(nameless(&format!("{method} {path}")))
    }
}

/// Without the names of path parameters.
fn nameless(endpoint: &str) -> String {
    let mut parts = endpoint.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "{}" + part.split_once('}').map_or("", |(_, rest)| rest))
}

fn filled(text: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let filled = values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
    ensure!(!filled.contains('{'), "a value is missing: {filled}");
    Ok(filled)
}

fn filled_body(body: &Value, values: &BTreeMap<String, String>) -> Result<Value> {
    let Value::Object(fields) = body else { return Ok(body.clone()) };
    let fields = fields.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => Value::String(filled(text, values)?),
            other => other.clone(),
        };
        Ok((name.clone(), value))
    });
    fields.collect()
}

pub async fn every_request(shared: &Shared) -> Result<()> {
    let Requests { pending, steps } = requests()?;
    let interfaces = definitions()?.interfaces;
    let user = shared.user("conformance").await?;
    let (nobody, stale) = (shared.anonymous()?, shared.anonymous()?.with_token("x.y.z"));
    let account = shared.cluster.admin();
    let mut values = BTreeMap::from([
        ("admin_username".to_owned(), account.username.clone()),
        ("admin_password".to_owned(), account.password.clone()),
        ("token".to_owned(), user.token().context("a token")?.to_owned()),
    ]);
    let known: BTreeSet<_> = steps.iter().map(|step| step.step.clone()).collect();
    ensure!(pending.is_subset(&known), "pending steps must be steps: {:?}", pending.difference(&known));
    for step in &steps {
        let session = match step.r#as {
            Actor::Nobody => &nobody,
            Actor::User => &user,
            Actor::Admin => &shared.admin,
            Actor::Stale => &stale,
        };
        let outcome = if pending.contains(&step.step) {
            still_pending(step, session, &values).await
        } else {
            make(step, session, &interfaces, &mut values).await
        };
        outcome.with_context(|| format!("step {:?}: {}", step.step, step.request))?;
    }
    if !pending.is_empty() {
        println!("not there yet: {}", pending.into_iter().collect::<Vec<_>>().join(", "));
    }
    let users = shared.admin.get("/api/admin/users").await?;
    for user in users.as_array().context("a list")? {
        let of_this = ["newuser", "conformance"].iter().any(|name| user["username"] == *name);
        if of_this {
            let path = format!("/api/admin/users/{}?force=true", user["id"]);
            shared.admin.ok(Method::DELETE, &path, None).await?;
        }
    }
    Ok(())
}

async fn make(
    step: &Step,
    session: &Rest,
    interfaces: &Interfaces,
    values: &mut BTreeMap<String, String>,
) -> Result<()> {
    let (method, path) = step.method_and_path()?;
    let path = filled(path, values)?;
    let answer = match step.socket {
        Some(socket) => first_message(session.base(), &path, socket).await?,
        None => {
            let body = step.body.as_ref().map(|body| filled_body(body, values)).transpose()?;
            let (status, answer) = session.call(method, &path, body).await?;
            ensure!(Some(status.as_u16()) == step.status, "{status} {answer}");
            answer
        }
    };
    if let Some(shape) = &step.answer {
        shape::check(&answer, shape, interfaces).with_context(|| answer.to_string())?;
    }
    for (name, field) in &step.save {
        values.insert(name.clone(), answer.get(field).context("a value to save")?.to_string());
    }
    if let Some(expected) = &step.until {
        let path = filled("/api/vms/{vm}", values)?;
        wait::until(expected, SOON, || session.get(&path), |vm: &Value| vm["status"] == *expected).await?;
    }
    Ok(())
}

/// Checks that the endpoint is not there.
async fn still_pending(step: &Step, session: &Rest, values: &BTreeMap<String, String>) -> Result<()> {
    let (method, path) = step.method_and_path()?;
    let mut values = values.clone();
    values.entry("snapshot".to_owned()).or_insert_with(|| "1".to_owned());
    let (status, answer) = session.call(method, &filled(path, &values)?, step.body.clone()).await?;
    let missing = status.as_u16() == 404 && answer["message"] == "Endpoint not found";
    let missing = missing || status.as_u16() == 405;
    ensure!(missing, "it is there now ({status} {answer}): take it out of `pending`");
    Ok(())
}

/// The first message of a WebSocket: JSON, or a text that says what binary it is.
async fn first_message(base: &str, path: &str, socket: Socket) -> Result<Value> {
    let mut request = format!("{}{path}", base.replacen("http", "ws", 1)).into_client_request()?;
    if matches!(socket, Socket::Binary) {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("binary"));
    }
    let mut stream = match tokio_tungstenite::connect_async(request).await {
        Ok((stream, _)) => stream,
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            bail!("refused: {} {body}", response.status());
        }
        Err(error) => return Err(error.into()),
    };
    loop {
        let message = tokio::time::timeout(SOON, stream.next()).await.context("no message in time")?;
        match (message.context("it ended")??, socket) {
            (Message::Text(text), Socket::Text) => return Ok(serde_json::from_str(&text)?),
            (Message::Binary(bytes), Socket::Binary) => {
                ensure!(bytes.starts_with(b"RFB "), "no RFB: {bytes:?}");
                return Ok(json!("RFB"));
            }
            (Message::Ping(_), _) => {}
            (other, _) => bail!("not expected: {other:?}"),
        }
    }
}

pub async fn the_document_has_every_request(shared: &Shared) -> Result<()> {
    let Requests { pending, steps } = requests()?;
    let document = shared.anonymous()?.get("/api/openapi.json").await?;
    let mut served = BTreeSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        let methods = item.as_object().context("an item")?.keys();
        served.extend(methods.map(|method| nameless(&format!("{} {path}", method.to_uppercase()))));
    }
    let endpoints: BTreeSet<_> = steps.iter().map(Step::endpoint).collect::<Result<_>>()?;
    ensure!(endpoints.len() == ENDPOINTS, "{} endpoints instead of {ENDPOINTS}: {endpoints:?}", endpoints.len());
    for step in steps.iter().filter(|step| !pending.contains(&step.step)) {
        let endpoint = step.endpoint()?;
        ensure!(served.contains(&endpoint), "{endpoint} is not in the document");
    }
    Ok(())
}

pub async fn the_document_has_the_interfaces(shared: &Shared) -> Result<()> {
    let Definitions { pending, interfaces } = definitions()?;
    let document = shared.anonymous()?.get("/api/openapi.json").await?;
    for (name, shape) in &interfaces {
        let schema = document["components"]["schemas"].get(name);
        if pending.contains(name) {
            ensure!(schema.is_none(), "{name} is in the document now: take it out of `pending`");
            println!("not in the document yet: {name}");
            continue;
        }
        let schema = schema.with_context(|| format!("{name} is not in the document"))?;
        shape::check_schema(schema, shape, &document).with_context(|| name.clone())?;
    }
    Ok(())
}
