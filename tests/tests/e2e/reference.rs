//! The REST reference, literally: each request as it is printed there, and the fields of each answer.

use anyhow::{Context, Result, ensure};
use kube::Api;
use kvmoor_crds::User;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::shared::Shared;

/// Fields that an object must have, and whether each is what the reference's interface says.
type Field = (&'static str, fn(&Value) -> bool);

fn positive(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| number > 0)
}

fn time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok())
}

fn uuid(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<uuid::Uuid>().is_ok())
}

const VM: &[Field] = &[
    ("id", positive),
    ("uuid", uuid),
    ("name", Value::is_string),
    ("cpu", positive),
    ("memory", positive),
    ("status", |status| ["Running", "Stopped", "Paused", "Error"].iter().any(|word| status == word)),
    ("owner_id", positive),
    ("created_at", time),
    ("updated_at", time),
];

const USER: &[Field] = &[
    ("id", positive),
    ("uuid", uuid),
    ("username", Value::is_string),
    ("role", |role| role == "admin" || role == "user"),
    ("approved", Value::is_boolean),
    ("created_at", time),
    ("updated_at", time),
];

fn has(value: &Value, fields: &[Field]) -> Result<()> {
    for (name, holds) in fields {
        let field = value.get(name).with_context(|| format!("{name} is missing in {value}"))?;
        ensure!(holds(field), "{name} is not what the reference says in {value}");
    }
    Ok(())
}

fn id(value: &Value) -> Result<i64> {
    value["id"].as_i64().with_context(|| format!("no id in {value}"))
}

async fn status(shared: &Shared, id: i64, expected: &str) -> Result<()> {
    let path = format!("/api/vms/{id}");
    let look = || shared.admin.get(&path);
    wait::until(&format!("VM {id} is {expected}"), SOON, look, |vm: &Value| vm["status"] == expected).await?;
    Ok(())
}

pub async fn users(shared: &Shared) -> Result<()> {
    let nobody = shared.anonymous()?;
    let health = nobody.get("/api/health").await?;
    ensure!(health["status"] == "ok" && health["db"] == "connected", "{health}");

    let account = json!({ "username": "newuser", "password": "password", "email": "user@example.com" });
    let (code, body) = nobody.call(Method::POST, "/api/auth/register", Some(account.clone())).await?;
    ensure!(code == StatusCode::CREATED, "{code} {body}");
    ensure!(body["message"] == "User registered successfully. Waiting for approval.", "{body}");
    let (code, _) = nobody.call(Method::POST, "/api/auth/register", Some(account)).await?;
    ensure!(code == StatusCode::CONFLICT, "the same name a second time: {code}");

    let login = |password: &str| json!({ "username": "newuser", "password": password });
    let (code, _) = nobody.call(Method::POST, "/api/auth/login", Some(login("password"))).await?;
    ensure!(code == StatusCode::FORBIDDEN, "not approved, right password: {code}");
    let (code, _) = nobody.call(Method::POST, "/api/auth/login", Some(login("wrong"))).await?;
    ensure!(code == StatusCode::UNAUTHORIZED, "not approved, wrong password: {code}");

    let listed = || async {
        let users = shared.admin.get("/api/admin/users").await?;
        let found = users.as_array().context("a list")?.iter().find(|user| user["username"] == "newuser").cloned();
        found.context("not listed yet")
    };
    let user = wait::until("the new user is listed", SOON, listed, |_| true).await?;
    has(&user, USER)?;
    ensure!(user["approved"] == false && user["role"] == "user", "{user}");
    let id = id(&user)?;
    let user = shared.admin.ok(Method::PUT, &format!("/api/admin/users/{id}/approve"), None).await?;
    ensure!(user["approved"] == true, "{user}");
    let session = nobody.call(Method::POST, "/api/auth/login", Some(login("password"))).await?.1;
    ensure!(session["user"]["id"] == id && session["user"]["username"] == "newuser", "{session}");
    ensure!(session["user"]["role"] == "user", "{session}");
    let token = session["token"].as_str().context("a token")?;
    ensure!(token.starts_with("eyJ") && token.split('.').count() == 3, "a JWT");
    let newuser = nobody.with_token(token);
    ensure!(newuser.get("/api/vms").await? == json!([]), "a new user has no VM");

    let (code, _) = newuser.call(Method::GET, "/api/admin/users", None).await?;
    ensure!(code == StatusCode::FORBIDDEN, "a user is no admin: {code}");
    let user =
        shared.admin.ok(Method::PUT, &format!("/api/admin/users/{id}/role"), Some(json!({ "role": "admin" }))).await?;
    ensure!(user["role"] == "admin", "{user}");
    let user = shared
        .admin
        .ok(Method::PUT, &format!("/api/admin/users/{id}"), Some(json!({ "username": "updateduser" })))
        .await?;
    ensure!(user["username"] == "updateduser", "{user}");
    has(&shared.admin.get(&format!("/api/admin/users/{id}")).await?, USER)?;
    nobody.login("updateduser", "password").await?;

    let created = json!({ "username": "created", "password": "password", "role": "user" });
    let user = shared.admin.post("/api/admin/users", created).await?;
    has(&user, USER)?;
    ensure!(user["approved"] == true, "an admin's user is approved: {user}");
    nobody.login("created", "password").await?;
    for user in [id, user["id"].as_i64().context("an id")?] {
        let gone = shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{user}"), None).await?;
        ensure!(gone["deleted"] == true && gone["user_id"] == user && time(&gone["timestamp"]), "{gone}");
        ensure!(gone["username"].is_string(), "{gone}");
    }
    let (code, _) = nobody.call(Method::POST, "/api/auth/login", Some(login("password"))).await?;
    ensure!(code == StatusCode::UNAUTHORIZED, "a deleted user: {code}");
    // The name is free again when the user's namespace has gone too.
    let users: Api<User> = Api::all(shared.cluster.client().await?);
    let look = || async { Ok(users.get_opt("newuser").await?.map(|user| user.metadata.finalizers)) };
    wait::until("the deleted user is gone", SOON, look, Option::is_none).await?;
    Ok(())
}

