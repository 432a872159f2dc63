//! What happened to a virtual machine, over REST.

use jiff::Timestamp;
use k8s_openapi::api::events::v1;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened to a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VMEvent)]
pub struct Event {
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    #[schema(example = "Warning")]
    pub type_: String,
    /// What, in one word.
    #[schema(example = "Crashed")]
    pub reason: String,
    /// What, in a sentence.
    pub message: String,
    /// How often.
    #[schema(minimum = 1, example = 1)]
    pub count: i32,
    /// The first time.
    pub first_seen: Timestamp,
    /// The last time.
    pub last_seen: Timestamp,
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Self {
        let created = event.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let begin = event.event_time.map(|time| time.0);
        let first_seen = begin.or(event.deprecated_first_timestamp.map(|time| time.0)).unwrap_or(created);
        let (series_count, series_last) =
            event.series.map_or((None, None), |series| (Some(series.count), Some(series.last_observed_time.0)));
        let last_seen = series_last.or(event.deprecated_last_timestamp.map(|time| time.0)).unwrap_or(first_seen);
        let count = series_count.or(event.deprecated_count).unwrap_or(1).max(1);
        Self {
            type_: event.type_.unwrap_or_else(|| "Normal".to_owned()),
            reason: event.reason.unwrap_or_default(),
            message: event.note.unwrap_or_default(),
            count,
            first_seen,
            last_seen,
        }
    }
}
