//! Users: ids, a namespace with rights for each, and the first admin.
//!
//! Users are few and change rarely, so one after another is brought to what it should be, each with a back-off of its
//! own.

mod admin;
mod password;
mod perform;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use kvmoor_crds::{SecretReference, User, UserRole, UserSpec, names};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::admin::{Action, Credentials};
use self::password::Present;
use self::perform::{Outcome, Place, perform};
use self::plan::{Facts, plan};
use crate::cluster::backoff::Backoff;
use crate::cluster::ids;
use crate::cluster::mirror::{Change, Mirror, changes};
use crate::cluster::writer::{WriteError, Writer};

/// After so long a turn is broken off to hear what is new: many users may have to be settled.
const TURN: Duration = Duration::from_millis(200);
/// How long to wait when ids cannot be reserved.
const IDS_RETRY: Duration = Duration::from_millis(500);
/// How often to look whether a deleted user's virtual machines are gone, beside being told.
const VMS_LEFT_RETRY: Duration = Duration::from_secs(30);
/// Key of the admin's back-off.
const ADMIN: &str = "first-admin";

/// What the loop works with.
pub struct Context {
    /// For watches.
    pub client: Client,
    /// For writes.
    pub writer: Writer,
    /// The ids of users.
    pub ids: ids::Source,
    /// Where the Secrets are.
    pub system_namespace: String,
    /// Tells that a virtual machine is gone.
    pub vm_gone: Arc<Notify>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// What one of the watches tells.
enum Input {
    User(Change<User>),
    Namespace(Change<Namespace>),
    Binding(Change<RoleBinding>),
    Admin(Change<Secret>),
}

/// Runs until told to stop.
///
/// # Errors
/// Never by itself: what fails is tried again.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let mut inputs = watch_all(&context.client, &context.system_namespace);
    let vm_gone = context.vm_gone.clone();
    let reconciles = context.writer.reconciles();
    let mut registry = Registry::new(context);
    let mut wake: Option<Instant> = None;
    loop {
        tokio::select! {
            () = registry.context.stop.cancelled() => break,
            Some(input) = inputs.next() => registry.heard(input),
            () = vm_gone.notified() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))) => {}
        }
        while let Some(Some(input)) = inputs.next().now_or_never() {
            registry.heard(input);
        }
        wake = reconciles.time(registry.turn()).await;
    }
    registry.context.ids.settle().await;
    Ok(())
}

fn watch_all(client: &Client, system_namespace: &str) -> SelectAll<BoxStream<'static, Input>> {
    let all = watcher::Config::default;
    let ours = all().labels(names::USER_LABEL);
    let admin = all().fields(&format!("metadata.name={}", names::ADMIN_SECRET));
    stream::select_all([
        changes(Api::all(client.clone()), all()).map(Input::User).boxed(),
        changes(Api::all(client.clone()), ours.clone()).map(Input::Namespace).boxed(),
        changes(Api::all(client.clone()), ours).map(Input::Binding).boxed(),
        changes(Api::namespaced(client.clone(), system_namespace), admin).map(Input::Admin).boxed(),
    ])
}

struct Registry {
    context: Context,
    users: Mirror<User>,
    namespaces: Mirror<Namespace>,
    bindings: Mirror<RoleBinding>,
    admin: Mirror<Secret>,
    backoff: Backoff,
    /// Version of the admin's Secret and UID of the user that are known to agree.
    admin_done: Option<(String, String)>,
}

impl Registry {
    fn new(context: Context) -> Self {
        Self {
            context,
            users: Mirror::default(),
            namespaces: Mirror::default(),
            bindings: Mirror::default(),
            admin: Mirror::default(),
            backoff: Backoff::default(),
            admin_done: None,
        }
    }

    fn heard(&mut self, input: Input) {
        match input {
            Input::User(change) => {
                for uid in self.users.apply(change) {
                    self.backoff.forget(&uid);
                }
            }
            Input::Namespace(change) => drop(self.namespaces.apply(change)),
            Input::Binding(change) => drop(self.bindings.apply(change)),
            Input::Admin(change) => {
                if matches!(change, Change::Present(_)) {
                    self.backoff.forget(ADMIN);
                }
                self.admin.apply(change);
            }
        }
    }

