//! The file of an image, on its way from a caller to a host. Of what is on its way, a few pieces are here and no more.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Bytes};
use kube::ResourceExt;
use kvmoor_crds::Host;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::connect::{self, Connection};
use super::{ANSWER, Agents, refusal};
use crate::error::{ApiError, BoxError};

/// How long a host may take to be connected to.
const CONNECT: Duration = Duration::from_secs(8);
/// How long nothing may come, and how long the host may take nothing.
const IDLE: Duration = Duration::from_secs(30);
/// How long a host may take to end when it has all: it writes what it had not written yet.
const FINISH: Duration = Duration::from_secs(180);
/// For how long what nobody wants any more is still taken.
const LINGER: Duration = Duration::from_secs(10);
/// Pieces on their way: they are of 64 KiB at most.
const PIECES: usize = 8;

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The host had it already.
    Before,
    /// It was not there.
    Now,
}

/// Why a host does not have the file.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The caller did not send all of it.
    #[error("the upload broke off")]
    BrokenOff,
    /// The caller sent nothing for too long.
    #[error("nothing came for {} s", IDLE.as_secs())]
    Idle,
    /// It is larger than that many bytes.
    #[error("it is larger than the {} MiB that are allowed", .0 >> 20)]
    TooLarge(u64),
    /// The host refuses it.
    #[error("{host}: {status}: {message}")]
    Refused {
        /// Which host.
        host: String,
        /// What it means.
        status: StatusCode,
        /// Why.
        message: String,
    },
    /// The host cannot be talked to.
    #[error("{message}")]
    Unavailable {
        /// What, for the caller.
        message: &'static str,
        /// Why, for the log.
        #[source]
        cause: BoxError,
    },
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let not_taken = |what: &dyn std::fmt::Display| format!("The file was not taken: {what}");
        let (host, status, message) = match error {
            UploadError::BrokenOff | UploadError::Idle => return Self::Invalid(not_taken(&error)),
            UploadError::TooLarge(_) => return Self::TooLarge(not_taken(&error)),
            UploadError::Unavailable { message, cause } => return Self::Unavailable { message, cause: Some(cause) },
            UploadError::Refused { host, status, message } => (host, status, message),
        };
        match status {
            StatusCode::BAD_REQUEST => Self::Invalid(not_taken(&message)),
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge(not_taken(&message)),
            StatusCode::CONFLICT => Self::Conflict(not_taken(&message)),
            StatusCode::INSUFFICIENT_STORAGE => Self::Conflict(format!(
                "The file was not taken, since the storage pool of host {host} has no room: make some, or name another \
                 host with ?host=NAME ({message})"
            )),
            StatusCode::TOO_MANY_REQUESTS => Self::TooManyRequests {
                message: "Other images are being uploaded to the host; wait, or name another with ?host=NAME",
                retry_after: IDLE,
            },
            status => {
                let message = match status {
                    StatusCode::SERVICE_UNAVAILABLE => "The host's storage pool does not take the file",
                    StatusCode::NOT_FOUND => "The host's controller is of a version that takes no uploads",
                    _ => "The host does not accept this server",
                };
                Self::Unavailable { message, cause: Some(error_of(&host, status).into()) }
            }
        }
    }
}

fn error_of(host: &str, status: StatusCode) -> String {
    format!("the node controller of {host}: {status}")
}

impl Agents {
    /// Sends a file of at most `limit` bytes to a host, as the content at `path`.
    pub async fn upload(&self, host: &Host, path: String, body: Body, limit: u64) -> Result<Stored, UploadError> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > limit) {
            let_go(body);
            return Err(UploadError::TooLarge(limit));
        }
        let (pieces, receiver) = mpsc::channel(PIECES);
        let (told, mut ended) = oneshot::channel();
        let mut request = Request::put(path).header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let connected = async {
            let request = self.authorized(host, request, Body::from_stream(receiver)).await.map_err(BoxError::from)?;
            Ok::<_, BoxError>((connect::open(host).await?, request))
        };
        let connected = tokio::time::timeout(CONNECT, connected).await.unwrap_or_else(|error| Err(error.into()));
        let (Connection { mut sender, driver }, request) = match connected {
            Ok(connected) => connected,
            Err(cause) => {
                let_go(body);
                return Err(silent(cause));
            }
        };
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        // It outlives this: who is still sending reads the answer only if nobody hangs up.
        tokio::spawn(pump(body.into_data_stream(), limit, pieces, told));
        let mut answer = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            ended = &mut ended => match ended {
                Ok(Err(error)) => return Err(error),
                // All was taken, or no more is: either way the host is about to answer.
                Ok(Ok(())) | Err(_) => tokio::time::timeout(FINISH, answer).await.map_err(silent)?,
            },
            answer = &mut answer => answer,
        };
        let answer = answer.map_err(silent)?;
        let status = answer.status();
        match status {
            StatusCode::CREATED => return Ok(Stored::Now),
            StatusCode::OK => return Ok(Stored::Before),
            StatusCode::UNAUTHORIZED => self.tokens.forget(&host.name_any()).await,
            _ => {}
        }
        let body = tokio::time::timeout(CONNECT, Limited::new(answer.into_body(), ANSWER).collect()).await;
        let body = body.map_err(silent)?.map_err(silent)?.to_bytes();
        Err(UploadError::Refused { host: host.name_any(), status, message: refusal(&body) })
    }
}

