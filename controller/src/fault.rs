//! The switch of the crash tests: end the process right after its n-th side effect.
//!
//! A side effect is a call that changes something in libvirt, or a write of a custom resource. The crash tests run an
//! operation once for every n, so that every gap between two side effects is met. Without the feature
//! `fault-injection` nothing of it is compiled.

/// Counts one side effect. With the feature `fault-injection`, ends the process by SIGKILL when the count reaches the
/// number in the environment variable `KVMOOR_CRASH_AFTER`.
#[cfg(feature = "fault-injection")]
pub fn side_effect() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    static COUNT: AtomicU64 = AtomicU64::new(0);
    static CRASH_AFTER: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("KVMOOR_CRASH_AFTER").ok().and_then(|text| text.parse().ok()));

    let count = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    if *CRASH_AFTER == Some(count) {
        // SIGKILL runs no handler and no destructor: it is what a power cut looks like to the process.
        if let Err(error) = raise(Signal::SIGKILL) {
            tracing::error!(%error, "cannot end the process");
        }
    }
}

/// Counts one side effect: does nothing in this build.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn side_effect() {}
