//! Requests: passed on once the caller is known.

use std::sync::Arc;

use http::{Method, Request};
use hyper::body::Incoming;

use super::super::images::File;
use super::answer::{Answer, Refusal};
use super::caller::Caller;
use super::{Agent, images, log, serial, stats, vnc};
use crate::https::server::Handler;

impl Handler for Agent {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refusal> {
        answer(&self, request).await
    }
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_owned();
    let content = images::content(&path);
    let expected = match (&content, request.method()) {
        (Some(_), &Method::GET) => Caller::Node,
        _ => Caller::ApiServer,
    };
    let admitted = agent.callers.admit(request.headers()).await.and_then(|caller| caller.must_be(expected));
    if let Err(refusal) = admitted {
        // Who sends a file reads the answer only if nobody hangs up.
        File::of_body(request.into_body(), String::new()).let_go();
        return Err(refusal);
    }
    if let Some(content) = content {
        return match *request.method() {
            Method::GET => images::get(agent, content).await,
            Method::PUT => images::put(agent, content, request).await,
            _ => Err(Refusal::not_found()),
        };
    }
    let Some((uid, what)) = route(&path) else { return Err(Refusal::not_found()) };
    match (request.method(), what) {
        (&Method::GET, "stats") => stats::get(agent, uid).await,
        (&Method::GET, "log") => log::get(agent, uid, request.uri().query()).await,
        (&Method::GET, "serial") => serial::get(agent, uid, request).await,
        (&Method::GET, "vnc") => vnc::get(agent, uid, request).await,
        _ => Err(Refusal::not_found()),
    }
}

/// The UID and what is asked of it. A UID is a UUID: nothing else reaches libvirt.
fn route(path: &str) -> Option<(&str, &str)> {
    let (uid, what) = path.strip_prefix("/v1/vms/")?.split_once('/')?;
    let is_uuid = uid.len() == 36 && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_uuid.then_some((uid, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_are_looked_up() {
        let uid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(route(&kvmoor_crds::agent::stats_path(uid)), Some((uid, "stats")));
        assert_eq!(route(&kvmoor_crds::agent::vnc_path(uid)), Some((uid, "vnc")));
        assert_eq!(route(&kvmoor_crds::agent::serial_path(uid)), Some((uid, "serial")));
        for path in ["/", "/v1/vms/x/stats", "/v1/vms/../stats", "/v1/vms/", "/v1/vms//stats"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
