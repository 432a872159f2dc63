//! libvirt's errors as ours: code and text to class.

use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};

use super::super::{Class, HvError};

/// What libvirt puts around the ENOSPC of whatever it ran.
const NO_ROOM: [&str; 3] = ["No space left on device", "not enough free space", "Disk quota exceeded"];
/// What libvirt says when the connection is gone.
const NO_CONNECTION: [&str; 4] =
    ["client socket is closed", "Cannot write data", "Cannot recv data", "End of file while reading data"];

/// The class of an error of a call.
pub fn from(op: &'static str, error: &Error) -> HvError {
    let message = error.message();
    let contains = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    let class = match error.code() {
        Enum::Known(code) => match code {
            ErrorNumber::NoDomain
            | ErrorNumber::NoStorageVolume
            | ErrorNumber::NoDomainMetadata
            | ErrorNumber::NoDomainSnapshot => Class::NotFound,
            ErrorNumber::OperationTimeout => Class::Busy,
            ErrorNumber::NoStoragePool => Class::PoolMissing,
            ErrorNumber::NoNetwork => Class::NetworkMissing,
            ErrorNumber::DomExist => Class::Foreign,
            ErrorNumber::NoConnect | ErrorNumber::InvalidConn | ErrorNumber::Rpc => Class::Disconnected,
            _ if contains(&NO_CONNECTION) => Class::Disconnected,
            _ if contains(&NO_ROOM) => Class::PoolFull,
            ErrorNumber::OperationInvalid if message.contains("storage pool") => Class::PoolMissing,
            ErrorNumber::OperationInvalid if message.contains("network") => Class::NetworkMissing,
            ErrorNumber::OperationInvalid => Class::Stale,
            ErrorNumber::OperationFailed if message.contains("already exists with uuid") => Class::Foreign,
            _ => Class::Failed,
        },
        Enum::Unknown(_) => Class::Failed,
    };
    HvError::new(class, op, message)
}

/// Reads "there is no such thing" as `None`, and nothing else.
pub fn found<T>(op: &'static str, result: Result<T, Error>) -> Result<Option<T>, HvError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(source) => match from(op, &source) {
            error if error.class == Class::NotFound => Ok(None),
            error => Err(error),
        },
    }
}
