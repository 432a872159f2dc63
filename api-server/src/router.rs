//! Every route of the API, on one screen.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware as layer};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::AppState;
use crate::error::{ApiError, Noun};
use crate::routes::{auth, classes, health, hosts, images, quota, snapshots, sockets, users, vms};
use crate::{middleware, openapi};

/// Where the OpenAPI document is.
const DOCUMENT: &str = "/api/openapi.json";
/// Most bytes of a request's body, but for the files of images, which are never read into memory.
const BODY: usize = 1 << 20;

/// The API's routes and the document that describes them.
fn api() -> (Router<AppState>, OpenApi) {
    let routes = OpenApiRouter::new()
        .routes(routes!(health::get::health))
        .routes(routes!(health::ready::ready))
        .routes(routes!(auth::login::login))
        .routes(routes!(auth::register::register))
        .routes(routes!(auth::me::me))
        .routes(routes!(auth::logout::logout))
        .routes(routes!(auth::password::change_password))
        .routes(routes!(auth::ssh_keys::get_ssh_keys, auth::ssh_keys::set_ssh_keys))
        .routes(routes!(auth::feed_ticket::create_feed_ticket))
        .routes(routes!(vms::list::list_vms, vms::create::create_vm))
        .routes(routes!(vms::get::get_vm, vms::delete::delete_vm))
        .routes(routes!(vms::action::act_on_vm))
        .routes(routes!(vms::clone::clone_vm))
        .routes(routes!(vms::disks::attach_disk))
        .routes(routes!(vms::disks::grow_disk, vms::disks::detach_disk))
        .routes(routes!(vms::events::list_vm_events))
        .routes(routes!(vms::console_ticket::create_console_ticket))
        .routes(routes!(vms::stats::get_vm_stats))
        .routes(routes!(vms::log::get_vm_log))
        .routes(routes!(snapshots::list::list_snapshots, snapshots::create::create_snapshot))
        .routes(routes!(snapshots::get::get_snapshot, snapshots::delete::delete_snapshot))
        .routes(routes!(snapshots::restore::restore_snapshot))
        .routes(routes!(quota::get::get_quota, quota::put::set_quota))
        .routes(routes!(images::list::list_images, images::create::create_image))
        .routes(routes!(images::delete::delete_image))
        .routes(routes!(images::upload::upload_image))
        .routes(routes!(classes::list::list_classes))
        .routes(routes!(hosts::list::list_hosts))
        .routes(routes!(users::list::list_users, users::create::create_user))
        .routes(routes!(users::get::get_user, users::update::update_user, users::delete::delete_user))
        .routes(routes!(users::role::set_role))
        .routes(routes!(users::approve::approve_user));
    let sockets = OpenApiRouter::new()
        .routes(routes!(sockets::vm_status::vm_status))
        .routes(routes!(sockets::vnc::open_console))
        .routes(routes!(sockets::serial::open_serial_console));
    let all = OpenApiRouter::with_openapi(openapi::base()).nest("/api", routes).merge(sockets);
    let (router, mut document) = all.split_for_parts();
    openapi::add_common_errors(&mut document);
    (router, document)
}

/// Everything that is served.
pub fn router(app: AppState) -> Result<Router, serde_json::Error> {
    let (routes, document) = api();
    let document: Arc<str> = document.to_json()?.into();
    let serve_document = move || {
        let document = document.clone();
        async move { ([(CONTENT_TYPE, "application/json")], document.to_string()).into_response() }
    };
    Ok(routes
        .route(DOCUMENT, get(serve_document))
        .merge(SwaggerUi::new("/swagger").config(Config::from(DOCUMENT)))
        .fallback(async || ApiError::NotFound(Noun::Endpoint))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(layer::from_fn(middleware::deadline))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(layer::from_fn_with_state(app.metrics.clone(), middleware::log))
        .layer(layer::from_fn_with_state(app.clone(), middleware::last_answer))
        .with_state(app))
}

#[cfg(test)]
mod tests;
