//! The display: a local port, for any VNC viewer.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use futures::{SinkExt as _, StreamExt as _};
use kvmoor_crds::VirtualMachine;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::args::ServerArgs;
use crate::server::Server;
use crate::socket::{Socket, receive};

/// Bytes in a message at most.
const BUFFER: usize = 64 << 10;

/// Listens until it is interrupted. Each viewer gets a connection of its own; they share the display.
pub async fn run(vm: &VirtualMachine, listen: SocketAddr, args: &ServerArgs) -> Result<()> {
    let server = Server::connect(args, vm).await?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("vnc://{}", listener.local_addr()?);
    loop {
        let (viewer, _) = tokio::select! {
            accepted = listener.accept() => accepted.context("cannot accept a viewer")?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match server.open("vnc").await {
            Ok(socket) => drop(tokio::spawn(serve(viewer, socket))),
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
}

async fn serve(viewer: TcpStream, socket: Socket) {
    match connect(viewer, socket).await {
        Ok(why) => eprintln!("a viewer has left{}{why}", if why.is_empty() { "" } else { ": " }),
        Err(error) => eprintln!("error: {error:#}"),
    }
}

async fn connect(viewer: TcpStream, socket: Socket) -> Result<String> {
    let (mut from_viewer, to_viewer) = viewer.into_split();
    let (mut sink, stream) = socket.split();
    let up = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from_viewer.read(&mut buffer).await?;
            if length == 0 {
                sink.close().await?;
                return anyhow::Ok(String::new());
            }
            sink.send(Message::binary(buffer.get(..length).unwrap_or_default().to_vec())).await?;
        }
    };
    tokio::select! {
        left = up => left,
        ended = receive(stream, to_viewer) => ended,
    }
}
