//! `GET /api/vms/{id}/log`

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use kvmoor_crds::agent::LOG_BYTES;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::agent::AgentError;
use crate::app::AppState;
use crate::auth::extract::OwnedVm;
use crate::error::ApiError;
use crate::extract::Params;

/// Bytes of a log unless others are asked for.
const USUAL: u32 = 64 << 10;

/// How much of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// At most so many bytes, the last ones.
    #[param(minimum = 1, maximum = 1_048_576, default = 65536, nullable = false)]
    pub bytes: Option<u32>,
}

/// The end of what a virtual machine has said on its serial port
///
/// Firmware, boot loader and kernel tell there how they boot. It is kept over restarts, as far as libvirt keeps it (2 MiB
/// and three files before that), and removed with the virtual machine. Bytes that are not UTF-8 are replaced.
#[utoipa::path(
    get,
    path = "/vms/{id}/log",
    operation_id = "get_vm_log",
    tag = "vms",
    security(("bearer" = [])),
    params(("id" = i64, Path, description = "Number of the virtual machine", minimum = 1), LogParams),
    responses((status = 200, description = "The text; empty where it has said nothing", body = String, content_type = "text/plain"))
)]
pub async fn get_vm_log(
    State(app): State<AppState>,
    target: OwnedVm,
    Params(LogParams { bytes }): Params<LogParams>,
) -> Result<impl IntoResponse, ApiError> {
    let bytes = bytes.unwrap_or(USUAL);
    if !(1..=LOG_BYTES).contains(&bytes) {
        return Err(ApiError::Invalid(format!("bytes must be from 1 to {LOG_BYTES}")));
    }
    let log = match app.agents.log(&app.stores, &target.vm, bytes).await {
        Ok(log) => log,
        // On no host yet, it cannot have said anything.
        Err(AgentError::NotThere) => Default::default(),
        Err(error) => return Err(error.into()),
    };
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text(&log)))
}

/// The text, without what is left of a character whose beginning was cut off.
fn text(log: &[u8]) -> String {
    let broken = log.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    String::from_utf8_lossy(log.get(broken..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_in_two_is_left_out() {
        let log = "grüße".as_bytes();
        assert_eq!(text(log), "grüße");
        assert_eq!(text(&log[3..]), "ße");
        assert_eq!(text(b"\xffa"), "\u{fffd}a");
        assert_eq!(text(b""), "");
    }
}
