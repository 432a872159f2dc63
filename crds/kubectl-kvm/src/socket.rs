//! A WebSocket, encrypted where the server is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use futures::stream::SplitStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, http::Uri};
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long it may take to open it.
const DEADLINE: Duration = Duration::from_secs(20);

/// What bytes go over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open WebSocket.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// Opens the WebSocket at `path` of the server at `base`, which begins with http or https.
pub async fn open(base: &str, path: &str) -> Result<Socket> {
    match tokio::time::timeout(DEADLINE, connect(base, path)).await {
        Ok(opened) => opened,
        Err(_) => bail!("{base} does not answer within {} s", DEADLINE.as_secs()),
    }
}

async fn connect(base: &str, path: &str) -> Result<Socket> {
    let uri: Uri = base.parse().with_context(|| format!("{base} is no address of a server"))?;
    let host = uri.host().with_context(|| format!("{base} has no host name"))?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => bail!("{base} must begin with https:// or http://"),
    };
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let stream = stream.with_context(|| format!("cannot connect to {host}:{port}"))?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Stream> = if encrypted { Box::new(encrypt(host, stream).await?) } else { Box::new(stream) };
    let request = format!("{}{path}", base.replacen("http", "ws", 1)).into_client_request()?;
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap_or_default();
            let why = body.get("message").and_then(Value::as_str).unwrap_or("no reason was given");
            bail!("{}: {why}", answer.status())
        }
        Err(error) => Err(error).context("cannot open the WebSocket"),
    }
}

async fn encrypt(host: &str, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("the server's certificate is not trusted")
}

/// Writes what the server sends until it closes, and returns what it says of that.
pub async fn receive(mut stream: SplitStream<Socket>, mut output: impl AsyncWrite + Unpin) -> Result<String> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                output.write_all(&bytes).await?;
                output.flush().await?;
            }
            Some(Ok(Message::Close(frame))) => return farewell(frame.as_ref()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return farewell(None),
        }
    }
}

/// Whether the server has closed it because there is no more to come, and what it says of that.
fn farewell(frame: Option<&CloseFrame>) -> Result<String> {
    match frame {
        Some(frame) if u16::from(frame.code) == 1000 => Ok(frame.reason.to_string()),
        Some(frame) => bail!("closed by the server: {} ({})", frame.reason, frame.code),
        None => bail!("the connection broke off"),
    }
}