fn silent(cause: impl Into<BoxError>) -> UploadError {
    UploadError::Unavailable { message: "The host does not answer, or not to its end; try again", cause: cause.into() }
}

/// Passes on what comes, and tells how that ended.
async fn pump(
    mut body: BodyDataStream,
    limit: u64,
    mut pieces: mpsc::Sender<Result<Bytes, UploadError>>,
    told: oneshot::Sender<Result<(), UploadError>>,
) {
    let mut length = 0_u64;
    let error = loop {
        let bytes = match tokio::time::timeout(IDLE, body.next()).await {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(Some(Err(_))) => break UploadError::BrokenOff,
            Ok(None) => {
                // Whoever asked may be gone.
                drop(told.send(Ok(())));
                return;
            }
            Err(_) => break UploadError::Idle,
        };
        length = length.saturating_add(bytes.len() as u64);
        if length > limit {
            break UploadError::TooLarge(limit);
        }
        if !matches!(tokio::time::timeout(FINISH, pieces.send(Ok(bytes))).await, Ok(Ok(()))) {
            drop((told, pieces));
            return drain(body).await;
        }
    };
    drop(told.send(Err(error)));
    // The host is not to take it for the end.
    drop(tokio::time::timeout(IDLE, pieces.send(Err(UploadError::BrokenOff))).await);
    drop(pieces);
    drain(body).await;
}

/// Takes the rest of a body, for a while, and throws it away.
pub fn let_go(body: Body) {
    tokio::spawn(drain(body.into_data_stream()));
}

async fn drain(body: BodyDataStream) {
    // Whether it ended does not matter.
    drop(tokio::time::timeout(LINGER, body.for_each(|_| std::future::ready(()))).await);
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    type Outcome = (Vec<Result<usize, String>>, Option<Result<(), String>>);

    async fn pumped(body: Body, limit: u64) -> Outcome {
        let (pieces, receiver) = mpsc::channel(PIECES);
        let (told, ended) = oneshot::channel();
        let pump = pump(body.into_data_stream(), limit, pieces, told);
        let taken = receiver.map(|piece| piece.map(|bytes| bytes.len()).map_err(|error| error.to_string()));
        let ((), taken, ended) = tokio::join!(pump, taken.collect::<Vec<_>>(), ended);
        (taken, ended.ok().map(|ended| ended.map_err(|error| error.to_string())))
    }

    fn pieces(count: usize) -> Vec<Result<Bytes, std::io::Error>> {
        (0..count).map(|_| Ok(Bytes::from_static(b"1234"))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_passed_on() {
        let (taken, ended) = pumped(Body::from_stream(stream::iter(pieces(3))), 12).await;
        assert_eq!((taken, ended), (vec![Ok(4), Ok(4), Ok(4)], Some(Ok(()))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_is_too_large_or_stops_is_no_end() {
        let mut broken = pieces(2);
        broken.push(Err(std::io::Error::other("reset")));
        let stalled = stream::iter(pieces(2)).chain(stream::pending());
        for (body, limit, words) in [
            (Body::from_stream(stream::iter(broken)), 100, "the upload broke off"),
            (Body::from_stream(stream::iter(pieces(3))), 11, "larger than"),
            (Body::from_stream(stalled), 100, "nothing came for 30 s"),
        ] {
            let (taken, ended) = pumped(body, limit).await;
            assert_eq!(taken, [Ok(4), Ok(4), Err("the upload broke off".to_owned())], "{words}");
            assert!(ended.unwrap().unwrap_err().contains(words));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_host_does_not_take_is_thrown_away() {
        let (sender, receiver) = mpsc::channel(PIECES);
        drop(receiver);
        let (told, ended) = oneshot::channel();
        let body = stream::iter(pieces(100)).chain(stream::pending());
        pump(Body::from_stream(body).into_data_stream(), 1000, sender, told).await;
        assert!(ended.await.is_err());
    }
}
