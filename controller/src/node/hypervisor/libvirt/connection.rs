//! The one connection to libvirt: opened, watched, and opened again.
//!
//! While there is none, callers wait for a moment, so that a restart of libvirtd is no event for anybody; after that they
//! are told, and everything is looked at when it is back.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;

use super::super::{Class, HostFacts, HvError};
use super::calls::Calls;
use super::events::{EventSink, Subscriptions};
use super::{Settings, error, host};

/// How long a caller waits for a connection that was lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits beyond that for the first one, as long as no attempt has failed.
const START: Duration = Duration::from_secs(28);
/// Opening tries out all QEMUs when libvirtd has just been installed or updated.
const OPEN_DEADLINE: Duration = Duration::from_secs(180);
/// Bounds of the delay between two attempts: to try a local socket costs nothing.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Keepalive: a probe every so many seconds, the connection is given up after so many without an answer.
const KEEPALIVE: (i32, u32) = (5, 3);
/// How often the connection is looked at beside that.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// An open connection. The order of the fields is the order in which they go.
pub struct Live {
    _subscriptions: Subscriptions,
    host: RwLock<HostFacts>,
    /// The connection.
    pub connect: Connect,
}

impl Live {
    /// What the host is.
    pub fn host(&self) -> HostFacts {
        self.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether there is a connection, and if not, why.
#[derive(Clone)]
pub enum State {
    /// There is.
    Up(Arc<Live>),
    /// There is none.
    Down {
        /// Why.
        why: Arc<str>,
        /// Since when.
        since: Instant,
    },
}

impl State {
    fn down(why: &str, since: Instant) -> Self {
        Self::Down { why: Arc::from(why), since }
    }
}

/// The connection as its users see it.
#[derive(Clone)]
pub struct Connection(watch::Receiver<State>);

impl Connection {
    /// The connection, or the one that comes within a moment.
    pub async fn get(&self) -> Result<Arc<Live>, HvError> {
        let since = match &*self.0.borrow() {
            State::Up(live) => return Ok(Arc::clone(live)),
            State::Down { since, .. } => *since,
        };
        let mut state = self.0.clone();
        let up = state.wait_for(|state| matches!(state, State::Up(_)));
        // Counted from the loss: whoever comes later does not wait.
        if let Ok(Ok(state)) = tokio::time::timeout_at(since + PATIENCE, up).await
            && let State::Up(live) = &*state
        {
            return Ok(Arc::clone(live));
        }
        match &*self.0.borrow() {
            State::Up(live) => Ok(Arc::clone(live)),
            State::Down { why, .. } => Err(HvError::new(Class::Disconnected, "reach libvirt", why)),
        }
    }

    /// Whether there is one.
    pub fn is_up(&self) -> bool {
        matches!(&*self.0.borrow(), State::Up(_))
    }

    /// The same, of which [`Self::changed`] tells what happens from now on.
    pub fn with_news_only(mut self) -> Self {
        self.0.mark_unchanged();
        self
    }

    /// Ends when the connection came or went.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody opens one any more: the process is ending.
            std::future::pending::<()>().await;
        }
    }
}

/// Makes a connection and the task that keeps it.
pub fn open(
    settings: Settings,
    calls: Calls,
    sink: EventSink,
    stop: CancellationToken,
) -> (Connection, impl Future<Output = ()> + Send) {
    let (sender, receiver) = watch::channel(State::down("not connected yet", Instant::now() + START));
    let keep = async move {
        if stop.run_until_cancelled(keep(&settings, &calls, &sink, &sender)).await.is_none() {
            sender.send_replace(State::down("the controller is stopping", Instant::now()));
        }
    };
    (Connection(receiver), keep)
}

