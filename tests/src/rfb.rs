//! A viewer as small as can be: RFB 3.8 (RFC 6143) over a WebSocket or the display's own socket, raw encoding only.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Why a WebSocket was not opened.
#[derive(Debug)]
pub struct Refused {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its body.
    pub body: String,
}

/// A viewer.
#[derive(Debug)]
pub struct Viewer {
    link: Link,
    buffer: VecDeque<u8>,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
}

/// What RFB is spoken over.
#[derive(Debug)]
enum Link {
    Socket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Display(UnixStream),
}

/// The display's size and what one update brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// The name that the server gives the display.
    pub name: String,
}

impl Viewer {
    /// Opens the WebSocket at `path` of the server at `base` (`http://…`), with these further headers.
    pub async fn open(base: &str, path: &str, headers: &[(&'static str, &str)]) -> Result<Result<Self, Refused>> {
        let url = format!("{}{path}", base.replacen("http", "ws", 1));
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse()?);
        }
        match timeout(DEADLINE, connect_async(request)).await.context("the handshake takes too long")? {
            Ok((socket, answer)) => {
                let protocol = answer.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().map(str::to_owned)).transpose()?;
                Ok(Ok(Self { link: Link::Socket(Box::new(socket)), buffer: VecDeque::new(), protocol }))
            }
            Err(Error::Http(answer)) => {
                let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
                Ok(Err(Refused { status: answer.status(), body }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A viewer of a display that libvirt has handed over.
    pub fn of_display(display: UnixStream) -> Self {
        Self { link: Link::Display(display), buffer: VecDeque::new(), protocol: None }
    }

    /// Speaks RFB up to the size of the display. `shared` says whether others may look on.
    pub async fn start(&mut self, shared: bool) -> Result<Screen> {
        ensure!(self.read(12).await? == b"RFB 003.008\n", "the version");
        self.write(b"RFB 003.008\n").await?;
        let count = self.read(1).await?[0];
        let types = self.read(usize::from(count)).await?;
        ensure!(types.contains(&1), "no security is needed behind the server's own: {types:?}");
        self.write(&[1]).await?;
        ensure!(self.read(4).await? == [0; 4], "security");
        self.write(&[u8::from(shared)]).await?;
        let head = self.read(24).await?;
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let length = u32::from_be_bytes([head[20], head[21], head[22], head[23]]);
        let name = String::from_utf8(self.read(usize::try_from(length)?).await?)?;
        // Raw only.
        self.write(&[2, 0, 0, 1, 0, 0, 0, 0]).await?;
        Ok(Screen { width: number(0), height: number(2), name })
    }

    /// Asks for the whole display and reads it: the bytes of its pixels.
    pub async fn update(&mut self, screen: &Screen) -> Result<usize> {
        let (width, height) = (screen.width.to_be_bytes(), screen.height.to_be_bytes());
        self.write(&[3, 0, 0, 0, 0, 0, width[0], width[1], height[0], height[1]]).await?;
        let kind = self.read(1).await?[0];
        ensure!(kind == 0, "a FramebufferUpdate: {kind}");
        let head = self.read(3).await?;
        let mut bytes = 0;
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
            let rectangle = self.read(12).await?;
            let number = |at: usize| usize::from(u16::from_be_bytes([rectangle[at], rectangle[at + 1]]));
            ensure!(rectangle[8..] == [0; 4], "raw: {rectangle:?}");
            let length = number(4) * number(6) * 4;
            self.read(length).await?;
            bytes += length;
        }
        Ok(bytes)
    }

    /// Reads that many bytes.
    pub async fn read(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            match &mut self.link {
                Link::Socket(socket) => match timeout(DEADLINE, socket.next()).await.context("nothing comes")? {
                    Some(Ok(Message::Binary(bytes))) => self.buffer.extend(bytes),
                    Some(Ok(Message::Ping(_))) => {}
                    other => bail!("not RFB: {other:?}"),
                },
                Link::Display(display) => {
                    let mut bytes = [0; 64 << 10];
                    let read = timeout(DEADLINE, display.read(&mut bytes)).await.context("nothing comes")??;
                    ensure!(read > 0, "the display is off");
                    self.buffer.extend(&bytes[..read]);
                }
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads text until `what` has come: all of it. Of a serial console, which speaks no RFB.
    pub async fn read_until(&mut self, what: &str, deadline: Duration) -> Result<String> {
        let end = tokio::time::Instant::now() + deadline;
        let mut searched = 0;
        loop {
            let text = self.buffer.make_contiguous();
            let found = text[searched..].windows(what.len()).position(|window| window == what.as_bytes());
            if let Some(at) = found {
                let read: Vec<u8> = self.buffer.drain(..searched + at + what.len()).collect();
                return Ok(String::from_utf8_lossy(&read).into_owned());
            }
            searched = text.len().saturating_sub(what.len());
            match tokio::time::timeout_at(end, self.socket()?.next()).await {
                Ok(Some(Ok(Message::Binary(bytes)))) => self.buffer.extend(bytes),
                Ok(Some(Ok(Message::Ping(_)))) => {}
                Ok(other) => bail!("{what:?} has not come, but {other:?} after {:?}", self.last()),
                Err(_) => bail!("{what:?} has not come in time, but {:?}", self.last()),
            }
        }
    }

    /// The WebSocket, where it is one: only those have texts and close codes.
    fn socket(&mut self) -> Result<&mut WebSocketStream<MaybeTlsStream<TcpStream>>> {
        match &mut self.link {
            Link::Socket(socket) => Ok(socket),
            Link::Display(_) => bail!("this is no WebSocket"),
        }
    }

    /// The end of what was read and not used.
    fn last(&mut self) -> String {
        let text = self.buffer.make_contiguous();
        String::from_utf8_lossy(&text[text.len().saturating_sub(500)..]).into_owned()
    }

    /// Writes text, in a text message.
    pub async fn write_text(&mut self, text: &str) -> Result<()> {
        Ok(self.socket()?.send(Message::text(text)).await?)
    }

    /// Writes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.link {
            Link::Socket(socket) => socket.send(Message::binary(bytes.to_vec())).await?,
            Link::Display(display) => display.write_all(bytes).await?,
        }
        Ok(())
    }

    /// Reads until the server closes: with which code, and why.
    pub async fn until_closed(&mut self, deadline: Duration) -> Result<Option<CloseFrame>> {
        let socket = self.socket()?;
        let closed = async {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => return Ok(frame),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(None),
                }
            }
        };
        timeout(deadline, closed).await.context("not closed in time")?
    }

    /// Closes.
    pub async fn close(mut self) -> Result<()> {
        self.socket()?.close(None).await?;
        self.until_closed(DEADLINE).await?;
        Ok(())
    }
}
