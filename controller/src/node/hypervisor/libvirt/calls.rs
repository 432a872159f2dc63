//! Calling libvirt from async code: its calls block, and one may never return.
//!
//! Each runs on a thread of the blocking pool, bounded by a semaphore, under a deadline. A call that passed its deadline
//! keeps its thread and its permit until it returns: it is counted as stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::super::super::metrics::LibvirtCalls;
use super::super::{Class, HvError};

/// Calls at once. libvirtd's own pool has 20 workers, which others want to use too.
const AT_ONCE: usize = 16;

const RUNNING: u8 = 0;
const RETURNED: u8 = 1;
const ABANDONED: u8 = 2;

/// The gate in front of libvirt.
#[derive(Clone)]
pub struct Calls {
    permits: Arc<Semaphore>,
    stuck: Arc<AtomicUsize>,
    /// What is counted.
    pub counted: LibvirtCalls,
}

impl Calls {
    /// An open gate.
    pub fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), stuck: Arc::default(), counted: LibvirtCalls::default() }
    }

    /// Whether every thread waits for a call that nobody waits for any more. Only a new process helps.
    pub fn exhausted(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) >= AT_ONCE
    }

    /// Runs a blocking call.
    ///
    /// # Errors
    /// What the call returns, or [`Class::Timeout`]: then it may still happen.
    pub async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        deadline: Duration,
        call: impl FnOnce() -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let begin = Instant::now();
        let result = self.attempt(op, deadline, call).await;
        self.counted.ended(op, begin.elapsed(), result.as_ref().err());
        result
    }

    async fn attempt<T: Send + 'static>(
        &self,
        op: &'static str,
        deadline: Duration,
        call: impl FnOnce() -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let state = Arc::new(AtomicU8::new(RUNNING));
        let attempt = async {
            let permit = Arc::clone(&self.permits)
                .acquire_owned()
                .await
                .map_err(|_| HvError::new(Class::Disconnected, op, "the controller is stopping"))?;
            let (state, stuck) = (Arc::clone(&state), Arc::clone(&self.stuck));
            let returned = tokio::task::spawn_blocking(move || {
                let result = call();
                drop(permit);
                if state.swap(RETURNED, Ordering::AcqRel) == ABANDONED {
                    stuck.fetch_sub(1, Ordering::Relaxed);
                    tracing::info!(op, "a call that was stuck has returned");
                }
                result
            });
            returned.await.map_err(|error| HvError::new(Class::Failed, op, &error.to_string()))?
        };
        match tokio::time::timeout(deadline, attempt).await {
            Ok(result) => result,
            Err(_) => {
                // Counted first: the call may return between the two lines.
                let stuck = self.stuck.fetch_add(1, Ordering::Relaxed) + 1;
                if state.compare_exchange(RUNNING, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    self.stuck.fetch_sub(1, Ordering::Relaxed);
                }
                tracing::error!(op, deadline_s = deadline.as_secs(), stuck, "libvirt does not return");
                let message = format!("no answer within {} s", deadline.as_secs());
                Err(HvError::new(Class::Timeout, op, &message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stuck_call_is_counted_until_it_returns() {
        let calls = Calls::new();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let result = calls
            .run("wait", Duration::from_millis(20), move || {
                let _ = blocked.recv();
                Ok(())
            })
            .await;
        assert_eq!(result.map_err(|error| error.class), Err(Class::Timeout));
        assert_eq!(calls.stuck.load(Ordering::Relaxed), 1);
        drop(release);
        while calls.stuck.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(calls.run("answer", Duration::from_secs(5), || Ok(7)).await, Ok(7));
    }
}
