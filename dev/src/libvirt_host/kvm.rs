//! Whether guests can run on KVM here.

use std::fs::{self, File};

/// The device that gives access to KVM.
pub(super) const DEVICE: &str = "/dev/kvm";

/// Whether KVM can really be used: the device opens *and* the CPU shows a virtualisation extension. A sandbox may have
/// the device without them, where a guest then hangs at its first instruction.
pub fn is_usable() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    has_extension(&flags) && File::options().read(true).write(true).open(DEVICE).is_ok()
}

fn has_extension(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_ascii_whitespace);
    flags.into_iter().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_must_be_a_word_of_the_flags() {
        assert!(has_extension("model name\t: svm\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_extension("model name\t: svm\nflags\t\t: fpu svm_lock sse\n"));
    }
}
