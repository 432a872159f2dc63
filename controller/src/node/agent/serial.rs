//! `GET /v1/vms/{uid}/serial` with an upgrade to `kvmoor-serial`: then the bytes of the guest's serial port, both ways.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use kvmoor_crds::agent::SERIAL_PROTOCOL;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::super::hypervisor::libvirt::serial::INPUT;
use super::answer::{Answer, Refusal};
use super::lines::{Output, Viewer};
use super::{Agent, upgrade};

/// After its serial port has ended, libvirt may say for so long that the virtual machine is still on.
const GOING_OFF: Duration = Duration::from_secs(3);
/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a viewer is served no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The viewer has gone.
    Left,
    /// The serial port has ended.
    Over,
}

/// Connects the caller with the serial port of a virtual machine.
pub async fn get(agent: &Arc<Agent>, uid: &str, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
    upgrade::check(request.headers(), SERIAL_PROTOCOL)?;
    let open = agent.terminals.open(uid)?;
    let viewer = agent.lines.join(&agent.hypervisor, uid).await?;
    let upgraded = hyper::upgrade::on(&mut request);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let open = open;
        tracing::info!(vm.uid = open.uid(), "a serial console was opened");
        // Dropped without a farewell when the process ends, so that the other side sees that the guest did not do it.
        match agent.stop.run_until_cancelled(serve(&agent, open.uid(), upgraded, viewer)).await {
            Some(Ok(())) => tracing::info!(vm.uid = open.uid(), "a serial console was closed"),
            Some(Err(error)) => tracing::info!(vm.uid = open.uid(), error = %error, "a serial console broke off"),
            None => {}
        }
    });
    Ok(upgrade::answer(SERIAL_PROTOCOL))
}

async fn serve(agent: &Agent, uid: &str, upgraded: OnUpgrade, viewer: Viewer) -> std::io::Result<()> {
    let caller = TokioIo::new(upgraded.await.map_err(std::io::Error::other)?);
    let (from_caller, mut to_caller) = tokio::io::split(caller);
    let Viewer { input, mut output } = viewer;
    let end = tokio::select! {
        end = up(from_caller, &input) => end?,
        end = down(&mut output, &mut to_caller) => end?,
    };
    // The others still look on; the serial port itself is left as soon as nobody does.
    drop((input, output));
    if end == End::Over && !is_off(agent, uid).await {
        return Err(std::io::Error::other("libvirt has ended the stream"));
    }
    to_caller.shutdown().await
}

/// What the viewer types. While the guest does not take it, no more is read.
async fn up(mut from: ReadHalf<TokioIo<Upgraded>>, input: &mpsc::Sender<Vec<u8>>) -> std::io::Result<End> {
    let mut buffer = vec![0; INPUT];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(End::Left);
        }
        if input.send(buffer.get(..length).unwrap_or_default().to_vec()).await.is_err() {
            return Ok(End::Over);
        }
    }
}

/// What the guest says, to its end.
async fn down(output: &mut Output, to: &mut WriteHalf<TokioIo<Upgraded>>) -> std::io::Result<End> {
    while let Some(bytes) = output.next().await {
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    Ok(End::Over)
}

/// Whether the serial port has ended because the virtual machine is off. On a busy host libvirt takes seconds to turn it off
/// after that, in which it answers nothing.
async fn is_off(agent: &Agent, uid: &str) -> bool {
    let begin = Instant::now();
    loop {
        match agent.hypervisor.is_on(uid).await {
            Ok(false) => return true,
            Err(error) if error.is_unreachable() => return false,
            // It may have been undefined between libvirt's two answers.
            Ok(true) | Err(_) if begin.elapsed() < GOING_OFF => tokio::time::sleep(LOOK_EVERY).await,
            Ok(true) | Err(_) => return false,
        }
    }
}
