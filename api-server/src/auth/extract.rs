//! Authorization by type. A handler gets a virtual machine or a user only through one of these extractors, so none can
//! forget to ask; what a caller may not see is 404 for it, as if it were not there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use kvmoor_crds::{Image, User, UserRole, VirtualMachine, VirtualMachineSnapshot};

use super::proxies::forwarded_for;
use super::session::Session;
use super::throttle::Source;
use crate::app::{App, AppState};
use crate::error::{ApiError, Noun};
use crate::snapshot::vm_of;
use crate::store::{Key, Stored};

/// Somebody with a session in force.
#[derive(Debug, Clone)]
pub struct Authn {
    /// The user as it is now, not as it was at login.
    pub user: Arc<User>,
    /// The user's number.
    pub id: i64,
    /// The session that it came with.
    pub session: Session,
}

impl Authn {
    /// The user of a session token.
    pub async fn of_token(app: &App, token: &str) -> Result<Self, ApiError> {
        let claims = app.keys.verify(token).await?;
        Self::of_session(app, &claims.sub, claims.epoch, claims.exp).await
    }

    /// The user of a session that was of that epoch and ends at `until`, in seconds since 1970.
    pub async fn of_session(app: &App, uid: &str, epoch: i64, until: i64) -> Result<Self, ApiError> {
        // The session may be younger than what this replica has heard of its user.
        let user = app.stores.users()?.expected(uid, |user| user.spec.session_epoch >= epoch).await;
        let user = user
            .filter(|user| Session::in_force(user, epoch))
            .ok_or(ApiError::Unauthorized("Invalid or expired token"))?;
        let id = user.id().ok_or(ApiError::unavailable("Your account has no number yet; try again in a moment"))?;
        tracing::Span::current().record("user.id", id);
        let session = Session { uid: uid.to_owned(), epoch, until, role: user.spec.role };
        Ok(Self { user, id, session })
    }

    /// Whether everything may be done.
    pub fn is_admin(&self) -> bool {
        self.user.spec.role == UserRole::Admin
    }

    /// The user's own namespace.
    pub fn namespace(&self) -> Result<&str, ApiError> {
        let message = "Your account is still being set up; try again in a moment";
        self.user.tenant_namespace().ok_or(ApiError::unavailable(message))
    }

    /// Whether that virtual machine may be seen and used.
    pub fn may_use(&self, vm: &VirtualMachine) -> bool {
        self.is_admin()
            || (vm.metadata.namespace.is_some() && vm.metadata.namespace.as_deref() == self.user.tenant_namespace())
    }
}

impl FromRequestParts<AppState> for Authn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        Self::of_token(app, bearer(parts)?).await
    }
}

/// The token of `Authorization: Bearer <token>`.
pub fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let missing = ApiError::Unauthorized("Authorization: Bearer <token> is required");
    let Some(header) = parts.headers.get(AUTHORIZATION) else { return Err(missing) };
    let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(ApiError::Unauthorized("Authorization: Bearer <token> is required"))
    }
}

/// An admin with a session in force.
#[derive(Debug, Clone)]
pub struct Admin(pub Authn);

impl FromRequestParts<AppState> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let caller = Authn::from_request_parts(parts, app).await?;
        if caller.is_admin() { Ok(Self(caller)) } else { Err(ApiError::Forbidden("Admin access required".to_owned())) }
    }
}

/// The virtual machine that the path names, for somebody who may use it.
#[derive(Debug, Clone)]
pub struct OwnedVm {
    /// The virtual machine as last seen.
    pub vm: Arc<VirtualMachine>,
    /// Its number.
    pub id: i64,
}

impl FromRequestParts<AppState> for OwnedVm {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let caller = Authn::from_request_parts(parts, app).await?;
        let id = path_id(parts, Noun::Vm).await?;
        let vm = app.stores.vms()?.numbered(id).await;
        let vm = vm.filter(|vm| caller.may_use(vm)).ok_or(ApiError::NotFound(Noun::Vm))?;
        Ok(Self { vm, id })
    }
}

/// A disk that the path names of a virtual machine, for somebody who may use that. Whether it is there is not known yet.
#[derive(Debug, Clone)]
pub struct OwnedDisk {
    /// The virtual machine.
    pub vm: OwnedVm,
    /// Name of the disk.
    pub disk: String,
}

impl FromRequestParts<AppState> for OwnedDisk {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let vm = OwnedVm::from_request_parts(parts, app).await?;
        let disk = path_parameter(parts, "disk").await.ok_or(ApiError::NotFound(Noun::Disk))?;
        Ok(Self { vm, disk })
    }
}

/// The snapshot that the path names, for somebody who may use its virtual machine.
#[derive(Debug, Clone)]
pub struct OwnedSnapshot {
    /// The snapshot as last seen.
    pub snapshot: Arc<VirtualMachineSnapshot>,
    /// Its number.
    pub id: i64,
}

impl FromRequestParts<AppState> for OwnedSnapshot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let caller = Authn::from_request_parts(parts, app).await?;
        let id = path_id(parts, Noun::Snapshot).await?;
        let snapshot = app.stores.snapshots()?.numbered(id).await;
        let snapshot = snapshot.ok_or(ApiError::NotFound(Noun::Snapshot))?;
        let vm = vm_of(&snapshot, &app.stores.vms()?.read()).cloned();
        if vm.is_some_and(|vm| caller.may_use(&vm)) {
            Ok(Self { snapshot, id })
        } else {
            Err(ApiError::NotFound(Noun::Snapshot))
        }
    }
}

/// The user that the path names, for an admin.
#[derive(Debug, Clone)]
pub struct TargetUser {
    /// The user as last seen.
    pub user: Arc<User>,
    /// Its number.
    pub id: i64,
}

impl FromRequestParts<AppState> for TargetUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        Admin::from_request_parts(parts, app).await?;
        let id = path_id(parts, Noun::User).await?;
        Self::find(app, id).await
    }
}

impl TargetUser {
    /// The user with that number. The caller must have been an admin.
    pub async fn find(app: &AppState, id: i64) -> Result<Self, ApiError> {
        let user = app.stores.users()?.numbered(id).await;
        let user =
            user.filter(|user| user.metadata.deletion_timestamp.is_none()).ok_or(ApiError::NotFound(Noun::User))?;
        Ok(Self { user, id })
    }
}

/// The image that the path names, for an admin.
#[derive(Debug, Clone)]
pub struct TargetImage(pub Arc<Image>);

impl FromRequestParts<AppState> for TargetImage {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        Admin::from_request_parts(parts, app).await?;
        let name = path_parameter(parts, "name").await.ok_or(ApiError::NotFound(Noun::Image))?;
        let images = app.stores.images()?.read();
        let image = images.get(&Key::namespaced("", &name)).filter(|image| image.metadata.deletion_timestamp.is_none());
        image.cloned().map(Self).ok_or(ApiError::NotFound(Noun::Image))
    }
}

/// The `{id}` of the path. What cannot be an id names nothing.
async fn path_id(parts: &mut Parts, noun: Noun) -> Result<i64, ApiError> {
    let text = path_parameter(parts, "id").await.ok_or(ApiError::NotFound(noun))?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id > 0).ok_or(ApiError::NotFound(noun))
}

/// What the path has in the place of that name.
async fn path_parameter(parts: &mut Parts, name: &str) -> Option<String> {
    let all = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    all.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Where the request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// The peer as throttling sees it.
    pub fn source(self) -> Source {
        self.0.into()
    }
}

impl FromRequestParts<AppState> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
        Ok(Self(forwarded_for(peer, &parts.headers, &app.settings.trusted_proxies)))
    }
}
