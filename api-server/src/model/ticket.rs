//! A ticket over REST.

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::session::Session;
use crate::auth::token::TICKET_LIFETIME;
use crate::error::ApiError;

/// What opens one WebSocket.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ticket {
    /// What to send as `?ticket=`.
    #[schema(example = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...")]
    pub ticket: String,
    /// Seconds within which it must be used.
    #[schema(example = 30)]
    pub expires_in: u64,
}

impl Ticket {
    /// A ticket for the virtual machine with the UID `vm`, or for the feed of all where that is empty.
    pub fn new(app: &App, session: &Session, vm: &str) -> Result<Self, ApiError> {
        let ticket = app.keys.sign_ticket(&session.uid, session.epoch, session.until, vm)?;
        Ok(Self { ticket, expires_in: TICKET_LIFETIME.as_secs() })
    }
}
