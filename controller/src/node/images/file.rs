//! A file on its way to the storage pool, wherever it comes from.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyDataStream;
use hyper::body::{Body, Bytes, Incoming};

use super::failure::Failure;
use crate::https::client::Connection;

/// How long nothing may come.
pub const IDLE: Duration = Duration::from_secs(30);
/// For how long what nobody wants any more is still taken.
const LINGER: Duration = Duration::from_secs(10);

/// A file that is on its way.
pub struct File {
    /// Its length, where whoever sends it says it.
    pub length: Option<u64>,
    bytes: BoxStream<'static, Result<Bytes, Failure>>,
    /// What it comes over, where somebody has to hold that.
    connection: Option<Connection>,
}

impl File {
    /// A file of those bytes, which end with the first failure.
    pub fn new(
        length: Option<u64>,
        bytes: impl stream::Stream<Item = Result<Bytes, Failure>> + Send + 'static,
    ) -> Self {
        Self { length, bytes: bytes.boxed(), connection: None }
    }

    /// The file that is the body of a request or an answer. `whose` says for people who sends it.
    pub fn of_body(body: Incoming, whose: String) -> Self {
        let length = body.size_hint().exact();
        let next = async |(whose, mut body): (String, BodyDataStream<Incoming>)| {
            let failed = |what: String| Failure::download(format!("{whose}: {what}"));
            match tokio::time::timeout(IDLE, body.next()).await {
                Ok(Some(Ok(bytes))) => Ok(Some((bytes, (whose, body)))),
                Ok(Some(Err(_))) => Err(failed("it broke off".to_owned())),
                Ok(None) => Ok(None),
                Err(_) => Err(failed(format!("nothing came for {} s", IDLE.as_secs()))),
            }
        };
        Self::new(length, stream::try_unfold((whose, BodyDataStream::new(body)), next))
    }

    /// The same, holding what it comes over.
    pub fn over(self, connection: Connection) -> Self {
        Self { connection: Some(connection), ..self }
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.bytes.try_next().await
    }

    /// Takes what still comes, for a while, and throws it away: who is still sending reads the answer only if nobody
    /// hangs up.
    pub fn let_go(self) {
        let Self { bytes, connection, .. } = self;
        tokio::spawn(async move {
            let _connection = connection;
            // Whether it ended does not matter.
            drop(tokio::time::timeout(LINGER, bytes.for_each(|_| std::future::ready(()))).await);
        });
    }
}
