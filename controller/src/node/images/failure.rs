//! Why an image could not be imported, in the words of a condition. Pure.

use std::time::Duration;

use super::super::hypervisor::{Class, HvError};
use crate::delay::doubled;

/// Delays after a download that broke off: the first and the longest.
const SOON: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Delays after a file that is not what it should be: the server would give the same again.
const LATE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));
/// Delays while an image that is uploaded is not to be had: it costs nothing to look, and somebody waits.
const WATCHFUL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// The reason of the condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The server cannot be reached, does not answer, or breaks off.
    DownloadFailed,
    /// It is at an address that nothing is fetched from.
    SourceRefused,
    /// The file is not the one that the Image names.
    ChecksumMismatch,
    /// Nobody has uploaded it to any host.
    NotUploaded,
    /// Other hosts have it, and none gives it.
    SourceLost,
    /// The file is not of the format that the Image names, or the disk in it is too large.
    Invalid,
    /// The file is too large.
    TooLarge,
    /// The storage pool has no room.
    PoolFull,
    /// The storage pool does not take it.
    PoolUnavailable,
}

impl Reason {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DownloadFailed => "ImageDownloadFailed",
            Self::SourceRefused => "ImageSourceRefused",
            Self::ChecksumMismatch => "ImageChecksumMismatch",
            Self::NotUploaded => "ImageNotUploaded",
            Self::SourceLost => "ImageSourceLost",
            Self::Invalid | Self::TooLarge => "ImageInvalid",
            Self::PoolFull => "PoolFull",
            Self::PoolUnavailable => "StoragePoolUnavailable",
        }
    }
}

/// A failure. Its message is the same on every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason of the condition.
    pub reason: Reason,
    /// What happened, without a full stop.
    pub message: String,
}

impl Failure {
    /// The download failed.
    pub fn download(message: impl Into<String>) -> Self {
        Self { reason: Reason::DownloadFailed, message: message.into() }
    }

    /// The source is refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { reason: Reason::SourceRefused, message: message.into() }
    }

    /// The file is not what it should be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { reason: Reason::Invalid, message: message.into() }
    }

    /// Nobody has uploaded the content of the Image of that name.
    pub fn not_uploaded(image: &str) -> Self {
        let message = format!("an admin has to upload it, with PUT /api/images/{image}/content");
        Self { reason: Reason::NotUploaded, message }
    }

    /// The hosts that have it do not give it.
    pub fn lost(message: String) -> Self {
        Self { reason: Reason::SourceLost, message }
    }

    /// The longest delay before attempt `attempts + 1`.
    pub fn ceiling(&self, attempts: u32) -> Duration {
        let (first, longest) = match self.reason {
            Reason::DownloadFailed | Reason::PoolFull | Reason::PoolUnavailable => SOON,
            Reason::SourceRefused | Reason::ChecksumMismatch | Reason::Invalid | Reason::TooLarge => LATE,
            Reason::NotUploaded | Reason::SourceLost => WATCHFUL,
        };
        doubled(first, attempts, longest)
    }

    /// What a user can do about it.
    pub fn advice(&self) -> &'static str {
        match self.reason {
            Reason::DownloadFailed => "it is tried again",
            Reason::SourceRefused => "choose another source, or ask the operator",
            Reason::ChecksumMismatch => "an Image with the right url and sha256 must take its place",
            Reason::NotUploaded => "it goes on by itself then",
            Reason::SourceLost => "it is tried again; bring that host back, or upload it to this one with ?host=",
            Reason::Invalid | Reason::TooLarge => "an Image of a file that is fine must take its place",
            Reason::PoolFull => "make room in the host's storage pool; it is tried again",
            Reason::PoolUnavailable => "look after the host's storage pool; it is tried again",
        }
    }
}

impl From<HvError> for Failure {
    fn from(error: HvError) -> Self {
        let reason = if error.class == Class::PoolFull { Reason::PoolFull } else { Reason::PoolUnavailable };
        Self { reason, message: format!("cannot {}: {}", error.op, error.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_wrong_is_tried_less_often() {
        assert_eq!(Failure::download("").ceiling(1), Duration::from_secs(2));
        assert_eq!(Failure::download("").ceiling(u32::MAX), Duration::from_secs(300));
        assert_eq!(Failure::invalid("").ceiling(1), Duration::from_secs(30));
        assert_eq!(Failure::invalid("").ceiling(u32::MAX), Duration::from_secs(1800));
    }
}
