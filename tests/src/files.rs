//! A real HTTP server for images, which behaves as well or as badly as a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a path is served.
#[derive(Clone)]
pub enum Serve {
    /// These bytes.
    File(Arc<Vec<u8>>),
    /// These bytes, as slowly as to take so long.
    Slowly(Arc<Vec<u8>>, Duration),
    /// The same, and nobody is told how many they are.
    Unsized(Arc<Vec<u8>>, Duration),
    /// Half of these bytes, then the connection ends.
    Half(Arc<Vec<u8>>),
    /// Zeros without end and without a length.
    Endless,
    /// A redirect to there.
    Redirect(String),
}

/// What was asked of the server.
#[derive(Default)]
struct Seen {
    requests: HashMap<String, usize>,
    bytes: HashMap<String, usize>,
}

/// The server. It ends when dropped.
pub struct Files {
    address: SocketAddr,
    paths: Arc<Mutex<HashMap<String, Serve>>>,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Files {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (paths, seen) = (Arc::default(), Arc::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&paths), Arc::clone(&seen)));
        Ok(Self { address, paths, seen, task })
    }

    /// Serves a path from now on.
    pub fn serve(&self, path: &str, how: Serve) -> String {
        self.paths.lock().unwrap().insert(path.to_owned(), how);
        self.url(path)
    }

    /// The URL of a path, served or not.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn requests(&self, path: &str) -> usize {
        self.seen.lock().unwrap().requests.get(path).copied().unwrap_or_default()
    }

    /// How many bytes of a path were sent, in all.
    pub fn sent(&self, path: &str) -> usize {
        self.seen.lock().unwrap().bytes.get(path).copied().unwrap_or_default()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, paths: Arc<Mutex<HashMap<String, Serve>>>, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (paths, seen) = (Arc::clone(&paths), Arc::clone(&seen));
        // Whoever goes away in the middle is what some tests are about.
        tokio::spawn(async move { answer(stream, &paths, &seen).await });
    }
}

async fn answer(
    mut stream: TcpStream,
    paths: &Mutex<HashMap<String, Serve>>,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..count]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    *seen.lock().unwrap().requests.entry(path.clone()).or_default() += 1;
    let how = paths.lock().unwrap().get(&path).cloned();
    let (bytes, wait, length) = match how {
        Some(Serve::File(bytes)) => (bytes.clone(), Duration::ZERO, bytes.len()),
        Some(Serve::Slowly(bytes, duration)) => (bytes.clone(), pause(&bytes, duration), bytes.len()),
        Some(Serve::Unsized(bytes, duration)) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            return pour(stream, &bytes, pause(&bytes, duration), &path, seen).await;
        }
        Some(Serve::Half(bytes)) => (Arc::new(bytes[..bytes.len() / 2].to_vec()), Duration::ZERO, bytes.len()),
        Some(Serve::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(&[0; PIECE]).await?;
                *seen.lock().unwrap().bytes.entry(path.clone()).or_default() += PIECE;
            }
        }
        Some(Serve::Redirect(target)) => {
            let head = format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).await;
        }
        None => return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await,
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    pour(stream, &bytes, wait, &path, seen).await
}

/// The pause after each piece, so that all of them take so long.
fn pause(bytes: &[u8], duration: Duration) -> Duration {
    duration / u32::try_from(bytes.len().div_ceil(PIECE)).unwrap_or(1).max(1)
}

async fn pour(
    mut stream: TcpStream,
    bytes: &[u8],
    pause: Duration,
    path: &str,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        stream.write_all(piece).await?;
        *seen.lock().unwrap().bytes.entry(path.to_owned()).or_default() += piece.len();
        tokio::time::sleep(pause).await;
    }
    stream.shutdown().await
}

/// Bytes that are sent at once.
const PIECE: usize = 64 << 10;
