//! Opening a WebSocket. A browser cannot send headers with one, so the session stands in the query string as a token, or
//! better as a ticket, which is worth nothing to whoever reads it later in a log.

use std::sync::Arc;

use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{FromRequestParts, Query};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use jiff::Timestamp;
use kvmoor_crds::VirtualMachine;
use serde::Deserialize;
use std::time::Duration;

use super::origin;
use super::seats::Seat;
use crate::app::{App, AppState};
use crate::auth::extract::{Authn, bearer};
use crate::auth::token::TicketClaims;
use crate::error::{ApiError, Noun};

/// Somebody who wants to open a WebSocket: a session in force, and a page that may. Refused before the upgrade
/// otherwise.
#[derive(Debug)]
pub struct Opening {
    /// Who it is.
    pub caller: Authn,
    ticket: Option<TicketClaims>,
}

#[derive(Debug, Deserialize)]
struct Credentials {
    token: Option<String>,
    ticket: Option<String>,
}

impl FromRequestParts<AppState> for Opening {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        if !origin::may_open(&parts.headers, &app.settings.allowed_origins) {
            return Err(ApiError::Forbidden("Pages of this origin may not connect".to_owned()));
        }
        let missing = ApiError::Unauthorized("token=<token> or ticket=<ticket> is required");
        let Ok(Query(Credentials { token, ticket })) = Query::try_from_uri(&parts.uri) else { return Err(missing) };
        match (ticket, token) {
            (Some(ticket), _) => Self::with_ticket(app, &ticket).await,
            (None, Some(token)) => Ok(Self { caller: Authn::of_token(app, &token).await?, ticket: None }),
            // Programs can send headers.
            (None, None) if parts.headers.contains_key(AUTHORIZATION) => {
                Ok(Self { caller: Authn::of_token(app, bearer(parts)?).await?, ticket: None })
            }
            (None, None) => Err(missing),
        }
    }
}

impl Opening {
    async fn with_ticket(app: &App, ticket: &str) -> Result<Self, ApiError> {
        let ticket = app.keys.verify_ticket(ticket).await?;
        let caller = Authn::of_session(app, &ticket.common.sub, ticket.common.epoch, ticket.until).await?;
        Ok(Self { caller, ticket: Some(ticket) })
    }

    /// The virtual machine with that number, if it is there, the caller may use it, and a ticket is for it.
    pub async fn vm(&self, app: &App, id: &str) -> Result<Arc<VirtualMachine>, ApiError> {
        let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        let id: i64 = id.parse().ok().filter(|_| digits).ok_or(ApiError::NotFound(Noun::Vm))?;
        let vm = app.stores.vms()?.numbered(id).await;
        let vm = vm.filter(|vm| self.caller.may_use(vm)).ok_or(ApiError::NotFound(Noun::Vm))?;
        self.check_ticket(vm.metadata.uid.as_deref().unwrap_or_default())?;
        Ok(vm)
    }

    /// Whether a ticket is for the feed of all virtual machines of the caller.
    pub fn check_for_all(&self) -> Result<(), ApiError> {
        self.check_ticket("")
    }

    fn check_ticket(&self, vm: &str) -> Result<(), ApiError> {
        match &self.ticket {
            Some(ticket) if ticket.vm != vm => Err(ApiError::Unauthorized("The ticket is for something else")),
            _ => Ok(()),
        }
    }

    /// Lets the caller in: uses its ticket up and takes a seat. The last step before the upgrade.
    pub fn accept(
        &self,
        app: &App,
        upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    ) -> Result<(WebSocketUpgrade, Seat), ApiError> {
        let upgrade = upgrade.map_err(|rejection| {
            ApiError::Invalid(format!("This endpoint takes WebSockets only: {}", rejection.body_text()))
        })?;
        let seat = app.seats.take(&self.caller.session.uid, app.settings.max_sockets_per_user);
        let seat = seat.ok_or(ApiError::TooManyRequests {
            message: "You have too many connections open; close some",
            retry_after: Duration::from_secs(5),
        })?;
        match &self.ticket {
            Some(ticket) if !app.tickets.redeem(&ticket.common, Timestamp::now().as_second()) => {
                Err(ApiError::Unauthorized("The ticket was used before"))
            }
            _ => Ok((upgrade, seat)),
        }
    }
}
