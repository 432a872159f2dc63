//! The serial console in the terminal.

use std::convert::Infallible;

use anyhow::Result;
use futures::{SinkExt as _, StreamExt as _};
use kvmoor_crds::VirtualMachine;
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::args::ServerArgs;
use crate::server::Server;
use crate::socket::receive;
use crate::terminal::Raw;

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;

/// Connects the terminal with the serial port until Ctrl-] is typed, there is no more input, or the guest goes off.
pub async fn run(vm: &VirtualMachine, args: &ServerArgs) -> Result<Infallible> {
    let server = Server::connect(args, vm).await?;
    let socket = server.open("serial").await?;
    eprintln!("Connected. Ctrl-] leaves; press Enter if nothing shows.");
    let raw = Raw::enter()?;
    let ended = connect(socket).await;
    drop(raw);
    match &ended {
        Ok(why) => eprintln!("\r\n{why}"),
        Err(error) => eprintln!("\r\nerror: {error:#}"),
    }
    // A thread waits for the terminal's next key, and would keep the process until there is one.
    std::process::exit(i32::from(ended.is_err()))
}

async fn connect(socket: crate::socket::Socket) -> Result<String> {
    let (mut sink, stream) = socket.split();
    let up = async {
        let mut input = tokio::io::stdin();
        let mut buffer = vec![0; 4096];
        loop {
            let length = input.read(&mut buffer).await?;
            let typed = buffer.get(..length).unwrap_or_default();
            let leaves = typed.iter().position(|byte| *byte == LEAVE);
            let typed = typed.get(..leaves.unwrap_or(length)).unwrap_or_default();
            if !typed.is_empty() {
                sink.send(Message::binary(typed.to_vec())).await?;
            }
            if length == 0 || leaves.is_some() {
                sink.close().await?;
                return anyhow::Ok("Left.".to_owned());
            }
        }
    };
    tokio::select! {
        left = up => left,
        ended = receive(stream, tokio::io::stdout()) => ended,
    }
}
