//! Kubernetes Events: warnings beside the objects that they are about.
//!
//! Nothing depends on an Event; one that cannot be written is logged and forgotten. What is said again of the same object
//! for the same reason within some minutes becomes a count in the first Event, whose words stay.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// The API takes at most 1 kB.
const LONGEST_NOTE: usize = 1000;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where warnings go.
#[derive(Clone)]
pub struct Warnings {
    recorder: Arc<Recorder>,
}

/// What a warning says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What was being done, CamelCase.
    pub action: &'static str,
    /// Why it is a warning; the reason of the condition that says the same.
    pub reason: &'static str,
    /// A sentence that a user can act on. Never holds a secret.
    pub note: String,
}

impl Warnings {
    /// Warnings of that controller, and of one instance of it where there are several that act.
    pub fn new(client: Client, controller: &str, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance };
        Self { recorder: Arc::new(Recorder::new(client, reporter)) }
    }

    /// Writes a warning beside an object.
    pub async fn say(&self, about: &ObjectReference, warning: &Warning) {
        let event = Event {
            type_: EventType::Warning,
            reason: warning.reason.to_owned(),
            note: Some(truncated(&warning.note)),
            action: warning.action.to_owned(),
            secondary: None,
        };
        let uid = about.uid.as_deref().unwrap_or_default();
        match tokio::time::timeout(DEADLINE, self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) => tracing::warn!(uid, message = status.message, "cannot write an event"),
            Ok(Err(error)) => tracing::warn!(uid, %error, "cannot write an event"),
            Err(_) => tracing::warn!(uid, "cannot write an event: no answer"),
        }
    }

    /// The same, in the background.
    pub fn say_later(&self, about: ObjectReference, warning: Warning) {
        let warnings = self.clone();
        tokio::spawn(async move { warnings.say(&about, &warning).await });
    }
}

/// A reference to an object, whichever version of it.
pub fn about<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference { resource_version: None, ..object.object_ref(&()) }
}

fn truncated(note: &str) -> String {
    note.chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= LONGEST_NOTE).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn notes_end_on_a_character() {
        let note = super::truncated(&"é".repeat(900));
        assert_eq!(note.len(), 1000);
    }
}
