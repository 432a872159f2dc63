//! `GET /api/quota`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::show;
use crate::app::AppState;
use crate::auth::extract::{Authn, TargetUser};
use crate::error::ApiError;
use crate::extract::Params;
use crate::model::QuotaUsage;
use crate::store::Stored;

/// Whose quota.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GetQuota {
    /// Number of the user, for admins; one's own where it is missing.
    #[param(minimum = 1, nullable = false)]
    pub user_id: Option<i64>,
}

/// The quota that holds for one, and what is used of it
#[utoipa::path(
    get,
    path = "/quota",
    operation_id = "get_quota",
    tag = "quota",
    security(("bearer" = [])),
    params(GetQuota),
    responses(
        (status = 200, description = "Quota and usage", body = QuotaUsage),
        (status = 404, description = "There is no such user, or no quota is set", body = crate::error::ErrorBody),
    )
)]
pub async fn get_quota(
    State(app): State<AppState>,
    caller: Authn,
    Params(GetQuota { user_id }): Params<GetQuota>,
) -> Result<Json<QuotaUsage>, ApiError> {
    let (user, id) = match user_id {
        Some(id) if id != caller.id => {
            if !caller.is_admin() {
                return Err(ApiError::Forbidden("Admin access required".to_owned()));
            }
            (TargetUser::find(&app, id).await?.user, id)
        }
        _ => (caller.user, caller.id),
    };
    let namespace = user.tenant_namespace().unwrap_or_default().to_owned();
    Ok(Json(show(&app, &user, id, &namespace).await?))
}
