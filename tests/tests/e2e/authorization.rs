//! Who may call what: every operation of the OpenAPI document, by everybody.
//!
//! What is expected stands in one table; an operation that is not in it fails the case, so a new one cannot be forgotten.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kvmoor_crds::{User, names};
use kvmoor_tests::rest::Rest;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::{token, wait};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::shared::Shared;

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everybody.
    Public,
    /// Everybody with a session.
    Session,
    /// The owner of the virtual machine in the path, or of the snapshot's, and admins. For others it is not there.
    Vm,
    /// Admins.
    Admin,
}

/// By `operationId`.
const OPERATIONS: &[(&str, Access)] = &[
    ("health", Access::Public),
    ("ready", Access::Public),
    ("login", Access::Public),
    ("register", Access::Public),
    ("me", Access::Session),
    ("logout", Access::Session),
    ("change_password", Access::Session),
    ("get_ssh_keys", Access::Session),
    ("set_ssh_keys", Access::Session),
    ("create_feed_ticket", Access::Session),
    ("list_vms", Access::Session),
    ("create_vm", Access::Session),
    ("get_quota", Access::Session),
    ("list_images", Access::Session),
    ("list_classes", Access::Session),
    ("follow_vms", Access::Session),
    ("get_vm", Access::Vm),
    ("delete_vm", Access::Vm),
    ("act_on_vm", Access::Vm),
    ("clone_vm", Access::Vm),
    ("attach_disk", Access::Vm),
    ("grow_disk", Access::Vm),
    ("detach_disk", Access::Vm),
    ("list_vm_events", Access::Vm),
    ("create_console_ticket", Access::Vm),
    ("get_vm_stats", Access::Vm),
    ("get_vm_log", Access::Vm),
    ("open_console", Access::Vm),
    ("open_serial_console", Access::Vm),
    ("list_snapshots", Access::Vm),
    ("create_snapshot", Access::Vm),
    ("get_snapshot", Access::Vm),
    ("delete_snapshot", Access::Vm),
    ("restore_snapshot", Access::Vm),
    ("set_quota", Access::Admin),
    ("create_image", Access::Admin),
    ("upload_image", Access::Admin),
    ("delete_image", Access::Admin),
    ("list_hosts", Access::Admin),
    ("list_users", Access::Admin),
    ("create_user", Access::Admin),
    ("get_user", Access::Admin),
    ("update_user", Access::Admin),
    ("delete_user", Access::Admin),
    ("set_role", Access::Admin),
    ("approve_user", Access::Admin),
];

/// Those who call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Pending,
    Deleted,
    Expired,
    Owner,
    Other,
    Admin,
}

const EVERYBODY: [Who; 7] = [Who::Nobody, Who::Pending, Who::Deleted, Who::Expired, Who::Owner, Who::Other, Who::Admin];

/// What must come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Refused(u16),
    /// Neither 401 nor 403 nor 404. It may well be 400: the body that is sent is empty, so that little is changed.
    LetIn,
}

fn expected(access: Access, who: Who) -> Outcome {
    match (access, who) {
        (Access::Public, _) => Outcome::LetIn,
        (_, Who::Nobody | Who::Pending | Who::Deleted | Who::Expired) => Outcome::Refused(401),
        (Access::Vm, Who::Other) => Outcome::Refused(404),
        (Access::Admin, Who::Owner | Who::Other) => Outcome::Refused(403),
        (Access::Session | Access::Vm | Access::Admin, Who::Owner | Who::Other | Who::Admin) => Outcome::LetIn,
    }
}

/// Sessions of everybody, and what the paths name.
struct World<'a> {
    shared: &'a Shared,
    pending: Rest,
    deleted: Rest,
}

/// The operations that name a virtual machine in their query string.
const CONSOLES: [&str; 2] = ["/ws/vnc", "/ws/serial"];
const OWNER: &str = "matrix-owner";
const OTHER: &str = "matrix-other";
/// The disk of its virtual machine.
const DISK: &str = "data";
const PENDING: &str = "matrix-pending";

impl<'a> World<'a> {
    async fn build(shared: &'a Shared) -> Result<Self> {
        shared.user(OWNER).await?;
        shared.user(OTHER).await?;
        let deleted = shared.user("matrix-deleted").await?;
        let id = deleted.get("/api/auth/me").await?["id"].clone();
        shared.admin.ok(Method::DELETE, &format!("/api/admin/users/{id}"), None).await?;
        let account = json!({ "username": PENDING, "password": "password" });
        shared.anonymous()?.post("/api/auth/register", account).await?;
        // No login gives a token to one who is not approved.
        let pending = token_of(shared, PENDING, 3600).await?;
        Ok(Self { shared, pending, deleted })
    }

    /// A session of its own for each call, since some calls end all of a user's.
    async fn session(&self, who: Who) -> Result<Rest> {
        match who {
            Who::Nobody => self.shared.anonymous(),
            Who::Pending => Ok(self.pending.clone()),
            Who::Deleted => Ok(self.deleted.clone()),
            Who::Expired => token_of(self.shared, OWNER, -60).await,
            Who::Owner => token_of(self.shared, OWNER, 3600).await,
            Who::Other => token_of(self.shared, OTHER, 3600).await,
            // Not the first admin, whose sessions the other cases use.
            Who::Admin => token_of(self.shared, "matrix-admin", 3600).await,
        }
    }

