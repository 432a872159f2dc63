//! What a candidate may do about the Lease. Pure.
//!
//! As in client-go, no two machines' clocks are compared: a Lease has run out when the candidate itself has not seen it
//! change for its whole duration.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// The Lease as a candidate saw it last, and when it last saw it change.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The Lease; nothing where there is none.
    pub lease: Option<Lease>,
    /// Since when it has looked like this.
    pub since: Instant,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nobody holds it: try to take it.
    Acquire,
    /// It is held under this candidate's name: renew it.
    Renew,
    /// Another holds it, at least until then.
    Yield {
        /// When it runs out unless it is renewed.
        until: Instant,
    },
}

/// What the candidate `me` may do about the Lease.
pub fn evaluate(sighting: &Sighting, me: &str, now: Instant) -> Action {
    let Some(spec) = sighting.lease.as_ref().and_then(|lease| lease.spec.as_ref()) else { return Action::Acquire };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() {
        return Action::Acquire;
    }
    if holder == me {
        return Action::Renew;
    }
    let until = sighting.since + duration(spec.lease_duration_seconds);
    if now >= until { Action::Acquire } else { Action::Yield { until } }
}

fn duration(seconds: Option<i32>) -> Duration {
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    fn held_by(holder: Option<&str>, since: Instant) -> Sighting {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Sighting { lease: Some(Lease { spec: Some(spec), ..Lease::default() }), since }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_free() {
        let now = Instant::now();
        for sighting in [Sighting { lease: None, since: now }, held_by(None, now), held_by(Some(""), now)] {
            assert_eq!(evaluate(&sighting, "me", now), Action::Acquire);
        }
        let without_spec = Sighting { lease: Some(Lease::default()), since: now };
        assert_eq!(evaluate(&without_spec, "me", now), Action::Acquire);
    }

    #[test]
    fn another_holder_has_its_whole_duration_from_the_last_change() {
        let start = Instant::now();
        let sighting = held_by(Some("other"), start);
        let until = start + Duration::from_secs(15);
        assert_eq!(evaluate(&sighting, "me", start), Action::Yield { until });
        assert_eq!(evaluate(&sighting, "me", until - Duration::from_millis(1)), Action::Yield { until });
        assert_eq!(evaluate(&sighting, "me", until), Action::Acquire);
    }

    #[test]
    fn what_is_mine_is_renewed_however_old() {
        let start = Instant::now();
        assert_eq!(evaluate(&held_by(Some("me"), start), "me", start + Duration::from_secs(3600)), Action::Renew);
    }
}
