//! `GET /v1/vms/{uid}/log?bytes=N`: the last bytes that the guest has written on its serial port.

use std::sync::Arc;

use kvmoor_crds::agent::LOG_BYTES;

use super::super::serial_log;
use super::Agent;
use super::answer::{Answer, Refusal, raw};

/// The end of the log. libvirt is not asked: it serves no files but volumes.
pub async fn get(agent: &Arc<Agent>, uid: &str, query: Option<&str>) -> Result<Answer, Refusal> {
    let bytes = query.and_then(|query| query.strip_prefix("bytes=")).and_then(|bytes| bytes.parse::<u32>().ok());
    let bytes = bytes.filter(|bytes| *bytes <= LOG_BYTES).ok_or_else(|| Refusal::bad_request("how many bytes?"))?;
    let (directory, uid) = (agent.serial_logs.clone(), uid.to_owned());
    let read = tokio::task::spawn_blocking(move || serial_log::tail(&directory, &uid, u64::from(bytes))).await;
    match read {
        Ok(Ok(tail)) => Ok(raw(tail)),
        Ok(Err(error)) => Err(Refusal::unavailable(&format!("the log cannot be read: {error}"))),
        Err(error) => Err(Refusal::unavailable(&error.to_string())),
    }
}