pub async fn virtual_machines(shared: &Shared) -> Result<()> {
    let user = shared.user("reference").await?;
    let other = shared.user("stranger").await?;
    let body = json!({ "name": "My VM", "cpu": 2, "memory": 2048, "os_type": "ubuntu-desktop" });
    let (code, vm) = user.call(Method::POST, "/api/vms", Some(body)).await?;
    ensure!(code == StatusCode::CREATED, "{code} {vm}");
    has(&vm, VM)?;
    ensure!(
        vm["name"] == "My VM" && vm["cpu"] == 2 && vm["memory"] == 2048 && vm["os_type"] == "ubuntu-desktop",
        "{vm}"
    );
    let id = id(&vm)?;
    status(shared, id, "Running").await?;
    let list = user.get("/api/vms").await?;
    has(&list[0], VM)?;
    ensure!(list.as_array().map(Vec::len) == Some(1) && list[0]["id"] == id, "{list}");
    let everybodys = shared.admin.get("/api/vms").await?;
    ensure!(everybodys.as_array().is_some_and(|all| all.iter().any(|vm| vm["id"] == id)), "an admin sees it");
    ensure!(other.get("/api/vms").await? == json!([]), "a stranger does not see it");
    for (method, path) in [(Method::GET, format!("/api/vms/{id}")), (Method::DELETE, format!("/api/vms/{id}"))] {
        let (code, _) = other.call(method, &path, None).await?;
        ensure!(code == StatusCode::NOT_FOUND, "a stranger's {path}: {code}");
    }
    let action = format!("/api/vms/{id}/action");
    let (code, _) = other.call(Method::POST, &action, Some(json!({ "action": "stop" }))).await?;
    ensure!(code == StatusCode::NOT_FOUND, "a stranger's action: {code}");

    has(&user.action(id, "start").await?, VM)?;
    user.action(id, "pause").await?;
    status(shared, id, "Paused").await?;
    user.action(id, "resume").await?;
    status(shared, id, "Running").await?;
    let resized = user.post(&action, json!({ "action": "resize", "cpu": 4, "memory": 4096 })).await?;
    ensure!(resized["cpu"] == 4 && resized["memory"] == 4096, "{resized}");
    user.action(id, "reset").await?;
    user.action(id, "poweroff").await?;
    status(shared, id, "Stopped").await?;
    user.action(id, "stop").await?;
    user.action(id, "start").await?;
    status(shared, id, "Running").await?;
    user.action(id, "restart").await?;
    status(shared, id, "Running").await?;
    let (code, error) = user.call(Method::POST, &action, Some(json!({ "action": "explode" }))).await?;
    ensure!(code == StatusCode::BAD_REQUEST && error["error"] == "Invalid request", "{code} {error}");
    let gone = user.action(id, "delete").await?;
    ensure!(gone["deleted"] == true, "{gone}");
    let look = || async { user.call(Method::GET, &format!("/api/vms/{id}"), None).await };
    wait::until("the VM is gone", SOON, look, |(code, _)| *code == StatusCode::NOT_FOUND).await?;

    let off = user.post("/api/vms", json!({ "name": "off", "cpu": 1, "memory": 32, "start": false })).await?;
    let next = off["id"].as_i64().context("an id")?;
    ensure!(next > id, "ids are not given twice: {id}, then {next}");
    status(shared, next, "Stopped").await?;
    user.ok(Method::DELETE, &format!("/api/vms/{next}"), None).await?;
    Ok(())
}

