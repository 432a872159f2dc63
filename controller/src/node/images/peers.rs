//! Getting what was uploaded from another host that has it.
//!
//! Which hosts have an image, where they listen and with which certificate stands in the Hosts. What they give is checked
//! as whatever comes from a server: a host that lies can refuse an image and not forge one, and the next attempt may be
//! with another.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use kvmoor_crds::pinned::Endpoint;
use kvmoor_crds::{Host, agent};
use rand::seq::SliceRandom;

use super::failure::{Failure, Reason};
use super::file::File;
use super::record::Content;
use crate::https::client;

/// How long a call of the Kubernetes API may take.
const LIST: Duration = Duration::from_secs(10);
/// How long a host may take to begin.
const OPEN: Duration = Duration::from_secs(10);
/// Hosts that are asked in one attempt.
const ASKED: usize = 3;

/// The other hosts.
#[derive(Clone)]
pub struct Peers {
    hosts: Api<DeserializeGuard<Host>>,
    token_file: PathBuf,
    node_name: String,
}

/// Another host that says that it has an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    name: String,
    endpoint: Endpoint,
}

impl Peers {
    /// Those that the host of that name proves itself to by the token in that file.
    pub fn new(client: Client, token_file: PathBuf, node_name: String) -> Self {
        Self { hosts: Api::all(client), token_file, node_name }
    }

    /// Begins to get the image of that name: the host that gives it, and what it gives.
    pub async fn open(&self, image: &str, content: &Content) -> Result<(String, File), Failure> {
        let hosts = tokio::time::timeout(LIST, self.hosts.list(&ListParams::default())).await;
        let hosts = match hosts {
            Ok(Ok(hosts)) => hosts.items.into_iter().filter_map(|host| host.0.ok()).collect::<Vec<_>>(),
            Ok(Err(_)) | Err(_) => {
                return Err(Failure::lost("the Kubernetes API does not say which hosts have it".to_owned()));
            }
        };
        let mut peers = peers(&hosts, image, &self.node_name);
        if peers.is_empty() {
            return Err(Failure::not_uploaded(image));
        }
        peers.shuffle(&mut rand::rng());
        let mut last = None;
        for peer in peers.into_iter().take(ASKED) {
            match self.ask(&peer, content).await {
                Ok(file) => return Ok((peer.name, file)),
                Err(why) => {
                    tracing::debug!(host.name = peer.name, image.sha256 = content.sha256, why, "no image from there");
                    last = Some(Failure::lost(format!("host {} has it, but {why}", peer.name)));
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::not_uploaded(image)))
    }

    async fn ask(&self, peer: &Peer, content: &Content) -> Result<File, String> {
        // Read each time: the kubelet puts a new one there before the old one ends.
        let token = tokio::fs::read_to_string(&self.token_file).await;
        let token = token.map_err(|error| format!("this host's token cannot be read: {error}"))?;
        let path = agent::image_path(&content.sha256, content.format.as_str());
        let asked = tokio::time::timeout(OPEN, client::get(&peer.endpoint, &path, &token)).await;
        let silent = "it cannot be reached".to_owned();
        let (answer, connection) = asked.map_err(|_| silent.clone())?.map_err(|_| silent)?;
        match answer.status() {
            StatusCode::OK => Ok(File::of_body(answer.into_body(), format!("host {}", peer.name)).over(connection)),
            StatusCode::TOO_MANY_REQUESTS => Err("it gives others images at the moment".to_owned()),
            status => Err(format!("it answers {status}")),
        }
    }
}

/// A host as one to be asked for an image: it is another than `own`, says that it has it, and where it listens.
pub fn peer(host: &Host, image: &str, own: &str) -> Option<Peer> {
    let name = host.metadata.name.clone().filter(|name| name != own)?;
    host.status.as_ref()?.images.iter().find(|present| present.name == image)?;
    Some(Peer { name, endpoint: agent::endpoint(host).ok()? })
}

/// All of these that can be asked.
fn peers(hosts: &[Host], image: &str, own: &str) -> Vec<Peer> {
    hosts.iter().filter_map(|host| peer(host, image, own)).collect()
}

/// What a failure means when a host gave the file: that one host, not the Image, is wrong.
pub fn blame(host: &str, failure: Failure) -> Failure {
    match failure.reason {
        Reason::ChecksumMismatch | Reason::Invalid | Reason::TooLarge => {
            Failure::lost(format!("what host {host} gives is not the image"))
        }
        Reason::DownloadFailed => Failure::lost(failure.message),
        Reason::SourceRefused
        | Reason::NotUploaded
        | Reason::SourceLost
        | Reason::PoolFull
        | Reason::PoolUnavailable => failure,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(name: &str, images: &[&str], address: &str) -> Host {
        let images: Vec<_> = images.iter().map(|name| json!({ "name": name, "virtualSize": 1 })).collect();
        serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "Host", "metadata": { "name": name }, "spec": {},
            "status": { "images": images, "addresses": [{ "address": address, "port": 18445 }], "certificate": "c" },
        }))
        .unwrap()
    }

    #[test]
    fn others_that_say_that_they_have_it_are_asked() {
        let mut mute = host("mute", &["image"], "192.0.2.4");
        mute.status.as_mut().unwrap().certificate = None;
        let hosts = [
            host("own", &["image"], "192.0.2.1"),
            host("a", &["other", "image"], "192.0.2.2"),
            host("b", &["other"], "192.0.2.3"),
            mute,
            host("c", &["image"], "2001:db8::1"),
        ];
        let found = peers(&hosts, "image", "own");
        let addresses: Vec<_> = found.iter().map(|peer| (peer.endpoint.address.as_str(), peer.endpoint.port)).collect();
        assert_eq!(addresses, [("192.0.2.2", 18445), ("2001:db8::1", 18445)]);
        assert_eq!(peers(&hosts, "none", "own"), []);
    }

    #[test]
    fn a_host_that_lies_is_blamed_and_not_the_image() {
        for reason in [Reason::ChecksumMismatch, Reason::Invalid, Reason::TooLarge, Reason::DownloadFailed] {
            let failure = blame("a", Failure { reason, message: "host a: it broke off".into() });
            assert_eq!(failure.reason, Reason::SourceLost);
            assert!(failure.message.contains("host a"));
        }
        let full = Failure { reason: Reason::PoolFull, message: String::new() };
        assert_eq!(blame("a", full.clone()), full);
    }
}
