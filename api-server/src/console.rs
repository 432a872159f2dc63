//! A guest's console between a WebSocket and the host: the bytes of its display or of its serial port in binary
//! messages, both ways.
//!
//! Each direction holds one buffer: whoever reads slowly is written to slowly, all the way to QEMU.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::agent::Console;
use crate::app::App;
use crate::auth::session::Session;
use crate::metrics::Socket;
use crate::socket::{Closing, close};

/// Bytes of the console in a message at most.
const BUFFER: usize = 64 << 10;
/// How often a ping is sent.
const PING: Duration = Duration::from_secs(15);
/// A viewer that was silent for this long, pings notwithstanding, is gone.
const SILENCE: Duration = Duration::from_secs(50);
/// How long the host may take to take what the viewer says.
const INPUT: Duration = Duration::from_secs(15);
/// How long the host may take to hear that it is over.
const HANG_UP: Duration = Duration::from_secs(1);

/// What a console shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The guest's display, in RFB.
    Display,
    /// The guest's serial port.
    Serial,
}

impl Kind {
    /// The bytes of a text message, where such are taken.
    fn text(self, text: Utf8Bytes) -> Result<Bytes, Closing> {
        match self {
            Self::Display => Err(Closing::NotAllowed("RFB is spoken in binary messages")),
            // Terminals in browsers send what is typed as text.
            Self::Serial => Ok(text.into()),
        }
    }

    fn off(self) -> &'static str {
        match self {
            Self::Display => "The VM's display is off",
            Self::Serial => "The VM is off",
        }
    }

    fn stuck(self) -> &'static str {
        match self {
            Self::Display => "The VM's host does not answer",
            Self::Serial => "The VM does not read its serial port",
        }
    }
}

/// Serves a console to its end.
pub async fn serve(app: &App, mut socket: WebSocket, session: &Session, kind: Kind, console: Console) {
    let begin = Instant::now();
    let open = app.metrics.opened(Socket::Console);
    let (mut sink, mut stream) = StreamExt::split(&mut socket);
    let (mut from_guest, mut to_guest) = tokio::io::split(console);
    let closing = tokio::select! {
        biased;
        reason = session.ended(app) => Closing::NotAllowed(reason),
        () = app.stop.cancelled() => Closing::Stopping,
        closing = up(kind, &mut stream, &mut to_guest) => closing,
        closing = down(kind, &mut from_guest, &mut sink) => closing,
    };
    // Before the farewell, which may take its time: the host's end is free at once.
    let _ = timeout(HANG_UP, to_guest.shutdown()).await;
    drop((from_guest, to_guest));
    drop((sink, stream));
    close(&mut socket, closing).await;
    drop(open);
    app.metrics.closed(Socket::Console, closing.code());
    let seconds = begin.elapsed().as_secs();
    tracing::info!(code = closing.code(), reason = closing.reason(), ?kind, seconds, "console closed");
}

/// What the viewer says.
async fn up(kind: Kind, stream: &mut SplitStream<&mut WebSocket>, to_guest: &mut WriteHalf<Console>) -> Closing {
    loop {
        let bytes = match timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Text(text)))) => match kind.text(text) {
                Ok(bytes) => bytes,
                Err(closing) => return closing,
            },
            // After a Close the stream ends by itself, once it is answered.
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)))) => continue,
            Ok(Some(Err(_)) | None) | Err(_) => return Closing::Gone,
        };
        let written = async {
            to_guest.write_all(&bytes).await?;
            to_guest.flush().await
        };
        match timeout(INPUT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Closing::Failed("The VM's host has closed the connection"),
            Err(_) => return Closing::Failed(kind.stuck()),
        }
    }
}

/// What the guest shows.
async fn down(
    kind: Kind,
    from_guest: &mut ReadHalf<Console>,
    sink: &mut SplitSink<&mut WebSocket, Message>,
) -> Closing {
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; BUFFER];
    loop {
        let message = tokio::select! {
            read = from_guest.read(&mut buffer) => match read {
                // The host says farewell only when it was the guest that ended it.
                Ok(0) => return Closing::Done(kind.off()),
                Ok(length) => Message::Binary(Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())),
                Err(_) => return Closing::Failed("The VM's host has broken off"),
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return Closing::Gone;
        }
    }
}
