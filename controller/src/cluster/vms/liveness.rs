//! Whether a host's node controller lives, from its Lease. Pure.
//!
//! As for the leader's Lease, what counts is when the renewal was seen here, by the clock here. Only of the first look after
//! a start, the written time is believed as far as it says that the host lives: after an outage of the Kubernetes API every
//! Lease is old, and no host is lost.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kvmoor_crds::names;
use tokio::time::Instant;

/// How long a host has to show itself where its Lease does not say or is missing.
const DEFAULT_DURATION: Duration = Duration::from_secs(40);

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It renewed its Lease in time.
    Live,
    /// It has not been watched for long enough to tell: nothing new is placed there, nothing is said to be lost.
    Doubtful,
    /// It did not renew its Lease in time.
    Lost,
}

/// The renewals that were seen, by node name.
#[derive(Debug, Default)]
pub struct Renewals {
    seen: HashMap<String, Renewal>,
}

#[derive(Debug)]
struct Renewal {
    renewed: Option<Timestamp>,
    live_until: Instant,
    lost_from: Instant,
}

impl Renewals {
    /// Takes in a Lease as the watch shows it. Leases of others are ignored.
    pub fn see(&mut self, lease: &Lease, now: Instant, wall: Timestamp) {
        let prefix = names::host_lease("");
        let Some(node) = lease.metadata.name.as_deref().and_then(|name| name.strip_prefix(&prefix)) else { return };
        let spec = lease.spec.as_ref();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let duration = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_DURATION, Duration::from_secs);
        let live_until = match self.seen.get(node) {
            Some(before) if before.renewed == renewed => return,
            Some(_) => now + duration,
            None => now + duration.saturating_sub(age(renewed, wall)),
        };
        let lost_from = now + duration;
        self.seen.insert(node.to_owned(), Renewal { renewed, live_until, lost_from });
    }

    /// A host without a Lease has as long to show one as if it had just renewed it.
    pub fn expect<'a>(&mut self, nodes: impl Iterator<Item = &'a str>, now: Instant) {
        for node in nodes {
            if !self.seen.contains_key(node) {
                let renewal = Renewal { renewed: None, live_until: now, lost_from: now + DEFAULT_DURATION };
                self.seen.insert(node.to_owned(), renewal);
            }
        }
    }

    /// What is known of a host now.
    pub fn of(&self, node: &str, now: Instant) -> Liveness {
        match self.seen.get(node) {
            Some(renewal) if now < renewal.live_until => Liveness::Live,
            Some(renewal) if now >= renewal.lost_from => Liveness::Lost,
            _ => Liveness::Doubtful,
        }
    }

    /// The next time after `now` at which an answer of [`Self::of`] changes by itself.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let times = self.seen.values().flat_map(|renewal| [renewal.live_until, renewal.lost_from]);
        times.filter(|time| *time > now).min()
    }
}

fn age(renewed: Option<Timestamp>, wall: Timestamp) -> Duration {
    renewed.map_or(Duration::MAX, |renewed| Duration::try_from(wall.duration_since(renewed)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    const WALL: i64 = 1_000_000;

    fn lease(renewed: i64) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some("kvmoor-host-n1".to_owned());
        lease.spec = Some(LeaseSpec {
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(at(renewed))),
            ..LeaseSpec::default()
        });
        lease
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_host_is_lost_when_its_lease_runs_out_and_back_when_it_renews() {
        let start = Instant::now();
        let mut renewals = Renewals::default();
        renewals.see(&lease(WALL), start, at(WALL));
        assert_eq!(renewals.of("n1", start + seconds(39)), Liveness::Live);
        assert_eq!(renewals.next_change(start), Some(start + seconds(40)));
        assert_eq!(renewals.of("n1", start + seconds(40)), Liveness::Lost);
        assert_eq!(renewals.next_change(start + seconds(40)), None);
        renewals.see(&lease(WALL + 90), start + seconds(60), at(WALL));
        assert_eq!(renewals.of("n1", start + seconds(99)), Liveness::Live);
    }

    #[test]
    fn seeing_the_same_renewal_again_proves_nothing() {
        let start = Instant::now();
        let mut renewals = Renewals::default();
        renewals.see(&lease(WALL), start, at(WALL));
        renewals.see(&lease(WALL), start + seconds(30), at(WALL + 30));
        assert_eq!(renewals.of("n1", start + seconds(40)), Liveness::Lost);
    }

    #[test]
    fn after_an_outage_of_the_api_no_host_is_lost_until_it_had_its_time() {
        let start = Instant::now();
        let mut renewals = Renewals::default();
        renewals.see(&lease(WALL - 300), start, at(WALL));
        assert_eq!(renewals.of("n1", start), Liveness::Doubtful);
        assert_eq!(renewals.of("n1", start + seconds(39)), Liveness::Doubtful);
        assert_eq!(renewals.of("n1", start + seconds(40)), Liveness::Lost);
        renewals.see(&lease(WALL + 5), start + seconds(5), at(WALL + 5));
        assert_eq!(renewals.of("n1", start + seconds(5)), Liveness::Live);
    }

    #[test]
    fn a_host_without_a_lease_gets_time_to_show_one() {
        let start = Instant::now();
        let mut renewals = Renewals::default();
        renewals.expect(["n1"].into_iter(), start);
        assert_eq!(renewals.of("n1", start), Liveness::Doubtful);
        assert_eq!(renewals.of("n1", start + DEFAULT_DURATION), Liveness::Lost);
        assert_eq!(renewals.of("n2", start), Liveness::Doubtful);
    }
}
