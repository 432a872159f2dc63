//! Waiting for something to become true, but not for ever.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Asks `is_so` until it says yes.
///
/// # Errors
/// When it fails, or still says no after `deadline`.
pub async fn until<F>(deadline: Duration, what: &str, mut is_so: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout_at(end, is_so()).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) if Instant::now() < end => sleep(pause).await,
            Ok(Err(error)) => return Err(error.context(format!("waiting until {what}"))),
            _ => bail!("after {deadline:?} it is still not so that {what}"),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