    /// The number of a new virtual machine of the owner.
    async fn vm(&self) -> Result<Value> {
        let body =
            json!({ "name": "matrix", "cpu": 1, "memory": 32, "start": false, "disks": [{ "name": DISK, "size": 1 }] });
        Ok(token_of(self.shared, OWNER, 3600).await?.post("/api/vms", body).await?["id"].clone())
    }

    /// The path with the number or name of something that is there: a virtual machine or a snapshot of the owner, a user,
    /// or an image.
    async fn path(&self, template: &str) -> Result<String> {
        let id = if template.starts_with("/api/vms/{") || CONSOLES.contains(&template) {
            self.vm().await?
        } else if template.starts_with("/api/snapshots/{") {
            let owner = token_of(self.shared, OWNER, 3600).await?;
            let path = format!("/api/vms/{}/snapshots", self.vm().await?);
            owner.post(&path, json!({ "name": "matrix" })).await?["id"].clone()
        } else if template.starts_with("/api/admin/users/{") {
            let name = format!("matrix-{}", uuid::Uuid::new_v4());
            let body = json!({ "username": name, "password": "password" });
            self.shared.admin.post("/api/admin/users", body).await?["id"].clone()
        } else if template.starts_with("/api/images/{") {
            let body = json!({ "name": format!("matrix-{}", uuid::Uuid::new_v4()), "sha256": "0".repeat(64) });
            self.shared.admin.post("/api/images", body).await?["name"].clone()
        } else {
            Value::Null
        };
        let console = CONSOLES.contains(&template);
        let name = id.as_str().unwrap_or_default();
        Ok(if console {
            format!("{template}?id={id}")
        } else {
            template.replace("{id}", &id.to_string()).replace("{disk}", DISK).replace("{name}", name)
        })
    }

    /// Removes what a path named; virtual machines of snapshots go with their owner.
    async fn forget(&self, path: &str) -> Result<()> {
        let path =
            CONSOLES.iter().fold(path.to_owned(), |path, console| path.replace(&format!("{console}?id="), "/api/vms/"));
        let mut parts = path.trim_start_matches("/api/").trim_start_matches("admin/").split('/');
        if let (Some(kind @ ("vms" | "users" | "images")), Some(id)) = (parts.next(), parts.next()) {
            let path = if kind == "users" { format!("/api/admin/users/{id}") } else { format!("/api/{kind}/{id}") };
            let (status, answer) = self.shared.admin.call(Method::DELETE, &path, None).await?;
            ensure!(status.is_success() || status == StatusCode::NOT_FOUND, "{path}: {status} {answer}");
        }
        Ok(())
    }
}

async fn token_of(shared: &Shared, username: &str, seconds: i64) -> Result<Rest> {
    let users: Api<User> = Api::all(shared.cluster.client().await?);
    let look = || async { Ok(users.get(&names::user_object(username)).await?) };
    let numbered = |user: &User| user.status.as_ref().is_some_and(|status| status.id.is_some());
    let user = wait::until("the user has a number", SOON, look, numbered).await?;
    let uid = user.metadata.uid.context("a UID")?;
    let token = token::ending_in(&shared.cluster, &uid, user.spec.session_epoch, seconds).await?;
    Ok(shared.anonymous()?.with_token(&token))
}

pub async fn every_operation_by_everybody(shared: &Shared) -> Result<()> {
    let admin = json!({ "username": "matrix-admin", "password": "password", "role": "admin" });
    shared.admin.post("/api/admin/users", admin).await?;
    let world = World::build(shared).await?;
    let access: BTreeMap<_, _> = OPERATIONS.iter().copied().collect();
    let document = shared.anonymous()?.get("/api/openapi.json").await?;
    let mut faults = Vec::new();
    let mut calls = 0;
    for (template, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("an item")? {
            let id = operation["operationId"].as_str().context("an operationId")?;
            let Some(access) = access.get(id) else {
                faults.push(format!("{id} is not in the table"));
                continue;
            };
            let documented = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
            if documented == (*access == Access::Public) {
                faults.push(format!("{id}: `security` of the document does not say {access:?}"));
            }
            let method: Method = method.to_uppercase().parse()?;
            let mut path = world.path(template).await?;
            for who in EVERYBODY {
                let session = world.session(who).await?;
                let body = operation.get("requestBody").map(|_| json!({}));
                let (status, answer) = session.call(method.clone(), &path, body).await?;
                calls += 1;
                let expected = expected(*access, who);
                let right = match expected {
                    Outcome::Refused(code) => status.as_u16() == code,
                    Outcome::LetIn => !matches!(status.as_u16(), 401 | 403 | 404 | 500..),
                };
                if !right {
                    faults.push(format!("{id} by {who:?}: {status} {answer}, expected {expected:?}"));
                }
                // What one deleted is not there for the next.
                if method == Method::DELETE && expected == Outcome::LetIn {
                    path = world.path(template).await?;
                }
            }
            world.forget(&path).await?;
        }
    }
    let users = shared.admin.get("/api/admin/users").await?;
    for user in users.as_array().context("a list")? {
        if user["username"].as_str().is_some_and(|name| name.starts_with("matrix-")) {
            let path = format!("/api/admin/users/{}?force=true", user["id"]);
            shared.admin.ok(Method::DELETE, &path, None).await?;
        }
    }
    ensure!(faults.is_empty(), "{} of {calls} calls:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}
