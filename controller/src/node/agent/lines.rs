//! One connection to a guest's serial port, however many look on: libvirt gives a serial port to one at a time, and a
//! user has several windows. What any of them types goes in, what the guest says goes to all.
//!
//! A viewer that does not keep up loses output, and is told how much: neither the guest nor the others wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::hypervisor::libvirt::serial::{Outlet, Piece, SerialPort};
use super::super::hypervisor::libvirt::{Connection, Libvirt};
use super::answer::Refusal;

/// Pieces of output that wait for the slowest viewer.
const OUTPUT: usize = 128;
/// Pieces of input that wait for the guest.
const INPUT: usize = 16;
/// How long the end of the last connection may take before the next one is opened.
const ENDING: Duration = Duration::from_secs(10);

/// The serial ports that are looked at, by UID.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<String, Slot>>);

/// Held while a serial port is opened, so that it is opened once.
type Slot = Arc<tokio::sync::Mutex<Option<Line>>>;

/// An open serial port. It is open for as long as somebody has its input.
struct Line {
    input: mpsc::WeakSender<Vec<u8>>,
    output: broadcast::Sender<Piece>,
    ended: CancellationToken,
    keeper: JoinHandle<()>,
}

/// Somebody who looks on.
pub struct Viewer {
    /// What goes to the guest.
    pub input: mpsc::Sender<Vec<u8>>,
    /// What comes from it.
    pub output: Output,
}

/// What the guest says.
pub struct Output {
    pieces: broadcast::Receiver<Piece>,
    ended: CancellationToken,
    position: Option<u64>,
    waiting: Option<Piece>,
}

impl Lines {
    /// One more viewer of the serial port of a virtual machine.
    pub async fn join(&self, hypervisor: &Libvirt, uid: &str) -> Result<Viewer, Refusal> {
        let slot = self.slot(uid);
        let mut line = slot.lock().await;
        if let Some(viewer) = line.as_ref().and_then(Line::viewer) {
            return Ok(viewer);
        }
        if let Some(mut old) = line.take()
            && tokio::time::timeout(ENDING, &mut old.keeper).await.is_err()
        {
            *line = Some(old);
            return Err(Refusal::unavailable("libvirt has not ended the last serial console yet"));
        }
        let (output, pieces) = broadcast::channel(OUTPUT);
        let connection = hypervisor.connection().with_news_only();
        let ended = CancellationToken::new();
        let outlet = Outlet::new(output.clone(), ended.clone());
        let port = hypervisor.serial(uid, outlet).await?.ok_or_else(Refusal::not_found)?;
        let (input, typed) = mpsc::channel(INPUT);
        let keeper = tokio::spawn(keep(Arc::new(port), typed, ended.clone(), connection));
        *line = Some(Line { input: input.downgrade(), output, ended: ended.clone(), keeper });
        Ok(Viewer { input, output: Output { pieces, ended, position: None, waiting: None } })
    }

    fn slot(&self, uid: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|line| is_open(line.as_ref())));
        Arc::clone(slots.entry(uid.to_owned()).or_default())
    }
}

fn is_open(line: Option<&Line>) -> bool {
    line.is_some_and(|line| !line.keeper.is_finished())
}

impl Line {
    fn viewer(&self) -> Option<Viewer> {
        let input = self.input.upgrade().filter(|_| !self.ended.is_cancelled())?;
        let (pieces, ended) = (self.output.subscribe(), self.ended.clone());
        Some(Viewer { input, output: Output { pieces, ended, position: None, waiting: None } })
    }
}

impl Output {
    /// What comes next, or `None` when the serial port has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(piece) = self.waiting.take() {
            return Some(piece.bytes);
        }
        let piece = loop {
            tokio::select! {
                // All that came before the end is told.
                biased;
                received = self.pieces.recv() => match received {
                    Ok(piece) => break piece,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
                () = self.ended.cancelled() => match self.pieces.try_recv() {
                    Ok(piece) => break piece,
                    Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                },
            }
        };
        let lost = self.position.map_or(0, |position| piece.start.saturating_sub(position));
        self.position = Some(piece.start.saturating_add(u64::try_from(piece.bytes.len()).unwrap_or_default()));
        if lost == 0 {
            return Some(piece.bytes);
        }
        self.waiting = Some(piece);
        Some(format!("\r\n[{lost} bytes were left out: this console does not keep up]\r\n").into_bytes())
    }
}

/// Passes on what is typed until nobody can type any more or the serial port has ended; then leaves it. A stream is told
/// nothing when libvirtd goes away: that is seen by the connection that everything else uses.
async fn keep(
    port: Arc<SerialPort>,
    mut typed: mpsc::Receiver<Vec<u8>>,
    ended: CancellationToken,
    mut connection: Connection,
) {
    loop {
        let bytes = tokio::select! {
            () = ended.cancelled() => break,
            () = connection.changed() => break,
            bytes = typed.recv() => match bytes {
                Some(bytes) => bytes,
                None => break,
            },
        };
        let to = Arc::clone(&port);
        // On a thread of its own: a guest that does not read makes it wait, until libvirt gives the connection up.
        match tokio::task::spawn_blocking(move || to.send(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(%error, "a serial console takes no more");
                break;
            }
            Err(_) => break,
        }
    }
    ended.cancel();
    drop(typed);
    let _ = tokio::task::spawn_blocking(move || drop(port)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(capacity: usize) -> (Outlet, Output) {
        let (sender, pieces) = broadcast::channel(capacity);
        let ended = CancellationToken::new();
        let outlet = Outlet::new(sender, ended.clone());
        (outlet, Output { pieces, ended, position: None, waiting: None })
    }

    #[tokio::test]
    async fn all_that_was_said_before_the_end_is_told() {
        let (mut outlet, mut output) = output(8);
        outlet.say(b"one ");
        outlet.say(b"two");
        outlet.end();
        assert_eq!(output.next().await.as_deref(), Some(&b"one "[..]));
        assert_eq!(output.next().await.as_deref(), Some(&b"two"[..]));
        assert_eq!(output.next().await, None);
    }

    #[tokio::test]
    async fn whoever_is_slow_is_told_how_much_it_has_missed() {
        let (mut outlet, mut output) = output(2);
        outlet.say(b"first");
        assert_eq!(output.next().await.as_deref(), Some(&b"first"[..]));
        for _ in 0..10 {
            outlet.say(b"1234567");
        }
        let note = String::from_utf8(output.next().await.unwrap()).unwrap();
        assert!(note.contains("[56 bytes were left out"), "{note}");
        assert_eq!(output.next().await.as_deref(), Some(&b"1234567"[..]));
        assert_eq!(output.next().await.as_deref(), Some(&b"1234567"[..]));
        outlet.end();
        assert_eq!(output.next().await, None);
    }
}