    /// Brings every user to what it should be. Answers when to come again though nothing happens.
    async fn turn(&mut self) -> Option<Instant> {
        let is_complete = self.users.is_complete()
            && self.namespaces.is_complete()
            && self.bindings.is_complete()
            && self.admin.is_complete();
        if !is_complete {
            return None;
        }
        let now = Instant::now();
        let mut wake = self.first_admin(now).await;
        let mut users: Vec<Arc<User>> = self.users.values().cloned().collect();
        // Who comes is waited for by somebody, who goes is not.
        users.sort_by_key(|user| {
            let goes = user.metadata.deletion_timestamp.is_some();
            (goes, user.creation_timestamp().map(|time| time.0), user.name_any())
        });
        let mut missing = 0;
        for user in &users {
            match user.status.as_ref().and_then(|status| status.id) {
                Some(id) => self.context.ids.seen(id),
                None => missing += 1,
            }
        }
        if let Err(error) = self.context.ids.reserve(missing).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reserve ids, trying again");
            return Some(now + IDS_RETRY);
        }
        for user in users {
            wake = [wake, self.settle(&user, now).await].into_iter().flatten().min();
            if now.elapsed() > TURN {
                return Some(Instant::now());
            }
        }
        wake
    }

    async fn settle(&mut self, user: &User, now: Instant) -> Option<Instant> {
        let uid = user.uid()?;
        if let Some(due) = self.backoff.due_after(&uid, now) {
            return Some(due);
        }
        let name = names::user_namespace(&user.name_any());
        let namespace = self.namespaces.values().find(|namespace| namespace.name_any() == name);
        let binding = self.bindings.values().find(|binding| {
            binding.namespace().as_deref() == Some(&name) && binding.name_any() == names::USER_CLUSTER_ROLE
        });
        let facts = Facts {
            user,
            namespace: namespace.map(|namespace| &**namespace),
            binding: binding.map(|binding| &**binding),
            system_namespace: &self.context.system_namespace,
        };
        let plan = plan(&facts);
        let id = match user.status.as_ref().and_then(|status| status.id) {
            Some(_) => None,
            None if user.metadata.deletion_timestamp.is_some() => None,
            None => self.context.ids.take(),
        };
        let place = Place { system_namespace: &self.context.system_namespace, id };
        let (outcome, result) = perform(&self.context.writer, place, user, plan).await;
        let Outcome { user: newest, namespace, binding, waits } = outcome;
        newest.into_iter().for_each(|newest| self.users.absorb(newest));
        namespace.into_iter().for_each(|namespace| self.namespaces.adopt(namespace));
        binding.into_iter().for_each(|binding| self.bindings.adopt(binding));
        match result {
            Ok(()) => {
                self.backoff.forget(&uid);
                waits.then(|| now + VMS_LEFT_RETRY)
            }
            Err(error) => {
                let (username, error) = (user.spec.username.as_str(), &error as &dyn std::error::Error);
                tracing::warn!(user = username, error, "a user is not what it should be, trying again");
                self.backoff.failed(&uid, now);
                self.backoff.due_after(&uid, now)
            }
        }
    }

    /// Makes the first admin, or sets its password anew. Answers when to try again after a failure.
    async fn first_admin(&mut self, now: Instant) -> Option<Instant> {
        if let Some(due) = self.backoff.due_after(ADMIN, now) {
            return Some(due);
        }
        let secret = self.admin.values().next()?.clone();
        let result = match Credentials::of(&secret) {
            Ok(credentials) => self.ensure_admin(&credentials).await,
            Err(lack) => Err(anyhow::anyhow!(lack)),
        };
        match result {
            Ok(()) => {
                self.backoff.forget(ADMIN);
                None
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot make the first admin, trying again");
                self.backoff.failed(ADMIN, now);
                self.backoff.due_after(ADMIN, now)
            }
        }
    }

    async fn ensure_admin(&mut self, credentials: &Credentials) -> anyhow::Result<()> {
        let users: Vec<Arc<User>> = self.users.values().cloned().collect();
        let object = names::user_object(&credentials.username);
        let user = match admin::decide(&credentials.username, &users) {
            Action::Nothing => return Ok(()),
            Action::Keep(user) => user,
            Action::Promote(user) => Arc::new(self.promote(&user).await?),
            Action::Create => {
                let user = self.create_admin(&object, &credentials.username).await?;
                tracing::info!(user = credentials.username, "made the first admin");
                Arc::new(user)
            }
        };
        let done = (credentials.version.clone(), user.uid().unwrap_or_default());
        if self.admin_done.as_ref() == Some(&done) {
            return Ok(());
        }
        let (writer, namespace) = (self.context.writer.clone(), self.context.system_namespace.clone());
        match password::look(&writer, &namespace, &object, credentials).await? {
            Present::Current => {}
            Present::Nothing => password::set(&writer, &namespace, &object, credentials).await?,
            Present::Other => {
                // First the sessions: a crash in between ends them once more, not never.
                self.end_sessions(&user).await?;
                password::set(&writer, &namespace, &object, credentials).await?;
                tracing::info!(user = credentials.username, "set the admin's password anew, its sessions are ended");
            }
        }
        self.admin_done = Some(done);
        Ok(())
    }

    async fn end_sessions(&mut self, user: &User) -> Result<(), WriteError> {
        let epoch = user.spec.session_epoch;
        let operations = json!([
            { "op": "test", "path": "/metadata/uid", "value": user.metadata.uid },
            { "op": "test", "path": "/metadata/resourceVersion", "value": user.metadata.resource_version },
            { "op": "add", "path": "/spec/sessionEpoch", "value": epoch.saturating_add(1) },
        ]);
        let user = perform::patch_user(&self.context.writer, &user.name_any(), operations).await?;
        self.users.absorb(user);
        Ok(())
    }

    async fn create_admin(&mut self, object: &str, username: &str) -> Result<User, WriteError> {
        let spec = UserSpec {
            username: username.to_owned(),
            login_name: None,
            email: None,
            role: UserRole::Admin,
            approved: true,
            password_secret_ref: Some(SecretReference { name: names::password_secret(object) }),
            session_epoch: 0,
            ssh_authorized_keys: Vec::new(),
        };
        let api: Api<User> = Api::all(self.context.client.clone());
        let user = self.context.writer.write(api.create(&perform::post(), &User::new(object, spec))).await?;
        self.users.adopt(user.clone());
        Ok(user)
    }

    async fn promote(&mut self, user: &User) -> Result<User, WriteError> {
        let object = user.name_any();
        let secret = SecretReference { name: names::password_secret(&object) };
        let operations = json!([
            { "op": "test", "path": "/metadata/uid", "value": user.metadata.uid },
            { "op": "test", "path": "/metadata/resourceVersion", "value": user.metadata.resource_version },
            { "op": "add", "path": "/spec/role", "value": UserRole::Admin },
            { "op": "add", "path": "/spec/approved", "value": true },
            { "op": "add", "path": "/spec/passwordSecretRef", "value": secret },
        ]);
        let user = perform::patch_user(&self.context.writer, &object, operations).await?;
        tracing::info!(user = user.spec.username, "made an existing user the first admin");
        self.users.absorb(user.clone());
        Ok(user)
    }
}
