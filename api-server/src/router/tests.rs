//! Requests that need no Kubernetes: errors, limits, sessions, and that the document has every route.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use jiff::Timestamp;
use kube::{Client, Config};
use kvmoor_crds::User;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::app::App;
use crate::auth::token::{Keyring, test_keyring};
use crate::error::ErrorBody;
use crate::store::Stores;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A server whose Kubernetes API refuses connections and whose caches hold `users`.
fn server(users: Vec<User>) -> Arc<App> {
    let config = Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(config).unwrap();
    let app = App::new(client, "kvmoor-system".into(), Stores::with_users(users)).unwrap();
    app.keys.replace(test_keyring(KEY));
    Arc::new(app)
}

fn user(uid: &str, id: i64, spec: Value) -> User {
    let mut spec = spec;
    spec["username"] = json!(uid);
    serde_json::from_value(json!({
        "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User", "metadata": { "name": uid, "uid": uid },
        "spec": spec, "status": { "id": id, "namespace": format!("kvmoor-user-{uid}") },
    }))
    .unwrap()
}

fn everybody() -> Vec<User> {
    vec![
        user("admin", 1, json!({ "role": "admin", "approved": true })),
        user("user", 2, json!({ "approved": true, "sessionEpoch": 5 })),
        user("pending", 3, json!({ "approved": false })),
    ]
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn error(&self) -> ErrorBody {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn send(app: &Arc<App>, request: Request<Body>) -> Answer {
    let response = router(app.clone()).unwrap().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 16 << 20).await.unwrap();
    assert!(parts.headers.contains_key("x-request-id"));
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

fn request(method: Method, path: &str, token: Option<&str>, body: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    request.body(body.map_or_else(Body::empty, |text| Body::from(text.to_owned()))).unwrap()
}

fn token(uid: &str, epoch: i64) -> String {
    test_keyring(KEY).sign(uid, epoch, Timestamp::now()).unwrap()
}

/// Path, method and whether a session is needed, of every operation in the document.
fn operations() -> Vec<(String, Method, bool)> {
    let document = serde_json::to_value(api().1).unwrap();
    let mut all = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            all.push((path.replace("{id}", "1"), method, operation.get("security").is_some()));
        }
    }
    all
}

#[test]
fn every_handler_is_in_the_document() {
    // A route that is not added by `routes!` is not in the document, and a handler that nobody adds is not served.
    let (expected, documented) = (handlers("src/routes"), operations().len());
    assert_eq!(documented, expected, "every #[utoipa::path] under src/routes must be in the table of router.rs");
    let table = include_str!("../router.rs");
    assert_eq!(table.matches(".route(").count(), 1, "only the document itself is served without being in it");
}

