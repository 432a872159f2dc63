//! The corpus of evil images, and properties of the check.

use proptest::prelude::*;

use super::qcow2::{HEAD, Header, Invalid, check};

const LARGEST: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

/// The beginning of what `qemu-img create -f qcow2 x 1G` writes.
fn good() -> Vec<u8> {
    let mut head = vec![0_u8; HEAD];
    put(&mut head, 0, b"QFI\xfb");
    put(&mut head, 4, &3_u32.to_be_bytes());
    put(&mut head, 20, &16_u32.to_be_bytes());
    put(&mut head, 24, &GIB.to_be_bytes());
    put(&mut head, 36, &2_u32.to_be_bytes());
    put(&mut head, 40, &0x3_0000_u64.to_be_bytes());
    put(&mut head, 48, &0x1_0000_u64.to_be_bytes());
    put(&mut head, 56, &1_u32.to_be_bytes());
    put(&mut head, 96, &4_u32.to_be_bytes());
    put(&mut head, 100, &112_u32.to_be_bytes());
    extension(&mut head, 112, 0x6803_f857, 384);
    head
}

/// The same of version 2, as `-o compat=0.10` writes it.
fn old() -> Vec<u8> {
    let mut head = good();
    put(&mut head, 4, &2_u32.to_be_bytes());
    head[72..].fill(0);
    head
}

fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
    head[at..at + bytes.len()].copy_from_slice(bytes);
}

fn extension(head: &mut [u8], at: usize, kind: u32, length: u32) {
    put(head, at, &kind.to_be_bytes());
    put(head, at + 4, &length.to_be_bytes());
}

/// A good image with these bytes at that place.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut head = good();
    put(&mut head, at, bytes);
    head
}

fn checked(head: &[u8]) -> Result<Header, Invalid> {
    check(head, LARGEST)
}

#[test]
fn what_qemu_writes_is_fine() {
    for head in [good(), old()] {
        let header = checked(&head).unwrap();
        assert_eq!(header.virtual_size, GIB);
        assert_eq!(header.fits(0x4_0000), Ok(()));
        assert_eq!(header.fits(0x2_0000), Err(Invalid::Outside("L1 table")));
        assert_eq!(header.fits(100), Err(Invalid::Outside("L1 table")));
    }
    let zstd = { with(72, &8_u64.to_be_bytes()) };
    assert_eq!(checked(&zstd), Err(Invalid::Bounds("compression type")), "the bit without the type");
    let mut zstd = zstd;
    put(&mut zstd, 104, &[1]);
    assert!(checked(&zstd).is_ok());
    let mut extended = with(72, &16_u64.to_be_bytes());
    put(&mut extended, 36, &4_u32.to_be_bytes());
    assert!(checked(&extended).is_ok());
}

#[test]
fn evil_images_are_refused() {
    let corpus: [(&str, Vec<u8>, Invalid); 38] = [
        ("empty", Vec::new(), Invalid::Magic),
        ("raw", vec![0; HEAD], Invalid::Magic),
        ("VMDK", with(0, b"KDMV"), Invalid::Magic),
        ("the magic alone", b"QFI\xfb".to_vec(), Invalid::Short),
        ("cut in the header", good()[..100].to_vec(), Invalid::Short),
        ("cut before the extensions", good()[..112].to_vec(), Invalid::Short),
        ("version 0", with(4, &0_u32.to_be_bytes()), Invalid::Version(0)),
        ("version 1, which is qcow", with(4, &1_u32.to_be_bytes()), Invalid::Version(1)),
        ("version 4", with(4, &4_u32.to_be_bytes()), Invalid::Version(4)),
        ("a backing file", with(8, &0x200_u64.to_be_bytes()), Invalid::BackingFile),
        ("the length of a backing file's name", with(16, &11_u32.to_be_bytes()), Invalid::BackingFile),
        ("AES", with(32, &1_u32.to_be_bytes()), Invalid::Encrypted),
        ("LUKS", with(32, &2_u32.to_be_bytes()), Invalid::Encrypted),
        ("dirty", with(72, &1_u64.to_be_bytes()), Invalid::Unclean),
        ("corrupt", with(72, &2_u64.to_be_bytes()), Invalid::Unclean),
        ("a data file", with(72, &4_u64.to_be_bytes()), Invalid::DataFile),
        ("a data file among other bits", with(72, &u64::MAX.to_be_bytes()), Invalid::DataFile),
        ("an unknown feature", with(72, &32_u64.to_be_bytes()), Invalid::Features(32)),
        ("the highest feature", with(72, &(1_u64 << 63).to_be_bytes()), Invalid::Features(1 << 63)),
        ("clusters of 256 bytes", with(20, &8_u32.to_be_bytes()), Invalid::Bounds("cluster size")),
        ("clusters of 4 MiB", with(20, &22_u32.to_be_bytes()), Invalid::Bounds("cluster size")),
        ("clusters of 2^2^31 bytes", with(20, &u32::MAX.to_be_bytes()), Invalid::Bounds("cluster size")),
        ("no disk at all", with(24, &0_u64.to_be_bytes()), Invalid::Bounds("virtual size")),
        ("an exabyte", with(24, &(1_u64 << 60).to_be_bytes()), Invalid::TooLarge(1 << 60, LARGEST)),
        ("a negative size", with(24, &u64::MAX.to_be_bytes()), Invalid::TooLarge(u64::MAX, LARGEST)),
        ("a short L1 table", with(36, &1_u32.to_be_bytes()), Invalid::Bounds("L1 table")),
        ("a huge L1 table", with(36, &u32::MAX.to_be_bytes()), Invalid::Bounds("L1 table")),
        ("an L1 table over the header", with(40, &0_u64.to_be_bytes()), Invalid::Bounds("L1 table")),
        ("an L1 table between clusters", with(40, &0x3_0200_u64.to_be_bytes()), Invalid::Bounds("L1 table")),
        ("an L1 table that wraps", with(40, &0xffff_ffff_ffff_0000_u64.to_be_bytes()), Invalid::Bounds("L1 table")),
        ("no refcount table", with(56, &0_u32.to_be_bytes()), Invalid::Bounds("refcount table")),
        ("a huge refcount table", with(56, &u32::MAX.to_be_bytes()), Invalid::Bounds("refcount table")),
        ("a refcount table over the header", with(48, &0_u64.to_be_bytes()), Invalid::Bounds("refcount table")),
        ("internal snapshots", with(60, &65536_u32.to_be_bytes()), Invalid::Snapshots(65536)),
        ("refcounts of 128 bits", with(96, &7_u32.to_be_bytes()), Invalid::Bounds("refcount width")),
        ("a header of 8 bytes", with(100, &8_u32.to_be_bytes()), Invalid::Bounds("header length")),
        ("a header of 4 GiB", with(100, &u32::MAX.to_be_bytes()), Invalid::Bounds("header length")),
        ("a header of 105 bytes", with(100, &105_u32.to_be_bytes()), Invalid::Bounds("header length")),
    ];
    for (what, head, expected) in corpus {
        assert_eq!(checked(&head), Err(expected), "{what}");
    }
}

