//! Keeping a cluster up: what ends by itself is started again, and tokens are renewed before they expire.

use std::{convert::Infallible, time::Duration};

use futures::future::{join, join_all};
use tokio::time::{Instant, interval, sleep};

use super::Cluster;
use crate::{components::Components, process::Managed};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What ran for this long before it ended is not failing in a loop.
const STEADY: Duration = Duration::from_secs(60);
const RENEW_TOKENS: Duration = Duration::from_secs(8 * 60 * 60);

impl Cluster {
    /// Starts again whatever ends without having been told to, with a pause that grows while it keeps failing. Runs
    /// until dropped.
    pub async fn supervise(&self) {
        let mut parts: Vec<&Managed> = self.control_plane.parts().into();
        parts.extend(self.hosts.iter().flat_map(|host| host.daemons()));
        parts.extend(self.processes());
        join(join_all(parts.into_iter().map(keep_up)), self.renew_tokens()).await;
    }

    async fn renew_tokens(&self) {
        let mut due = interval(RENEW_TOKENS);
        due.tick().await;
        loop {
            due.tick().await;
            for credentials in self.components.iter().flat_map(|components: &Components| &components.credentials) {
                let renewed = async { credentials.renew(&self.client().await?).await };
                if let Err(error) = renewed.await {
                    tracing::warn!("a token was not renewed, the old one is good for hours: {error:#}");
                }
            }
        }
    }
}

/// Keeps one part up.
pub(crate) async fn keep_up(part: &Managed) -> Infallible {
    let mut pause = FIRST_PAUSE;
    loop {
        let watched_since = Instant::now();
        let status = part.unexpected_exit().await;
        if watched_since.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(
            "{} ended unexpectedly ({status}) and is started again in {pause:?}; its log is {}",
            part.name(),
            part.log().display()
        );
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        if part.is_wanted() && part.id().is_none() {
            match part.start() {
                Ok(()) => tracing::info!("{} runs again", part.name()),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }
}