#[tokio::test(start_paused = true)]
async fn uploads_alone_may_take_long() {
    let slow = || async { tokio::time::sleep(middleware::HANDLER * 2).await };
    let slow = || axum::routing::put(slow);
    let routes = Router::new().route(middleware::UPLOAD, slow()).route("/api/other", slow());
    let routes = routes.layer(layer::from_fn(middleware::deadline));
    for (path, status) in [("/api/images/x/content", StatusCode::OK), ("/api/other", StatusCode::SERVICE_UNAVAILABLE)] {
        let answer = routes.clone().oneshot(request(Method::PUT, path, None, None)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let document = serde_json::to_value(api().1).unwrap();
    let body = &document["paths"][middleware::UPLOAD]["put"]["requestBody"]["content"]["application/octet-stream"];
    assert_eq!(body["schema"], json!({ "type": "string", "format": "binary" }));
}

fn handlers(folder: &str) -> usize {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => handlers(path.to_str().unwrap()),
        false => std::fs::read_to_string(path).unwrap().matches("#[utoipa::path(").count(),
    };
    std::fs::read_dir(folder).unwrap().map(|entry| count(entry.unwrap().path())).sum()
}

#[test]
fn the_document_has_the_references_endpoints() {
    let served: BTreeSet<_> = operations().into_iter().map(|(path, method, _)| format!("{method} {path}")).collect();
    let reference = [
        "GET /api/health",
        "POST /api/auth/login",
        "POST /api/auth/register",
        "GET /api/vms",
        "POST /api/vms",
        "POST /api/vms/1/action",
        "GET /api/vms/1/snapshots",
        "POST /api/vms/1/snapshots",
        "POST /api/snapshots/1/restore",
        "DELETE /api/snapshots/1",
        "GET /api/quota",
        "PUT /api/quota",
        "GET /api/admin/users",
        "POST /api/admin/users",
        "GET /api/admin/users/1",
        "PUT /api/admin/users/1",
        "DELETE /api/admin/users/1",
        "PUT /api/admin/users/1/role",
        "PUT /api/admin/users/1/approve",
    ];
    for endpoint in reference {
        assert!(served.contains(endpoint), "{endpoint} is not served");
    }
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_names_every_error() {
    let app = server(vec![]);
    let answer = send(&app, request(Method::GET, "/api/openapi.json", None, None)).await;
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let post = &document["paths"]["/api/vms"]["post"]["responses"];
    for code in ["201", "400", "401", "403", "413", "415", "500", "503"] {
        assert!(post.get(code).is_some(), "{code}");
    }
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    let ui = send(&app, request(Method::GET, "/swagger/", None, None)).await;
    assert!(ui.body.contains("swagger-ui"));
}

#[tokio::test]
async fn nothing_but_the_public_is_served_without_a_session() {
    let app = server(everybody());
    // May only shrink.
    let public = ["/api/health", "/api/ready", "/api/auth/login", "/api/auth/register"];
    for (path, method, protected) in operations() {
        assert_eq!(protected, !public.contains(&path.as_str()), "{method} {path}");
        if !protected {
            continue;
        }
        let answer = send(&app, request(method.clone(), &path, None, Some("{}"))).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(answer.error().error, "Unauthorized");
        let stale = send(&app, request(method.clone(), &path, Some(&token("user", 4)), Some("{}"))).await;
        assert_eq!(stale.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(stale.error().message, "Invalid or expired token");
    }
}

#[tokio::test]
async fn sessions_end_with_epoch_approval_and_user() {
    let app = server(everybody());
    let me = |uid: &'static str, epoch| {
        let app = app.clone();
        async move { send(&app, request(Method::GET, "/api/auth/me", Some(&token(uid, epoch)), None)).await }
    };
    let answer = me("user", 5).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&body["id"], &body["username"], &body["role"]), (&json!(2), &json!("user"), &json!("user")));
    for (uid, epoch) in [("user", 4), ("user", 6), ("pending", 0), ("nobody", 0)] {
        assert_eq!(me(uid, epoch).await.status, StatusCode::UNAUTHORIZED, "{uid} {epoch}");
    }
}