#[test]
fn evil_extensions_are_refused() {
    for head in [good(), old()] {
        let start = if head[7] == 2 { 72 } else { 112 };
        for (what, kind, length, expected) in [
            ("a backing file's format", 0xe279_2aca, 5, Invalid::BackingFile),
            ("a data file's name", 0x4441_5441, 11, Invalid::DataFile),
            ("an encryption header", 0x0537_be77, 16, Invalid::Encrypted),
            ("bitmaps", 0x2385_2875, 24, Invalid::Extension(0x2385_2875)),
            ("something unknown", 7, 8, Invalid::Extension(7)),
            ("names of 4 GiB", 0x6803_f857, u32::MAX, Invalid::Bounds("list of header extensions")),
        ] {
            // At once, and hidden behind one that is allowed.
            for hidden in [false, true] {
                let mut evil = head.clone();
                let mut at = start;
                if hidden {
                    extension(&mut evil, at, 0x6803_f857, 3);
                    at += 16;
                }
                extension(&mut evil, at, kind, length);
                assert_eq!(checked(&evil), Err(expected), "{what}, hidden: {hidden}");
            }
        }
        let mut many = head.clone();
        for number in 0..100 {
            extension(&mut many, start + number * 8, 0x6803_f857, 0);
        }
        assert_eq!(checked(&many), Err(Invalid::Bounds("list of header extensions")), "too many");
    }
}

#[test]
fn small_clusters_bound_the_header() {
    let mut head = good();
    put(&mut head, 20, &9_u32.to_be_bytes());
    put(&mut head, 36, &32768_u32.to_be_bytes());
    // The list of names reaches beyond the first cluster.
    extension(&mut head, 112, 0x6803_f857, 400);
    assert_eq!(checked(&head), Err(Invalid::Bounds("list of header extensions")));
    extension(&mut head, 112, 0x6803_f857, 384);
    assert!(checked(&head).is_ok());
    put(&mut head, 100, &520_u32.to_be_bytes());
    assert_eq!(checked(&head), Err(Invalid::Bounds("cluster size")), "a header of more than a cluster");
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let mut magic = bytes.clone();
        magic.splice(..magic.len().min(8), *b"QFI\xfb\0\0\0\x03");
        for head in [bytes, magic] {
            if let Ok(header) = checked(&head) {
                let _ = header.fits(head.len() as u64);
            }
        }
    }

    /// Whatever one field is changed to: what is taken is still within all bounds.
    #[test]
    fn any_field_of_a_good_image(at in 4_usize..512, bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        let head = with(at, &bytes);
        if let Ok(header) = checked(&head) {
            prop_assert!(header.virtual_size > 0 && header.virtual_size <= LARGEST);
            prop_assert_eq!(&head[8..20], &[0; 12][..], "no backing file");
            prop_assert_eq!(&head[32..36], &[0; 4][..], "no encryption");
            prop_assert_eq!(&head[60..64], &[0; 4][..], "no snapshots");
            if head[7] == 3 {
                prop_assert_eq!(&head[72..79], &[0; 7][..], "no unknown feature");
                prop_assert_eq!(head[79] & !0x18, 0, "no unknown feature");
            }
        }
    }
}
