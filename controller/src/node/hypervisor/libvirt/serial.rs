//! The serial port of one domain as a stream of libvirt. Blocking, for threads that may block.
//!
//! Each has a connection of its own: libvirtd stops reading from a connection whose stream the guest does not empty,
//! and the reconcile's calls must not wait behind somebody's paste. What the guest says is read on the thread of
//! libvirt's event loop and passed on at once, since libvirt would keep without bound what is not read.

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;
use virt::stream::Stream;
use virt_sys as sys;

use super::super::{Class, HvError};
use super::{domain, error};

/// Bytes of input in one message.
pub const INPUT: usize = 4 << 10;
/// Bytes of output in one piece.
const OUTPUT: usize = 4 << 10;
/// Pieces that are read in one go; then the domains' events have their turn.
const IN_ONE_GO: usize = 16;
/// A guest that takes no input for longer has its console closed: a probe every so many seconds, and so many of them.
const KEEPALIVE: (i32, u32) = (5, 6);
/// What libvirt's calls on a stream return when they would block.
const WOULD_BLOCK: c_int = -2;
/// Pause before such a call is made again.
const PAUSE: Duration = Duration::from_millis(10);
const OP: &str = "open the serial port";
/// What libvirt says when somebody on the host has the serial port.
const TAKEN: &str = "Active console session";

/// Some of what the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes came before it.
    pub start: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Where that goes, and the news that there is no more.
pub struct Outlet {
    pieces: broadcast::Sender<Piece>,
    ended: CancellationToken,
    position: u64,
}

impl Outlet {
    /// What is said goes to `pieces`; `ended` is cancelled after the last of it.
    pub fn new(pieces: broadcast::Sender<Piece>, ended: CancellationToken) -> Self {
        Self { pieces, ended, position: 0 }
    }

    /// Passes on what the guest says.
    pub fn say(&mut self, bytes: &[u8]) {
        let piece = Piece { start: self.position, bytes: bytes.to_vec() };
        self.position = self.position.saturating_add(u64::try_from(bytes.len()).unwrap_or_default());
        // Nobody may be there to hear it.
        let _ = self.pieces.send(piece);
    }

    /// There is no more.
    pub fn end(&self) {
        self.ended.cancel();
    }
}

/// An open serial port. Dropping it leaves it, which blocks. The order of the fields is the order in which they go.
pub struct SerialPort {
    stream: Stream,
    _connect: Connect,
}

/// Opens the serial port of a domain of ours; `None` where there is no such domain.
pub fn open(uri: &str, uid: &str, outlet: Outlet) -> Result<Option<SerialPort>, HvError> {
    let failed = |source: &virt::error::Error| error::from(OP, source);
    let connect = Connect::open(Some(uri)).map_err(|source| failed(&source))?;
    // The test driver has no transport to keep alive.
    let _ = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
    let Some((domain, _)) = domain::ours(&connect, uid)? else { return Ok(None) };
    let stream = Stream::new(&connect, sys::VIR_STREAM_NONBLOCK).map_err(|source| failed(&source))?;
    domain.open_console(None, &stream, 0).map_err(|source| match failed(&source) {
        error if error.message.contains(TAKEN) => HvError { class: Class::Busy, ..error },
        error => error,
    })?;
    let port = SerialPort { stream, _connect: connect };
    let opaque = Box::into_raw(Box::new(outlet)).cast::<c_void>();
    // SAFETY: the stream is alive as `port.stream`. `opaque` is a Box of an Outlet which libvirt hands to `free_outlet`
    // exactly once, when the callback is removed; until then only `on_event` uses it, on the thread of the event loop.
    let result = unsafe {
        sys::virStreamEventAddCallback(port.stream.as_ptr(), EVENTS, Some(on_event), opaque, Some(free_outlet))
    };
    if result < 0 {
        let source = virt::error::Error::last_error();
        // SAFETY: libvirt did not take the Box.
        drop(unsafe { Box::from_raw(opaque.cast::<Outlet>()) });
        return Err(failed(&source));
    }
    Ok(Some(port))
}

const EVENTS: c_int =
    (sys::VIR_STREAM_EVENT_READABLE | sys::VIR_STREAM_EVENT_ERROR | sys::VIR_STREAM_EVENT_HANGUP).cast_signed();

impl SerialPort {
    /// Writes all of it to the guest. Waits while libvirt takes no more.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), HvError> {
        while !bytes.is_empty() {
            // SAFETY: the stream is alive, and libvirt reads as many bytes as the slice has. Streams may be used by
            // several threads at a time.
            let sent =
                unsafe { sys::virStreamSend(self.stream.as_ptr(), bytes.as_ptr().cast::<c_char>(), bytes.len()) };
            match usize::try_from(sent) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(_) if sent == WOULD_BLOCK => std::thread::sleep(PAUSE),
                Err(_) => return Err(error::from("write to the serial port", &virt::error::Error::last_error())),
            }
        }
        Ok(())
    }
}

impl Drop for SerialPort {
    fn drop(&mut self) {
        // SAFETY: the stream is alive. Both fail where it has ended already.
        unsafe {
            sys::virStreamEventRemoveCallback(self.stream.as_ptr());
            sys::virStreamAbort(self.stream.as_ptr());
        }
    }
}

unsafe extern "C" fn on_event(stream: sys::virStreamPtr, _events: c_int, opaque: *mut c_void) {
    // SAFETY: it is what `open` gave, not freed while the callback is there, and used by this thread alone.
    let outlet = unsafe { &mut *opaque.cast::<Outlet>() };
    let mut buffer = [0_u8; OUTPUT];
    for _ in 0..IN_ONE_GO {
        // SAFETY: the stream is alive during the call, and libvirt writes into the buffer as many bytes as it has.
        let length = unsafe { sys::virStreamRecv(stream, buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) };
        if length == WOULD_BLOCK {
            return;
        }
        match usize::try_from(length) {
            Ok(length) if length > 0 => outlet.say(buffer.get(..length).unwrap_or_default()),
            _ => {
                outlet.end();
                // SAFETY: as above. It would be called again and again otherwise.
                unsafe { sys::virStreamEventUpdateCallback(stream, 0) };
                return;
            }
        }
    }
}

unsafe extern "C" fn free_outlet(opaque: *mut c_void) {
    // SAFETY: libvirt calls it once for the Box that `open` gave.
    let outlet = unsafe { Box::from_raw(opaque.cast::<Outlet>()) };
    outlet.end();
}
