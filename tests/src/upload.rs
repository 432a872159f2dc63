//! An upload over a bare connection, which goes as slowly, as far and as wrong as a test wants.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rest::Rest;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A request whose body is being sent.
pub struct Upload {
    stream: TcpStream,
    chunked: bool,
}

impl Upload {
    /// Begins a PUT with a body of that length, or of one that is not told.
    pub async fn begin(session: &Rest, path: &str, length: Option<usize>) -> Result<Self> {
        let address = session.base().strip_prefix("http://").context("http")?;
        let mut stream = TcpStream::connect(address).await?;
        let body = match length {
            Some(length) => format!("content-length: {length}"),
            None => "transfer-encoding: chunked".to_owned(),
        };
        let token = session.token().context("a session")?;
        let head = format!("PUT {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n{body}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        Ok(Self { stream, chunked: length.is_none() })
    }

    /// Sends a part of the body.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if self.chunked {
            self.stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
        }
        self.stream.write_all(bytes).await?;
        if self.chunked {
            self.stream.write_all(b"\r\n").await?;
        }
        Ok(())
    }

    /// Says that this was all, and reads the answer.
    pub async fn end(mut self) -> Result<(StatusCode, Value)> {
        if self.chunked {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        self.answer().await
    }

    /// Reads the answer.
    pub async fn answer(mut self) -> Result<(StatusCode, Value)> {
        let read = tokio::time::timeout(ANSWER, read(&mut self.stream)).await;
        read.context("no answer in time")?
    }
}

async fn read(stream: &mut TcpStream) -> Result<(StatusCode, Value)> {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let field =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
            let length: usize = field.context("a length")?.parse()?;
            if body.len() >= length {
                let status = head.split(' ').nth(1).context("a status")?;
                return Ok((StatusCode::from_bytes(status.as_bytes())?, serde_json::from_str(body)?));
            }
        }
        let more = stream.read_buf(&mut answer).await?;
        ensure!(more > 0, "the connection ended within the answer: {text:?}");
    }
}
