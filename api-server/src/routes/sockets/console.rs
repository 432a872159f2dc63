//! Opening a console: what `/ws/vnc` and `/ws/serial` have in common, which is all but the bytes.

use std::collections::BTreeMap;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use serde::Deserialize;
use tracing::Instrument;
use utoipa::openapi::{RefOr, Response as Described};
use utoipa::{IntoParams, IntoResponses};

use crate::app::AppState;
use crate::console::{self, Kind};
use crate::error::ApiError;
use crate::openapi::error;
use crate::socket::Opening;

/// Most bytes of a message: what is pasted into a guest is the largest.
const MESSAGE: usize = 1 << 20;
/// The subprotocol of old noVNC and websockify, answered where it is offered.
const BINARY: &str = "binary";

/// Which virtual machine's.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConsoleParams {
    /// Number of a virtual machine.
    #[param(value_type = i64, minimum = 1)]
    pub id: String,
}

/// What a console answers before there is a WebSocket.
pub enum Console {}

impl IntoResponses for Console {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let errors = [
            ("403", "The page's origin may not connect"),
            ("404", "Not there, or somebody else's"),
            ("409", "The virtual machine is off"),
            ("429", "Too many connections of this user, or consoles of this VM, are open"),
        ];
        let opened = ("101".to_owned(), Described::new("From here on, binary messages").into());
        errors.map(|(status, why)| (status.to_owned(), error(why).into())).into_iter().chain([opened]).collect()
    }
}

/// Opens a console of the virtual machine with that number.
pub async fn console(
    app: AppState,
    opening: &Opening,
    id: &str,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    kind: Kind,
) -> Result<Response, ApiError> {
    let vm = opening.vm(&app, id).await?;
    let (upgrade, seat) = opening.accept(&app, upgrade)?;
    // Opened before the upgrade, so that a refusal has a status and a body.
    let opened = match kind {
        Kind::Display => app.agents.display(&app.stores, &vm).await?,
        Kind::Serial => app.agents.serial(&app.stores, &vm).await?,
    };
    let session = opening.caller.session.clone();
    tracing::info!(vm.uid = vm.metadata.uid, ?kind, "console opened");
    let work = app.clone();
    // Taken here: the task that runs what follows is of no request.
    let span = tracing::Span::current();
    let serving = move |socket| {
        let serving = async move {
            console::serve(&work, socket, &session, kind, opened).await;
            drop(seat);
        };
        serving.instrument(span)
    };
    let upgrade = upgrade.protocols([BINARY]).max_message_size(MESSAGE).max_frame_size(MESSAGE);
    let tasks = app.tasks.clone();
    Ok(upgrade.on_upgrade(move |socket| tasks.track_future(serving(socket))))
}
