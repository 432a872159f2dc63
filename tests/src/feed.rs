//! A client of `/ws/vm-status`, as a user's program would write it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::rest::Rest;

/// No frame that a test waits for takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// How a connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What the page's origin is, if it is a page's.
    pub origin: Option<&'a str>,
    /// Bytes that the kernel may hold of what was not read yet.
    pub receive_buffer: Option<u32>,
}

/// An open feed.
pub struct Feed(WebSocketStream<TcpStream>);

/// What ended a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code.
    pub code: u16,
    /// Why, in a sentence.
    pub reason: String,
}

/// Why a feed was not opened: the HTTP status and the body.
#[derive(Clone, Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// The error as JSON.
    pub body: Value,
}

impl Feed {
    /// Opens a feed with the session's token; `query` is added to the URL, such as `vm_id=1`.
    pub async fn open(session: &Rest, query: &str) -> Result<Self> {
        let token = session.token().context("a session")?;
        let query = format!("token={token}&{query}");
        match Self::try_open(session.base(), &query, Options::default()).await? {
            Ok(feed) => Ok(feed),
            Err(refused) => bail!("refused: {refused:?}"),
        }
    }

    /// Tries to open a feed with exactly this query.
    pub async fn try_open(base: &str, query: &str, options: Options<'_>) -> Result<Result<Self, Refused>> {
        let authority = base.strip_prefix("http://").context("plain HTTP")?;
        let mut request = format!("ws://{authority}/ws/vm-status?{query}").into_client_request()?;
        if let Some(origin) = options.origin {
            request.headers_mut().insert("origin", HeaderValue::from_str(origin)?);
        }
        let address = lookup_host(authority).await?.next().context("an address")?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(address).await?;
        match tokio::time::timeout(DEADLINE, client_async(request, stream)).await.context("the handshake")? {
            Ok((socket, _)) => Ok(Ok(Self(socket))),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Ok(Err(Refused { status: response.status().as_u16(), body: serde_json::from_slice(body)? }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next message of any kind; `None` at the end of the connection.
    pub async fn message(&mut self) -> Option<Result<Message, Error>> {
        self.0.next().await
    }

    /// Shows that it is there, without reading.
    pub async fn nudge(&mut self) -> Result<()> {
        Ok(self.0.send(Message::Pong(Bytes::new())).await?)
    }

    /// The next frame, or what closed the feed.
    pub async fn next(&mut self) -> Result<Result<Value, Closed>> {
        loop {
            match tokio::time::timeout(DEADLINE, self.0.next()).await.context("no frame in time")? {
                Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
                Some(Ok(Message::Close(Some(frame)))) => {
                    let closed = Closed { code: frame.code.into(), reason: frame.reason.to_string() };
                    // The answer to it goes out with the next read.
                    while let Some(Ok(_)) = self.0.next().await {}
                    return Ok(Err(closed));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => bail!("not what the feed may say: {other:?}"),
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Result<Value> {
        match self.next().await? {
            Ok(frame) => Ok(frame),
            Err(closed) => bail!("closed: {closed:?}"),
        }
    }

    /// Reads to the end: all frames, and what closed it.
    pub async fn rest(&mut self) -> Result<(Vec<Value>, Closed)> {
        let mut frames = Vec::new();
        loop {
            match self.next().await? {
                Ok(frame) => frames.push(frame),
                Err(closed) => return Ok((frames, closed)),
            }
        }
    }

    /// Reads up to the first frame that `accept` takes: all frames until then, and it.
    pub async fn until(&mut self, what: &str, accept: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await.with_context(|| format!("{what}; seen: {} frames", frames.len()))?;
            let accepted = accept(&frame);
            frames.push(frame);
            if accepted {
                return Ok(frames);
            }
        }
    }

    /// The first frame, which must be `vm_list`: the ids in it.
    pub async fn list(&mut self) -> Result<Vec<i64>> {
        let frame = self.frame().await?;
        ensure!(frame["type"] == "vm_list", "first a list: {frame}");
        let vms = frame["vms"].as_array().context("vms")?;
        vms.iter().map(|vm| vm["id"].as_i64().context("an id")).collect()
    }
}
