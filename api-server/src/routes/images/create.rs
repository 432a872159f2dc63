//! `POST /api/images`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kvmoor_crds::{ImageFormat, ImageSpec};
use serde::Deserialize;
use utoipa::ToSchema;

use super::show;
use crate::app::AppState;
use crate::auth::extract::Admin;
use crate::error::{ApiError, ErrorBody};
use crate::extract::Body;
use crate::image::create::create;
use crate::model::Image;
use crate::number::optional_whole;

/// An image to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    /// What virtual machines give as `os_type`.
    #[schema(
        example = "debian-13",
        min_length = 1,
        max_length = 63,
        pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    )]
    pub name: String,
    /// Name for people.
    #[schema(example = "Debian 13", min_length = 1, max_length = 128)]
    pub display_name: Option<String>,
    /// Where hosts fetch the file. Without it, the file is uploaded.
    #[schema(
        example = "https://images.example.com/debian-13.qcow2",
        min_length = 8,
        max_length = 2048,
        pattern = "^https?://"
    )]
    pub url: Option<String>,
    /// SHA-256 of the file, in lower-case hexadecimal digits.
    #[schema(example = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Format of the file.
    #[serde(default)]
    pub format: Format,
    /// Hosts fetch it before a virtual machine asks for it, and keep it when none uses it.
    #[serde(default)]
    #[schema(default = false)]
    pub prefetch: bool,
    /// The smallest disk it works with, in MiB.
    #[schema(example = 2048, minimum = 0, maximum = 67108864)]
    #[serde(default, deserialize_with = "optional_whole")]
    pub minimum_disk: Option<i64>,
    /// The account that cloud-init gives the SSH keys to.
    #[schema(example = "debian", min_length = 1, max_length = 32)]
    pub default_user: Option<String>,
}

/// Format of an image's file.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ImageFormat)]
pub enum Format {
    /// QEMU's copy-on-write format.
    #[default]
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => Self::Qcow2,
            Format::Raw => Self::Raw,
        }
    }
}

/// Create an image: one that hosts fetch, or one whose file is then uploaded
///
/// What its file is never changes.
#[utoipa::path(
    post,
    path = "/images",
    operation_id = "create_image",
    tag = "images",
    security(("bearer" = [])),
    request_body = CreateImage,
    responses(
        (status = 201, description = "The image", body = Image),
        (status = 403, description = "Admin access required", body = ErrorBody),
        (status = 409, description = "There is one of that name", body = ErrorBody),
    )
)]
pub async fn create_image(
    State(app): State<AppState>,
    _: Admin,
    Body(body): Body<CreateImage>,
) -> Result<(StatusCode, Json<Image>), ApiError> {
    let CreateImage { name, display_name, url, sha256, format, prefetch, minimum_disk, default_user } = body;
    let spec = ImageSpec {
        display_name,
        uploaded: url.is_none(),
        url,
        built_in: false,
        prefetch,
        sha256: Some(sha256),
        format: format.into(),
        architecture: None,
        minimum_disk: minimum_disk.map(|mib| Quantity(format!("{mib}Mi"))),
        default_user,
    };
    let image = create(&app, &name, spec).await?;
    Ok((StatusCode::CREATED, show(&app, &image)?))
}
