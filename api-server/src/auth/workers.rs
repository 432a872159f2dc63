//! Threads that hash.
//!
//! They are few and live as long as the process, unlike tokio's for blocking work, because each keeps the memory that it
//! hashes in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::phc::Memory;

type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// The threads. They end when this is dropped.
#[derive(Debug, Clone)]
pub struct Workers {
    jobs: Sender<Job>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("hash-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on a thread. `None` if it panicked. Once begun it runs to its end, whether anybody waits or not.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Memory) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |memory: &mut Memory| {
            // Nobody may be waiting any more.
            let _ = answer.send(job(memory));
        });
        self.jobs.send(job).ok()?;
        answered.await.ok()
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let mut memory = Memory::new();
    while let Ok(job) = { queue.lock().unwrap_or_else(PoisonError::into_inner).recv() } {
        if catch_unwind(AssertUnwindSafe(|| job(&mut memory))).is_err() {
            tracing::error!("a hash panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_job_and_not_the_thread() {
        let workers = Workers::start(1).unwrap();
        assert_eq!(workers.run(|_| panic!("on purpose")).await, None::<()>);
        assert_eq!(workers.run(|_| 3).await, Some(3));
    }
}
