//! The check of qcow2 headers: never panics, and whatever it lets through is harmless.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/node/images/qcow2.rs"]
#[allow(dead_code)]
mod qcow2;

const LARGEST: u64 = 1 << 41;

fuzz_target!(|bytes: &[u8]| {
    // Random bytes seldom begin with the magic; half of the runs are past it at once.
    let mut with_magic = bytes.to_vec();
    with_magic.splice(..with_magic.len().min(8), *b"QFI\xfb\0\0\0\x03");
    for head in [bytes, with_magic.as_slice()] {
        let Ok(header) = qcow2::check(head, LARGEST) else { continue };
        assert!(header.virtual_size > 0 && header.virtual_size <= LARGEST);
        assert!(head[8..20].iter().all(|byte| *byte == 0), "a backing file");
        assert!(head[32..36].iter().all(|byte| *byte == 0), "encryption");
        assert!(head[7] == 2 || head[72..79].iter().all(|byte| *byte == 0) && head[79] & !0x18 == 0, "features");
        let _ = header.fits(head.len() as u64);
    }
});
