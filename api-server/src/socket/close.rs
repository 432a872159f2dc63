//! Closing a WebSocket with a code and a sentence that say why.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use futures::{Sink, SinkExt, Stream, StreamExt};

/// How long the peer may take to read what was sent before, and that it is over.
const FAREWELL: Duration = Duration::from_secs(8);

/// Why a WebSocket ends. The codes are those of RFC 6455, section 7.4.1, and of IANA's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// 1000: there is nothing more to come.
    Done(&'static str),
    /// 1001: the server stops; another one takes over.
    Stopping,
    /// 1008: the right to it has ended.
    NotAllowed(&'static str),
    /// 1011: something that it needs has failed.
    Failed(&'static str),
    /// 1013: the peer does not keep up.
    TooSlow,
    /// Nobody is there any more; nothing is sent.
    Gone,
}

impl Closing {
    /// The close code; `None` where nobody is there to read it.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Done(_) => Some(1000),
            Self::Stopping => Some(1001),
            Self::NotAllowed(_) => Some(1008),
            Self::Failed(_) => Some(1011),
            Self::TooSlow => Some(1013),
            Self::Gone => None,
        }
    }

    /// Why, in a sentence.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Done(reason) | Self::NotAllowed(reason) | Self::Failed(reason) => reason,
            Self::Stopping => "The server stops; connect again",
            Self::TooSlow => "You do not read as fast as things change; connect again",
            Self::Gone => "The peer is gone",
        }
    }
}

/// Says that it is over, and why, and waits a little until the peer has said so too.
pub async fn close<S, E>(mut socket: S, closing: Closing)
where
    S: Sink<Message> + Stream<Item = Result<Message, E>> + Unpin,
{
    let Some(code) = closing.code() else { return };
    let farewell = async {
        let frame = CloseFrame { code, reason: closing.reason().into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!(code, "the peer did not close its side");
    }
}