pub async fn quota(shared: &Shared) -> Result<()> {
    let user = shared.user("measured").await?;
    let new = json!({ "max_vms": 20, "max_cpu": 40, "max_memory": 81920 });
    let answer = shared.admin.ok(Method::PUT, "/api/quota", Some(new)).await?;
    ensure!(answer.is_object(), "{answer}");
    let seen = |quota: &Value| quota["quota"]["max_vms"] == 20;
    let quota = wait::until("the default quota holds for all", SOON, || user.get("/api/quota"), seen).await?;
    ensure!(quota["quota"]["max_cpu"] == 40 && quota["quota"]["max_memory"] == 81920, "{quota}");
    ensure!(positive(&quota["quota"]["id"]) && positive(&quota["quota"]["user_id"]), "{quota}");
    let none = json!({ "vms": 0, "cpu": 0, "memory": 0, "snapshots": 0, "disk": 0 });
    ensure!(quota["usage"] == none && quota["quota"].get("max_disk").is_none(), "{quota}");
    let vm = user.post("/api/vms", json!({ "name": "counted", "cpu": 2, "memory": 64, "start": false })).await?;
    let used = json!({ "vms": 1, "cpu": 2, "memory": 64, "snapshots": 0, "disk": 10240 });
    wait::until("usage counts it", SOON, || user.get("/api/quota"), |quota| quota["usage"] == used).await?;
    let (code, _) =
        user.call(Method::PUT, "/api/quota", Some(json!({ "max_vms": 1, "max_cpu": 1, "max_memory": 1 }))).await?;
    ensure!(code == StatusCode::FORBIDDEN, "a user sets no quota: {code}");
    user.ok(Method::DELETE, &format!("/api/vms/{}", vm["id"]), None).await?;
    let back = json!({ "max_vms": 10, "max_cpu": 20, "max_memory": 40960 });
    shared.admin.ok(Method::PUT, "/api/quota", Some(back)).await?;
    Ok(())
}

pub async fn errors(shared: &Shared) -> Result<()> {
    let (admin, nobody) = (&shared.admin, shared.anonymous()?);
    let cases = [
        (&nobody, Method::GET, "/api/vms", None, 401, "Unauthorized"),
        (admin, Method::GET, "/api/vms/999999999", None, 404, "Not Found"),
        (admin, Method::GET, "/api/vms/zero", None, 404, "Not Found"),
        (admin, Method::GET, "/api/nothing/here", None, 404, "Not Found"),
        (admin, Method::POST, "/api/vms", Some(json!({ "name": "x", "cpu": 0, "memory": 64 })), 400, "Invalid request"),
        (
            admin,
            Method::POST,
            "/api/vms",
            Some(json!({ "name": "x", "cpu": "1", "memory": 64 })),
            400,
            "Invalid request",
        ),
        (admin, Method::POST, "/api/vms", Some(json!([])), 400, "Invalid request"),
    ];
    for (session, method, path, body, code, error) in cases {
        let (status, answer) = session.call(method.clone(), path, body).await?;
        ensure!(status.as_u16() == code && answer["error"] == error, "{method} {path}: {status} {answer}");
        ensure!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    }
    let zero = json!({ "name": "x", "cpu": 0, "memory": 64 });
    let (_, answer) = admin.call(Method::POST, "/api/vms", Some(zero)).await?;
    ensure!(answer["message"] == "CPU must be greater than 0", "{answer}");
    let (_, answer) = nobody.with_token("x.y.z").call(Method::GET, "/api/vms", None).await?;
    ensure!(answer["message"] == "Invalid or expired token", "{answer}");
    let user = shared.user("errors").await?;
    let (_, answer) = user.call(Method::GET, "/api/admin/users", None).await?;
    ensure!(answer["message"] == "Admin access required", "{answer}");
    let (_, answer) = admin.call(Method::GET, "/api/vms/999999999", None).await?;
    ensure!(answer["message"] == "VM not found", "{answer}");
    Ok(())
}

pub async fn document(shared: &Shared) -> Result<()> {
    let document = shared.anonymous()?.get("/api/openapi.json").await?;
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "OpenAPI 3.1");
    let paths = document["paths"].as_object().context("paths")?;
    for path in [
        "/api/health",
        "/api/auth/login",
        "/api/vms",
        "/api/vms/{id}/action",
        "/api/quota",
        "/api/admin/users/{id}/role",
    ] {
        ensure!(paths.contains_key(path), "{path} is not in the document: {:?}", paths.keys().collect::<Vec<_>>());
    }
    let swagger = reqwest::get(format!("{}/swagger", shared.cluster.api_url())).await?;
    ensure!(swagger.status().is_success() && swagger.text().await?.to_lowercase().contains("swagger"), "Swagger UI");
    Ok(())
}
