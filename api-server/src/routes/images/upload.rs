//! `PUT /api/images/{name}/content`

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use kvmoor_crds::{Host, agent, names};
use serde::Deserialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::show;
use crate::agent::upload::{Stored, let_go};
use crate::app::{App, AppState};
use crate::auth::extract::TargetImage;
use crate::error::{ApiError, ErrorBody, Noun, from_kube};
use crate::extract::Params;
use crate::image::place::{Place, choose, has};
use crate::model::{Image, is_alive};

/// How long the answer waits for the host to tell that it has the image. That it has it is certain by then.
const TOLD: Duration = Duration::from_secs(5);

/// Where to upload to.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadParams {
    /// The host that gets the file. Without it, one is chosen, unless a host has the file already.
    pub host: Option<String>,
}

/// The file, as the document describes it: bytes.
pub enum ImageFile {}

impl PartialSchema for ImageFile {
    fn schema() -> RefOr<Schema> {
        let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(binary)).into()
    }
}

impl ToSchema for ImageFile {}

/// Upload the file of an image
///
/// The body is the file, of whatever `Content-Type`, as `curl --upload-file` sends it. It goes to one host, which checks
/// it against `sha256` and `format` of the image; nothing is left of one that does not fit. What a host has already is
/// not taken again.
#[utoipa::path(
    put,
    path = "/images/{name}/content",
    operation_id = "upload_image",
    tag = "images",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "Name of the image"), UploadParams),
    request_body(content = inline(ImageFile), content_type = "application/octet-stream", description = "The file"),
    responses(
        (status = 200, description = "The image, which a host had already", body = Image),
        (status = 201, description = "The image, which a host has now", body = Image),
        (status = 403, description = "Admin access required", body = ErrorBody),
        (status = 409, description = "It is not one that is uploaded, it is being uploaded already, or the host is not connected or has no room for it", body = ErrorBody),
        (status = 413, description = "The file is larger than is allowed", body = ErrorBody),
        (status = 429, description = "The host is taking other images; see Retry-After", body = ErrorBody),
    )
)]
pub async fn upload_image(
    State(app): State<AppState>,
    TargetImage(image): TargetImage,
    Params(UploadParams { host }): Params<UploadParams>,
    body: Body,
) -> Result<(StatusCode, Json<Image>), ApiError> {
    let place = async {
        if !image.spec.uploaded {
            let message = format!("Image {} is not one that is uploaded: hosts have it or fetch it", image.name_any());
            return Err(ApiError::Conflict(message));
        }
        place(&app, &image, host.as_deref()).await
    };
    let host = match place.await {
        Ok(Place::Host(host)) => host,
        Ok(Place::There) => {
            let_go(body);
            return Ok((StatusCode::OK, show(&app, &image)?));
        }
        Err(error) => {
            let_go(body);
            return Err(error);
        }
    };
    let sha256 = image.spec.sha256.clone().unwrap_or_default();
    let path = agent::image_path(&sha256, image.spec.format.as_str());
    let stored = app.agents.upload(&host, path, body, app.settings.largest_image).await?;
    let (host, name) = (host.name_any(), image.name_any());
    let told = |host: &Host| has(host, &name).then_some(());
    app.stores
        .hosts()?
        .wait(TOLD, |hosts| hosts.all().find(|known| known.name_any() == host).and_then(|host| told(host)))
        .await;
    let status = match stored {
        Stored::Now => StatusCode::CREATED,
        Stored::Before => StatusCode::OK,
    };
    Ok((status, show(&app, &image)?))
}

async fn place(app: &App, image: &kvmoor_crds::Image, asked: Option<&str>) -> Result<Place, ApiError> {
    let leases: Api<Lease> = Api::namespaced(app.client.clone(), &app.system_namespace);
    let leases = leases.list(&ListParams::default()).await.map_err(|error| from_kube(Noun::Host, error))?;
    let now = Timestamp::now();
    let alive: HashMap<_, _> = leases.iter().map(|lease| (lease.name_any(), is_alive(lease, now))).collect();
    let is_alive = |host: &Host| alive.get(&names::host_lease(&host.name_any())).copied().unwrap_or_default();
    let hosts: Vec<_> = app.stores.hosts()?.read().all().map(|host| (host.clone(), is_alive(host))).collect();
    choose(&hosts, &image.name_any(), asked)
}
