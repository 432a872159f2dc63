//! `GET /v1/vms/{uid}/vnc` with an upgrade to `kvmoor-vnc`: then the bytes of the guest's VNC server, both ways.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kvmoor_crds::agent::VNC_PROTOCOL;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;

use super::answer::{Answer, Refusal};
use super::{Agent, upgrade};

/// Bytes held in each direction: whoever reads slowly is written to slowly.
const BUFFER: usize = 64 << 10;

/// Connects the caller with the display of a virtual machine.
pub async fn get(agent: &Arc<Agent>, uid: &str, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
    upgrade::check(request.headers(), VNC_PROTOCOL)?;
    let open = agent.displays.open(uid)?;
    let display = agent.hypervisor.display(uid).await?.ok_or_else(Refusal::not_found)?;
    let display = UnixStream::from_std(display).map_err(|error| Refusal::unavailable(&error.to_string()))?;
    let upgraded = hyper::upgrade::on(&mut request);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let open = open;
        tracing::info!(vm.uid = open.uid(), "a display was opened");
        // Dropped without a farewell when the process ends, so that the other side sees that the guest did not do it.
        let outcome = agent.stop.run_until_cancelled(connect(upgraded, display)).await;
        match outcome {
            Some(Ok((up, down))) => {
                tracing::info!(vm.uid = open.uid(), bytes.up = up, bytes.down = down, "a display was closed")
            }
            Some(Err(error)) => tracing::info!(vm.uid = open.uid(), error = %error, "a display broke off"),
            None => {}
        }
    });
    Ok(upgrade::answer(VNC_PROTOCOL))
}

async fn connect(upgraded: hyper::upgrade::OnUpgrade, mut display: UnixStream) -> std::io::Result<(u64, u64)> {
    let caller = upgraded.await.map_err(std::io::Error::other)?;
    let mut caller = TokioIo::new(caller);
    let copied = copy_bidirectional_with_sizes(&mut caller, &mut display, BUFFER, BUFFER).await?;
    caller.shutdown().await?;
    Ok(copied)
}
