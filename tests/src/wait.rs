//! Waiting for something to become true, always with a deadline and with what was last seen in the failure.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `look` until `accept` takes what it returns, and returns that. An error of `look` counts as "not yet".
pub async fn until<T, F>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
    accept: impl Fn(&T) -> bool,
) -> Result<T>
where
    T: Debug,
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        let seen = look().await;
        match &seen {
            Ok(value) if accept(value) => return seen,
            _ if start.elapsed() > deadline => bail!("{what}: not within {deadline:?}; last seen: {seen:#?}"),
            _ => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// Checks that `hold` is true whenever looked at for as long as `duration`.
pub async fn always<F>(what: &str, duration: Duration, mut hold: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let start = Instant::now();
    while start.elapsed() < duration {
        if !hold().await? {
            bail!("{what}: not so after {:?}", start.elapsed());
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
