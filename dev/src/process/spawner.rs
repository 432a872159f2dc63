//! One thread starts all child processes.
//!
//! Children are to die with this process (`PR_SET_PDEATHSIG`), but Linux sends that signal when the *thread* that
//! forked ends. Worker threads of a runtime and threads of tests end early; this one never does.

use std::{
    io,
    process::{Child, Command},
    sync::{OnceLock, mpsc},
    thread,
};

struct Job {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

/// Starts `command` on the spawner thread. Blocks for the time of a fork and exec.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        // Should the thread not start, `jobs` is dropped and every send below fails.
        drop(thread::Builder::new().name("spawner".into()).spawn(move || {
            for Job { mut command, reply } in jobs {
                drop(reply.send(command.spawn()));
            }
        }));
        sender
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner.send(Job { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}