async fn keep(settings: &Settings, calls: &Calls, sink: &EventSink, state: &watch::Sender<State>) {
    let mut delay = RETRY.0;
    let mut known: Option<HostFacts> = None;
    loop {
        let closed = Arc::new(Notify::new());
        match attempt(settings, calls, sink, &closed, known.clone()).await {
            Ok(live) => {
                tracing::info!(libvirt.uri = settings.uri, "connected to libvirt");
                delay = RETRY.0;
                let live = Arc::new(live);
                state.send_replace(State::Up(Arc::clone(&live)));
                sink.resync();
                if known.is_some() {
                    tokio::spawn(refresh(Arc::clone(&live), settings.clone(), calls.clone(), sink.clone()));
                }
                until_closed(&live, &closed).await;
                known = Some(live.host());
                tracing::warn!(libvirt.uri = settings.uri, "lost the connection to libvirt");
                state.send_replace(State::down("the connection was lost", Instant::now()));
                // Closing may block.
                tokio::task::spawn_blocking(move || drop(live));
                tokio::spawn(tell_if_down(state.subscribe(), sink.clone()));
            }
            Err(error) => {
                let news = state.send_if_modified(|state| {
                    let (known, since) = match state {
                        State::Up(_) => (false, Instant::now()),
                        State::Down { why, since } => (**why == *error.message, (*since).min(Instant::now())),
                    };
                    *state = State::down(&error.message, since);
                    !known
                });
                if news {
                    tracing::warn!(libvirt.uri = settings.uri, %error, "cannot connect to libvirt");
                }
            }
        }
        let wait = delay.mul_f64(rand::rng().random_range(0.5..=1.0));
        tokio::time::sleep(wait).await;
        delay = (delay * 2).min(RETRY.1);
    }
}

/// If it does not come back within a moment, everything is looked at, so that the status says so.
async fn tell_if_down(mut state: watch::Receiver<State>, sink: EventSink) {
    let up = state.wait_for(|state| matches!(state, State::Up(_)));
    if tokio::time::timeout(PATIENCE, up).await.is_err() {
        sink.resync();
    }
}

/// Asks again what the host is: libvirt or QEMU may have been updated.
async fn refresh(live: Arc<Live>, settings: Settings, calls: Calls, sink: EventSink) {
    let connection = Arc::clone(&live);
    let facts = move || host::facts(&connection.connect, &settings);
    let Ok(facts) = calls.run("read the host's capabilities", OPEN_DEADLINE, facts).await else {
        // The connection broke again; the next one asks again.
        return;
    };
    if live.host() != facts {
        *live.host.write().unwrap_or_else(PoisonError::into_inner) = facts;
        sink.resync();
    }
}

/// Opens a connection. What is known of the host is taken over: after a restart, libvirt needs seconds to find it out
/// anew, and nobody is to wait for that.
async fn attempt(
    settings: &Settings,
    calls: &Calls,
    sink: &EventSink,
    closed: &Arc<Notify>,
    known: Option<HostFacts>,
) -> Result<Live, HvError> {
    let (settings, sink, closed) = (settings.clone(), sink.clone(), Arc::clone(closed));
    let open = move || {
        let op = "connect to libvirt";
        let connect = Connect::open(Some(&settings.uri)).map_err(|source| error::from(op, &source))?;
        // Subscribed before anything is read, so that nothing happens unseen in between.
        let subscriptions = Subscriptions::new(&connect, &sink, &closed)?;
        // The test driver has no transport to keep alive.
        let _ = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
        if let Err(error) = host::network::define_filters(&connect, &settings.network) {
            // The start of a guest that needs them says so too. The test driver has none.
            tracing::warn!(libvirt.uri = settings.uri, %error, "guests with a network cannot start");
        }
        let host = known.map_or_else(|| host::facts(&connect, &settings), Ok)?;
        Ok(Live { _subscriptions: subscriptions, host: RwLock::new(host), connect })
    };
    calls.run("connect to libvirt", OPEN_DEADLINE, open).await
}

async fn until_closed(live: &Live, closed: &Notify) {
    loop {
        if tokio::time::timeout(LOOK_EVERY, closed.notified()).await.is_ok() {
            return;
        }
        if !live.connect.is_alive().unwrap_or(false) {
            return;
        }
    }
}
