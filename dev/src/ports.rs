//! Free TCP ports of the loopback interface.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

/// What was given out: it is not listened on yet, perhaps, or its process is about to be started again.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// `N` different ports that nothing listens on at this moment, and that this process did not give out before.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // All are held until all are known, so that none is given out twice.
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        while *port == 0 || !given.insert(*port) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a port")?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
    }
    Ok(ports)
}

/// An address of the loopback interface that nothing listens on at this moment.
pub(crate) fn loopback() -> Result<SocketAddr> {
    let [port] = free::<1>()?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Whether nothing listens on `port`.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
