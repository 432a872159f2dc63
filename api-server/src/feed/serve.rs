//! One WebSocket of one who follows, from its first frame to its close.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::state::{Scope, Subscription};
use crate::app::App;
use crate::auth::session::Session;
use crate::metrics::Socket;
use crate::socket::{Closing, close};

/// How often a ping is sent.
const PING: Duration = Duration::from_secs(15);
/// A peer that was silent for this long, pings notwithstanding, is gone.
const SILENCE: Duration = Duration::from_secs(35);
const GONE: &str = "The virtual machine is gone";

/// Serves a WebSocket to its end.
pub async fn serve(app: &App, mut socket: WebSocket, session: &Session, scope: Scope, subscription: Subscription) {
    let begin = Instant::now();
    let open = app.metrics.opened(Socket::Feed);
    let closing = follow(app, &mut socket, session, &scope, subscription).await;
    close(&mut socket, closing).await;
    drop(open);
    app.metrics.closed(Socket::Feed, closing.code());
    tracing::info!(
        code = closing.code(),
        reason = closing.reason(),
        seconds = begin.elapsed().as_secs(),
        "feed closed"
    );
}

async fn follow(
    app: &App,
    socket: &mut WebSocket,
    session: &Session,
    scope: &Scope,
    subscription: Subscription,
) -> Closing {
    let (mut sink, mut stream) = socket.split();
    let too_slow = subscription.too_slow.clone();
    tokio::select! {
        biased;
        reason = session.ended(app) => Closing::NotAllowed(reason),
        () = app.stop.cancelled() => Closing::Stopping,
        () = too_slow.cancelled() => Closing::TooSlow,
        () = read(&mut stream) => Closing::Gone,
        closing = write(app, &mut sink, scope, subscription) => closing,
    }
}

/// Reads until the peer closes or is silent for too long. It has nothing to say; what comes shows only that it is there.
async fn read(stream: &mut SplitStream<&mut WebSocket>) {
    while let Ok(Some(Ok(_))) = timeout(SILENCE, stream.next()).await {}
}

async fn write(
    app: &App,
    sink: &mut SplitSink<&mut WebSocket, Message>,
    scope: &Scope,
    subscription: Subscription,
) -> Closing {
    let Subscription { first, mut changes, .. } = subscription;
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_there = first.is_some() || is_stored(app, scope);
    if let Some(first) = first
        && sink.send(Message::Text(first)).await.is_err()
    {
        return Closing::Gone;
    }
    loop {
        if !is_there {
            return Closing::Done(GONE);
        }
        let sent = tokio::select! {
            frame = changes.recv() => {
                let Some(frame) = frame else { return Closing::TooSlow };
                is_there = !ends(scope, &frame);
                let mut sent = sink.feed(Message::Text(frame)).await;
                // What came in the meantime goes out with it.
                while sent.is_ok() && let Ok(frame) = changes.try_recv() {
                    is_there &= !ends(scope, &frame);
                    sent = sink.feed(Message::Text(frame)).await;
                }
                sent
            }
            _ = pings.tick() => sink.feed(Message::Ping(Bytes::new())).await,
        };
        if sent.is_err() || sink.flush().await.is_err() {
            return Closing::Gone;
        }
    }
}

/// Whether nothing more is to come after this frame.
fn ends(scope: &Scope, frame: &Utf8Bytes) -> bool {
    matches!(scope, Scope::One(_)) && frame.as_str().starts_with(r#"{"type":"vm_deleted""#)
}

/// Whether the one virtual machine is in the store. If so, and the feed has not heard of it yet, it will.
fn is_stored(app: &App, scope: &Scope) -> bool {
    match scope {
        Scope::One(id) => app.stores.vms().is_ok_and(|vms| vms.read().by_id(*id).is_some()),
        Scope::Everything | Scope::Namespace(_) => true,
    }
}
