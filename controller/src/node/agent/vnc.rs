//! `GET /v1/vms/{uid}/vnc` with an upgrade to `kvmoor-vnc`: then the bytes of the guest's VNC server, both ways.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use kvmoor_crds::agent::VNC_PROTOCOL;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;

use super::Agent;
use super::answer::{Answer, Refusal};

/// Consoles of one virtual machine at a time.
const PER_VM: usize = 8;
/// Consoles of all of them at a time.
const IN_ALL: usize = 256;
/// Bytes held in each direction: whoever reads slowly is written to slowly.
const BUFFER: usize = 64 << 10;

/// How many consoles are open, by UID.
#[derive(Clone, Default)]
pub struct Consoles(Arc<Mutex<HashMap<String, usize>>>);

impl Consoles {
    /// Counts one more until it is dropped.
    fn open(&self, uid: &str) -> Result<Open, Refusal> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= IN_ALL {
            return Err(Refusal::too_many("too many consoles are open on this host"));
        }
        let count = open.get(uid).copied().unwrap_or_default();
        if count >= PER_VM {
            return Err(Refusal::too_many("too many consoles of this virtual machine are open"));
        }
        open.insert(uid.to_owned(), count + 1);
        Ok(Open { consoles: self.clone(), uid: uid.to_owned() })
    }
}

/// An open console.
struct Open {
    consoles: Consoles,
    uid: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.consoles.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.uid);
            }
        }
    }
}

/// Connects the caller with the display of a virtual machine.
pub async fn get(agent: &Arc<Agent>, uid: &str, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
    if !asks_for_upgrade(request.headers()) {
        return Err(Refusal::bad_request("this is served over an upgrade to kvmoor-vnc"));
    }
    let open = agent.consoles.open(uid)?;
    let display = agent.hypervisor.display(uid).await?.ok_or_else(Refusal::not_found)?;
    let display = UnixStream::from_std(display).map_err(|error| Refusal::unavailable(&error.to_string()))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let open = open;
        tracing::info!(vm.uid = open.uid, "a console was opened");
        // Dropped without a farewell when the process ends, so that the other side sees that the guest did not do it.
        let outcome = agent.stop.run_until_cancelled(connect(upgrade, display)).await;
        match outcome {
            Some(Ok((up, down))) => {
                tracing::info!(vm.uid = open.uid, bytes.up = up, bytes.down = down, "a console was closed")
            }
            Some(Err(error)) => tracing::info!(vm.uid = open.uid, error = %error, "a console broke off"),
            None => {}
        }
    });
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(VNC_PROTOCOL));
    Ok(answer)
}

async fn connect(upgrade: hyper::upgrade::OnUpgrade, mut display: UnixStream) -> std::io::Result<(u64, u64)> {
    let caller = upgrade.await.map_err(std::io::Error::other)?;
    let mut caller = TokioIo::new(caller);
    let copied = copy_bidirectional_with_sizes(&mut caller, &mut display, BUFFER, BUFFER).await?;
    caller.shutdown().await?;
    Ok(copied)
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let value = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.eq_ignore_ascii_case(VNC_PROTOCOL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_counted_while_they_are_open() {
        let consoles = Consoles::default();
        let mut open: Vec<Open> = (0..PER_VM).map(|_| consoles.open("u").unwrap()).collect();
        assert_eq!(consoles.open("u").err().map(|refusal| refusal.status), Some(StatusCode::TOO_MANY_REQUESTS));
        open.push(consoles.open("v").unwrap());
        open.remove(0);
        open.push(consoles.open("u").unwrap());
        drop(open);
        assert!(consoles.0.lock().unwrap().is_empty());
    }
}
