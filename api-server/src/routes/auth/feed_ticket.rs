//! `POST /api/auth/feed-ticket`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::app::AppState;
use crate::auth::extract::Authn;
use crate::error::ApiError;
use crate::model::Ticket;

/// Get a ticket for the feed of all one's virtual machines
///
/// It stands in the place of a session's token in `?ticket=` of `/ws/vm-status` without `vm_id`, once and within 30 s.
/// Every replica of the server remembers by itself what was used.
#[utoipa::path(
    post,
    path = "/auth/feed-ticket",
    operation_id = "create_feed_ticket",
    tag = "auth",
    security(("bearer" = [])),
    responses((status = 201, description = "The ticket", body = Ticket))
)]
pub async fn create_feed_ticket(
    State(app): State<AppState>,
    caller: Authn,
) -> Result<(StatusCode, Json<Ticket>), ApiError> {
    Ok((StatusCode::CREATED, Json(Ticket::new(&app, &caller.session, "")?)))
}
