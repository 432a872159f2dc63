//! What a raw image may be: bytes of a disk, and nothing that another program would take for something else.
//!
//! A guest may write anything into its own raw disk, and every format of this controller is stated and never probed. An
//! image is refused all the same when it is declared raw and begins as something with structure: whoever does probe it,
//! libvirt's own refresh of the pool or an administrator's `qemu-img info`, would follow the file names in it; and it is
//! almost always a mistake, whose guest would not boot.

/// The beginnings of what is not the bytes of a disk, and how to say so.
const OTHERS: [(&[u8], &str); 15] = [
    (b"QFI\xfb", "a qcow2 file; declare format: qcow2"),
    (b"QED\0", "a QED file"),
    (b"KDMV", "a VMDK file"),
    (b"COWD", "a VMDK file"),
    (b"# Disk DescriptorFile", "a VMDK descriptor"),
    (b"vhdxfile", "a VHDX file"),
    (b"conectix", "a VHD file"),
    (b"LUKS\xba\xbe", "an encrypted LUKS volume"),
    (b"WithoutFreeSpace", "a Parallels file"),
    (b"WithouFreSpacExt", "a Parallels file"),
    (b"\x1f\x8b", "compressed by gzip; unpack it and give the sum of what comes out"),
    (b"\xfd7zXZ\0", "compressed by xz; unpack it and give the sum of what comes out"),
    (b"BZh", "compressed by bzip2; unpack it and give the sum of what comes out"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it and give the sum of what comes out"),
    (b"PK\x03\x04", "a ZIP archive; unpack it and give the sum of what comes out"),
];
/// Disks have whole sectors.
const SECTOR: u64 = 512;

/// Checks the beginning of a file.
///
/// # Errors
/// What it is instead, for people.
pub fn check(head: &[u8]) -> Result<(), String> {
    match OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, what)) => Err(format!("it is declared raw, but it is {what}")),
        None => Ok(()),
    }
}

/// Checks the length of a file, which is the size of the disk.
///
/// # Errors
/// Why no disk has that size, for people.
pub fn check_length(length: u64, largest: u64) -> Result<(), String> {
    if length == 0 || !length.is_multiple_of(SECTOR) {
        return Err(format!("it has {length} bytes, which is not a whole number of {SECTOR}-byte sectors"));
    }
    if length > largest {
        return Err(format!("it has {length} bytes; at most {largest} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_something_else_is_refused() {
        for (magic, _) in OTHERS {
            let mut head = magic.to_vec();
            head.resize(4096, 0);
            assert!(check(&head).is_err(), "{magic:?}");
        }
        assert!(check(&[0; 512]).is_ok());
        assert!(check(b"\xeb\x58\x90SYSLINUX").is_ok());
    }

    #[test]
    fn disks_have_whole_sectors() {
        assert!(check_length(1024, 4096).is_ok());
        for length in [0, 1, 513, 8192] {
            assert!(check_length(length, 4096).is_err(), "{length}");
        }
    }
}
