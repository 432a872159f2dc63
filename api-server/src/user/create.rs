//! Creating a user: the User object, whose name keeps user names unique, then the Secret with the password's hash.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use kvmoor_crds::{SecretReference, User, UserRole, UserSpec, names};

use super::fields::{Email, NewPassword, Username};
use super::{find, secret, validate};
use crate::app::App;
use crate::auth::password::{Password, PasswordError};
use crate::error::{ApiError, Noun, from_kube};
use crate::store::Stored;

/// How long the cluster controller may take to set up a user.
const SETUP: Duration = Duration::from_secs(5);

/// A user to create.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Name to log in with.
    pub username: String,
    /// Password.
    pub password: Password,
    /// E-mail address.
    pub email: Option<String>,
    /// What the user may do.
    pub role: UserRole,
    /// Whether the user may log in at once.
    pub approved: bool,
}

impl NewUser {
    /// A user from what a body says, unless that cannot be one.
    pub fn check(
        Username(username): Username,
        NewPassword(password): NewPassword,
        email: Option<Email>,
        role: UserRole,
        approved: bool,
    ) -> Result<Self, ApiError> {
        let email = email.map(|Email(address)| address);
        validate::username(&username)?;
        email.as_deref().map_or(Ok(()), validate::email)?;
        password.check_new(&username).map_err(|message| ApiError::Invalid(message.to_owned()))?;
        Ok(Self { username, password, email, role, approved })
    }

    fn object(&self) -> User {
        let name = names::user_object(&self.username);
        let spec = UserSpec {
            username: self.username.clone(),
            login_name: None,
            email: self.email.clone(),
            role: self.role,
            approved: self.approved,
            password_secret_ref: Some(SecretReference { name: names::password_secret(&name) }),
            session_epoch: 0,
            ssh_authorized_keys: Vec::new(),
        };
        User::new(&name, spec)
    }
}

/// The hash of a new password, when it is its turn.
pub async fn hash(app: &App, password: Password) -> Result<String, ApiError> {
    let turn = app.passwords.turn().await.map_err(from_password)?;
    turn.hash(password).await.map_err(from_password)
}

/// What a failure of the pool means for the caller.
pub fn from_password(error: PasswordError) -> ApiError {
    match error {
        PasswordError::Busy => ApiError::TooManyRequests {
            message: "Too many logins at the same time; try again",
            retry_after: Duration::from_secs(1),
        },
        PasswordError::Hash(_) => ApiError::internal(error),
    }
}

/// Creates `new`, whose checks have passed. Not to be dropped before its end: a user without a password would stay.
pub async fn create(app: &App, new: NewUser) -> Result<User, ApiError> {
    let taken = || ApiError::Conflict("Username is already taken".to_owned());
    if find::is_taken(&app.stores.users()?.read(), &new.username, "") {
        return Err(taken());
    }
    let object = new.object();
    let hash = hash(app, new.password).await?;
    let users: Api<User> = Api::all(app.client.clone());
    let params = PostParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PostParams::default() };
    let created = users.create(&params, &object).await.map_err(|error| match from_kube(Noun::User, error) {
        ApiError::Conflict(_) => taken(),
        other => other,
    })?;
    if let Err(error) = secret::create(app, &created, &hash).await {
        take_back(&users, &created).await;
        return Err(error);
    }
    app.stores.users()?.wait_until_seen(&created).await;
    Ok(created)
}

async fn take_back(users: &Api<User>, created: &User) {
    let precondition = Preconditions { uid: created.uid(), resource_version: None };
    if let Err(error) = users.delete(&created.name_any(), &DeleteParams::default().preconditions(precondition)).await {
        let error = crate::error::describe(&error);
        tracing::error!(user.name = created.name_any(), error, "a user without a password stays");
    }
}

/// Waits until the user has its number and, if it may log in, its namespace.
pub async fn wait_until_set_up(app: &App, created: &User) -> Result<Arc<User>, ApiError> {
    let uid = created.uid().unwrap_or_default();
    let set_up = app.stores.users()?.wait(SETUP, |users| {
        let user = users.by_uid(&uid)?;
        (user.id().is_some() && (!user.spec.approved || user.tenant_namespace().is_some())).then(|| user.clone())
    });
    let message = "No cluster controller has set the user up in time; it exists and will be ready later";
    set_up.await.ok_or(ApiError::unavailable(message))
}
