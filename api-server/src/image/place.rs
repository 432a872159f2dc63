//! Which host the file of an image goes to. Pure.

use std::sync::Arc;

use kube::ResourceExt;
use kvmoor_crds::conditions::{self, types};
use kvmoor_crds::{Host, HostStatus};

use crate::error::{ApiError, Noun};

/// A host, and whether its Lease is in force.
pub type Known = (Arc<Host>, bool);

/// Where an upload ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// Where it need not begin: a host has the image.
    There,
    /// With this host.
    Host(Arc<Host>),
}

/// Whether a host has the image of that name.
pub fn has(host: &Host, image: &str) -> bool {
    status(host).is_some_and(|status| status.images.iter().any(|present| present.name == image))
}

/// Chooses among all hosts: the one that is asked for, else the one with the fewest images of those that take new virtual
/// machines.
pub fn choose(hosts: &[Known], image: &str, asked: Option<&str>) -> Result<Place, ApiError> {
    if let Some(name) = asked {
        let found = hosts.iter().find(|(host, _)| host.name_any() == name);
        let (host, alive) = found.ok_or(ApiError::NotFound(Noun::Host))?;
        return match is_ready(host, *alive) {
            false => Err(ApiError::Conflict(format!("Host {name} is not connected; name another, or none"))),
            true if has(host, image) => Ok(Place::There),
            true => Ok(Place::Host(host.clone())),
        };
    }
    let ready = || hosts.iter().filter(|(host, alive)| is_ready(host, *alive)).map(|(host, _)| host);
    if ready().any(|host| has(host, image)) {
        return Ok(Place::There);
    }
    let fewest = |host: &&Arc<Host>| (status(host).map_or(0, |status| status.images.len()), host.name_any());
    let chosen = ready().filter(|host| !host.spec.unschedulable).min_by_key(fewest);
    let nobody = "No host takes the file: none is connected and schedulable";
    chosen.map(|host| Place::Host(host.clone())).ok_or(ApiError::unavailable(nobody))
}

fn is_ready(host: &Host, alive: bool) -> bool {
    let connected = |status: &HostStatus| {
        conditions::is_true(&status.conditions, types::LIBVIRT_CONNECTED)
            && !status.addresses.is_empty()
            && status.certificate.is_some()
    };
    alive && status(host).is_some_and(connected)
}

fn status(host: &Host) -> Option<&HostStatus> {
    host.status.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(name: &str, images: &[&str], unschedulable: bool, connected: bool) -> Arc<Host> {
        let images: Vec<_> = images.iter().map(|name| json!({ "name": name, "virtualSize": 1 })).collect();
        let connected = if connected { "True" } else { "False" };
        let condition = json!({
            "type": types::LIBVIRT_CONNECTED, "status": connected, "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = json!({
            "images": images, "addresses": [{ "address": "192.0.2.1", "port": 1 }], "certificate": "c",
            "conditions": [condition],
        });
        let host = json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Host", "metadata": { "name": name },
            "spec": { "unschedulable": unschedulable }, "status": status,
        });
        Arc::new(serde_json::from_value(host).unwrap())
    }

    fn chosen(hosts: &[Known], asked: Option<&str>) -> Result<Option<String>, u16> {
        use axum::response::IntoResponse;
        match choose(hosts, "image", asked) {
            Ok(Place::There) => Ok(None),
            Ok(Place::Host(host)) => Ok(Some(host.name_any())),
            Err(error) => Err(error.into_response().status().as_u16()),
        }
    }

    #[test]
    fn one_that_is_connected_and_takes_new_ones_and_has_few() {
        let hosts = [
            (host("a", &["1", "2"], false, true), true),
            (host("b", &["1"], false, true), true),
            (host("c", &[], true, true), true),
            (host("d", &[], false, false), true),
            (host("e", &[], false, true), false),
        ];
        assert_eq!(chosen(&hosts, None), Ok(Some("b".into())));
        assert_eq!(chosen(&hosts, Some("c")), Ok(Some("c".into())));
        assert_eq!(chosen(&hosts, Some("d")), Err(409));
        assert_eq!(chosen(&hosts, Some("e")), Err(409));
        assert_eq!(chosen(&hosts, Some("f")), Err(404));
        assert_eq!(chosen(&hosts[2..], None), Err(503));
    }

    #[test]
    fn what_is_there_need_not_come() {
        let there = (host("a", &["image"], true, true), true);
        let lost = (host("b", &["image"], false, true), false);
        let other = (host("c", &[], false, true), true);
        assert_eq!(chosen(&[there.clone(), other.clone()], None), Ok(None));
        assert_eq!(chosen(&[there.clone(), other.clone()], Some("a")), Ok(None));
        assert_eq!(chosen(&[there, other.clone()], Some("c")), Ok(Some("c".into())));
        assert_eq!(chosen(&[lost, other], None), Ok(Some("c".into())), "a host that is away gives nothing");
    }
}