#[tokio::test]
async fn foreign_tokens_are_refused() {
    let app = server(everybody());
    let other_key = test_keyring(b"another key of thirty-two bytes!!").sign("admin", 0, Timestamp::now()).unwrap();
    let good = token("admin", 0);
    let (_, rest) = good.split_once('.').unwrap();
    let none = format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}");
    for forged in [other_key.as_str(), none.as_str(), "", "x", &good[..good.len() - 1]] {
        let answer = send(&app, request(Method::GET, "/api/vms", Some(forged), None)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{forged}");
        assert_eq!(answer.error().message, "Invalid or expired token");
    }
    let mut basic = request(Method::GET, "/api/vms", None, None);
    basic.headers_mut().insert("authorization", format!("Basic {good}").parse().unwrap());
    assert_eq!(send(&app, basic).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn users_are_not_admins() {
    let app = server(everybody());
    for (path, method, _) in
        operations().into_iter().filter(|(path, ..)| path.contains("/admin/") || path == "/api/hosts")
    {
        let answer = send(&app, request(method.clone(), &path, Some(&token("user", 5)), Some("{}"))).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        assert_eq!(answer.error().message, "Admin access required");
    }
    let body = r#"{"max_vms": 20, "max_cpu": 40, "max_memory": 81920}"#;
    let answer = send(&app, request(Method::PUT, "/api/quota", Some(&token("user", 5)), Some(body))).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn closed_until_the_cluster_and_the_keys_were_read() {
    let app = server(everybody());
    app.keys.replace(Keyring::default());
    let answer = send(&app, request(Method::GET, "/api/vms", Some(&token("admin", 0)), None)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);

    let config = Config::new("http://127.0.0.1:1".parse().unwrap());
    let unsynced = App::new(Client::try_from(config).unwrap(), "kvmoor-system".into(), Stores::default()).unwrap();
    unsynced.keys.replace(test_keyring(KEY));
    let unsynced = Arc::new(unsynced);
    for path in ["/api/vms", "/api/ready"] {
        let answer = send(&unsynced, request(Method::GET, path, Some(&token("admin", 0)), None)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.headers["retry-after"], "1");
    }
}

#[tokio::test]
async fn health_tells_that_kubernetes_is_away() {
    let answer = send(&server(vec![]), request(Method::GET, "/api/health", None, None)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body, json!({ "status": "error", "db": "disconnected" }));
}

#[tokio::test]
async fn every_error_has_the_one_shape() {
    let app = server(everybody());
    let admin = token("admin", 0);
    let cases = [
        (Method::GET, "/", None, 404, "Not Found", "Endpoint not found"),
        (Method::GET, "/api/nothing", None, 404, "Not Found", "Endpoint not found"),
        (Method::GET, "/api/vms/1", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/vms/0", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/vms/-1", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/vms/+1", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/vms/99999999999999999999", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/vms/%ff", None, 404, "Not Found", "VM not found"),
        (Method::GET, "/api/snapshots/1", None, 404, "Not Found", "Snapshot not found"),
        (Method::GET, "/api/admin/users/77", None, 404, "Not Found", "User not found"),
        (Method::PATCH, "/api/vms", None, 405, "Method Not Allowed", "This endpoint does not take that method"),
        (
            Method::DELETE,
            "/api/openapi.json",
            None,
            405,
            "Method Not Allowed",
            "This endpoint does not take that method",
        ),
        (
            Method::POST,
            "/api/vms",
            Some(r#"{"name":"My VM","cpu":0,"memory":2048,"os_type":"ubuntu-desktop"}"#),
            400,
            "Invalid request",
            "CPU must be greater than 0",
        ),
    ];
    for (method, path, body, status, error, message) in cases {
        let answer = send(&app, request(method.clone(), path, Some(&admin), body)).await;
        let expected = ErrorBody { error: error.into(), message: message.into() };
        assert_eq!((answer.status.as_u16(), answer.error()), (status, expected), "{method} {path}");
    }
    let answer = send(&app, request(Method::PATCH, "/api/vms", None, None)).await;
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
}

#[tokio::test]
async fn wrong_bodies_are_400_never_422() {
    let app = server(everybody());
    let admin = token("admin", 0);
    for body in ["", "{", "[]", "null", "3", r#"{"name":1}"#, r#"{"name":"x","cpu":1,"memory":64,"owner":1}"#] {
        let answer = send(&app, request(Method::POST, "/api/vms", Some(&admin), Some(body))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.error().error, "Invalid request");
    }
    let force = "/api/admin/users/2?force=perhaps";
    assert_eq!(send(&app, request(Method::DELETE, force, Some(&admin), None)).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn bodies_have_a_type_and_a_size() {
    let app = server(everybody());
    let login = |body: String, content_type: &'static str| {
        let app = app.clone();
        let request =
            Request::post("/api/auth/login").header("content-type", content_type).body(Body::from(body)).unwrap();
        async move { send(&app, request).await }
    };
    let answer = login("username=admin".into(), "application/x-www-form-urlencoded").await;
    assert_eq!((answer.status.as_u16(), answer.error().error.as_str()), (415, "Unsupported Media Type"));
    let large = format!(r#"{{"username":"{}","password":"x"}}"#, "x".repeat(1 << 20));
    let answer = login(large, "application/json").await;
    assert_eq!((answer.status.as_u16(), answer.error().error.as_str()), (413, "Payload Too Large"));
}

#[tokio::test]
async fn request_ids_are_kept_if_they_are_sane() {
    let app = server(vec![]);
    let with_id = |id: &str| Request::get("/api/nothing").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(send(&app, with_id("abc-1.2_3")).await.headers["x-request-id"], "abc-1.2_3");
    for odd in ["a b", "x\u{e4}", &"x".repeat(129), "{}"] {
        assert_ne!(send(&app, with_id(odd)).await.headers["x-request-id"].as_bytes(), odd.as_bytes());
    }
}

#[tokio::test]
async fn panics_are_500_and_tell_nothing() {
    let response = crate::middleware::panicked(Box::new("secret of the handler"));
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
    assert!(!String::from_utf8(bytes.to_vec()).unwrap().contains("secret"));
}

#[tokio::test]
async fn web_sockets_are_refused_before_the_upgrade() {
    let app = server(everybody());
    let open = |query: String, origin: Option<&'static str>| {
        let app = app.clone();
        let mut request = request(Method::GET, &format!("/ws/vm-status{query}"), None, None);
        request.headers_mut().insert("host", "localhost:18443".parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        async move { send(&app, request).await }
    };
    let user = token("user", 5);
    let now = Timestamp::now();
    let ticket = |epoch, vm| test_keyring(KEY).sign_ticket("user", epoch, now.as_second() + 60, vm, now).unwrap();
    let cases = [
        (String::new(), None, 401, "token=<token> or ticket=<ticket> is required"),
        ("?token=x".to_owned(), None, 401, "Invalid or expired token"),
        (format!("?token={}", token("user", 4)), None, 401, "Invalid or expired token"),
        (format!("?token={}", ticket(5, "")), None, 401, "Invalid or expired token"),
        (format!("?ticket={user}"), None, 401, "Invalid or expired token"),
        (format!("?ticket={}", ticket(4, "")), None, 401, "Invalid or expired token"),
        (format!("?ticket={}", ticket(5, "a-vm")), None, 401, "The ticket is for something else"),
        (format!("?token={user}&vm_id=1"), None, 404, "VM not found"),
        (format!("?token={user}&vm_id=+1"), None, 404, "VM not found"),
        (format!("?token={user}&vm_id="), None, 404, "VM not found"),
        (format!("?token={user}"), Some("http://evil.example"), 403, "Pages of this origin may not connect"),
    ];
    for (query, origin, status, message) in cases {
        let answer = open(query.clone(), origin).await;
        assert_eq!((answer.status.as_u16(), answer.error().message.as_str()), (status, message), "{query}");
    }
    // In order but for the upgrade itself.
    for query in [format!("?token={user}"), format!("?ticket={}", ticket(5, ""))] {
        let answer = open(query, Some("http://localhost:18443")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.error().message.starts_with("This endpoint takes WebSockets only"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_answers_and_says_that_others_are_to_be_asked() {
    let app = server(everybody());
    let ask = async |path: &str| send(&app, request(Method::GET, path, Some(&token("admin", 0)), None)).await;
    assert!(!ask("/api/auth/me").await.headers.contains_key("connection"));
    app.drain.cancel();
    assert_eq!(ask("/api/ready").await.error().message, "The server is being stopped");
    let answer = ask("/api/auth/me").await;
    assert_eq!((answer.status, &answer.headers["connection"]), (StatusCode::OK, &"close".parse().unwrap()));
}
