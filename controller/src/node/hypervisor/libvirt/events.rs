//! libvirt's domain events as a stream of UIDs: a small safe wrapper around the callbacks of `virt-sys`.
//!
//! One thread runs libvirt's event loop and calls back. A callback only copies the domain's UUID into a bounded channel;
//! what happened is found out by looking. When the channel is full, or the connection breaks, everything is looked at.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use virt::connect::Connect;
use virt_sys as sys;

use super::super::{Class, HvError};
use super::error;

/// UIDs that may wait: a restart of 1000 guests makes about 4000 events, most of them of the same guests.
const WAITING: usize = 4096;

/// Where events go.
#[derive(Clone)]
pub struct EventSink {
    changed: mpsc::Sender<String>,
    resync: Arc<Notify>,
}

/// Where events come from.
pub struct EventSource {
    /// UUID of a domain that changed.
    pub changed: mpsc::Receiver<String>,
    /// Everything may have changed.
    pub resync: Arc<Notify>,
}

/// A channel of events.
pub fn channel() -> (EventSink, EventSource) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let resync = Arc::new(Notify::new());
    (EventSink { changed: sender, resync: Arc::clone(&resync) }, EventSource { changed: receiver, resync })
}

impl EventSink {
    /// A domain changed.
    fn domain(&self, uid: String) {
        if self.changed.try_send(uid).is_err() {
            self.resync();
        }
    }

    /// Everything may have changed.
    pub fn resync(&self) {
        self.resync.notify_one();
    }
}

/// Starts the thread of libvirt's event loop, once in a process. It must run before the first connection is opened.
pub fn start_loop() -> Result<(), HvError> {
    static LOOP: OnceLock<Result<(), HvError>> = OnceLock::new();
    LOOP.get_or_init(|| {
        let op = "start libvirt's event loop";
        // Every error comes back to its caller; libvirt would print each on standard error, too.
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl().map_err(|source| error::from(op, &source))?;
        let run = || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::warn!(error = error.message(), "libvirt's event loop failed");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        };
        std::thread::Builder::new()
            .name("libvirt-events".to_owned())
            .spawn(run)
            .map(|_| ())
            .map_err(|source| HvError::new(Class::Failed, op, &source.to_string()))
    })
    .clone()
}

/// The subscriptions of a connection. Dropping it ends them.
pub struct Subscriptions {
    connect: Connect,
    ids: Vec<c_int>,
}

/// What the close callback holds.
struct Closed(Arc<Notify>);

impl Subscriptions {
    /// Subscribes to what changes a domain's power state, and to the end of the connection.
    pub fn new(connect: &Connect, sink: &EventSink, closed: &Arc<Notify>) -> Result<Self, HvError> {
        let mut subscriptions = Self { connect: connect.clone(), ids: Vec::new() };
        // Which callback belongs to which event is libvirt's contract, see virConnectDomainEventID.
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_REBOOT, plain as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, with_number as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_PMWAKEUP, with_number as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_PMSUSPEND, with_number as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, with_state as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, with_text as *const (), sink)?;
        subscriptions.register(sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, with_text as *const (), sink)?;
        subscriptions.watch_close(closed)?;
        Ok(subscriptions)
    }

    fn register(&mut self, event: sys::virDomainEventID, callback: *const (), sink: &EventSink) -> Result<(), HvError> {
        let opaque = Box::into_raw(Box::new(sink.clone())).cast::<c_void>();
        // SAFETY: the connection is alive as `self.connect`. The callback has the signature that libvirt documents for
        // `event`; libvirt's generic type stands for all of them and libvirt casts it back. `opaque` is a Box of an
        // EventSink which libvirt hands to `free_sink` exactly once, when the subscription ends; until then the
        // callbacks only read it, on the thread of the event loop.
        let id = unsafe {
            let generic = std::mem::transmute::<*const (), sys::virConnectDomainEventGenericCallback>(callback);
            sys::virConnectDomainEventRegisterAny(
                self.connect.as_ptr(),
                std::ptr::null_mut(),
                c_int::try_from(event).unwrap_or(-1),
                generic,
                opaque,
                Some(free_sink),
            )
        };
        if id < 0 {
            let source = virt::error::Error::last_error();
            // SAFETY: libvirt did not take the Box.
            drop(unsafe { Box::from_raw(opaque.cast::<EventSink>()) });
            // Not every driver has every event; the test driver has few.
            let failure = error::from("subscribe to domain events", &source);
            return if event == sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE { Err(failure) } else { Ok(()) };
        }
        self.ids.push(id);
        Ok(())
    }

    fn watch_close(&self, closed: &Arc<Notify>) -> Result<(), HvError> {
        let opaque = Box::into_raw(Box::new(Closed(Arc::clone(closed)))).cast::<c_void>();
        // SAFETY: as in `register`; `on_close` has the one signature that this call takes.
        let result = unsafe {
            sys::virConnectRegisterCloseCallback(self.connect.as_ptr(), Some(on_close), opaque, Some(free_closed))
        };
        if result < 0 {
            let source = virt::error::Error::last_error();
            // SAFETY: libvirt did not take the Box.
            drop(unsafe { Box::from_raw(opaque.cast::<Closed>()) });
            return Err(error::from("watch the connection", &source));
        }
        Ok(())
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for id in &self.ids {
            // SAFETY: the connection is alive and the id is one that it gave. A broken connection only reports an error.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), *id) };
        }
        // SAFETY: as above.
        unsafe { sys::virConnectUnregisterCloseCallback(self.connect.as_ptr(), Some(on_close)) };
    }
}

/// Passes a domain's UUID on.
///
/// # Safety
/// `domain` is a domain for the duration of the call, `opaque` a Box of an [`EventSink`].
unsafe fn pass_on(domain: sys::virDomainPtr, opaque: *mut c_void) {
    let mut buffer = [0_u8; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: the buffer has the size that libvirt documents; the domain is alive.
    let result = unsafe { sys::virDomainGetUUIDString(domain, buffer.as_mut_ptr().cast::<c_char>()) };
    // SAFETY: it is what `register` gave, and not freed while subscribed.
    let sink = unsafe { &*opaque.cast::<EventSink>() };
    let uid = std::ffi::CStr::from_bytes_until_nul(&buffer).ok().and_then(|text| text.to_str().ok());
    match uid {
        Some(uid) if result == 0 => sink.domain(uid.to_owned()),
        _ => sink.resync(),
    }
}

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
    0
}

unsafe extern "C" fn plain(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
}

unsafe extern "C" fn with_number(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _number: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
}

unsafe extern "C" fn with_state(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
}

unsafe extern "C" fn with_text(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
}

unsafe extern "C" fn io_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _path: *const c_char,
    _alias: *const c_char,
    _action: c_int,
    _reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract.
    unsafe { pass_on(domain, opaque) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: it is what `watch_close` gave, and not freed while subscribed.
    let closed = unsafe { &*opaque.cast::<Closed>() };
    closed.0.notify_one();
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: libvirt calls it once for the Box that `register` gave.
    drop(unsafe { Box::from_raw(opaque.cast::<EventSink>()) });
}

unsafe extern "C" fn free_closed(opaque: *mut c_void) {
    // SAFETY: libvirt calls it once for the Box that `watch_close` gave.
    drop(unsafe { Box::from_raw(opaque.cast::<Closed>()) });
}
