//! What can go wrong with a hypervisor, in classes that decide what follows.

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {message}")]
pub struct HvError {
    /// What follows from it.
    pub class: Class,
    /// The call, in words: "start the domain".
    pub op: &'static str,
    /// What libvirt said, on one line.
    pub message: String,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// There is no connection, or it broke during the call: what happened is not known.
    Disconnected,
    /// No answer in time: what happened is not known.
    Timeout,
    /// The domain is in a state in which this cannot be done, so it is not what it was when the step was decided.
    Stale,
    /// Another operation on the domain takes longer than libvirt waits.
    Busy,
    /// Something that the call needs does not exist.
    NotFound,
    /// The storage pool has no room.
    PoolFull,
    /// The storage pool does not exist or is not running.
    PoolMissing,
    /// The network does not exist or is not running.
    NetworkMissing,
    /// Something that is not ours has the name or UUID.
    Foreign,
    /// Anything else.
    Failed,
}

impl HvError {
    /// A failure of that class. Times in the message are left out: libvirt puts QEMU's log lines there, and a message
    /// that differs on every attempt would be written on every attempt.
    pub fn new(class: Class, op: &'static str, message: &str) -> Self {
        let words = message
            .split_whitespace()
            .filter(|word| word.trim_end_matches([':', ',']).parse::<jiff::Timestamp>().is_err());
        Self { class, op, message: words.collect::<Vec<_>>().join(" ") }
    }

    /// Whether it says nothing about the virtual machine, only that the hypervisor cannot be asked.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.class, Class::Disconnected | Class::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_same_on_every_attempt() {
        let message = "internal error: process exited while connecting to monitor: \
                       2026-11-24T19:43:44.016Z qemu-system-x86_64: no\n memory";
        assert_eq!(
            HvError::new(Class::Failed, "start the domain", message).message,
            "internal error: process exited while connecting to monitor: qemu-system-x86_64: no memory"
        );
    }
}
