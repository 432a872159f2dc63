//! What a qcow2 image may be before anything else looks into it: the header of the file, checked field by field.
//!
//! QEMU believes this header: it opens the backing file and the data file that it names, decrypts, and allocates tables
//! of the sizes that it gives. An image comes from outside, so all of that is refused here, and with it everything that
//! this file does not know. Pure, without dependencies but the error's derive: the fuzz target includes this very file.
//!
//! Source: <https://www.qemu.org/docs/master/interop/qcow2.html>.

/// How much of a file's beginning is looked at, or all of it where it is shorter.
pub const HEAD: usize = 64 << 10;
/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Length of the header of version 2, and of the shortest of version 3.
const SHORTEST: [u32; 2] = [72, 104];
/// Longest header: what QEMU writes is 112.
const LONGEST: u32 = 1024;
/// Bounds of the logarithm of the cluster size: 512 bytes to 2 MiB, as in QEMU.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Extended L2 entries need clusters of 16 KiB at least.
const EXTENDED_CLUSTER_BITS: u32 = 14;
/// Most bytes of the L1 table, as in QEMU.
const MOST_L1_BYTES: u64 = 32 << 20;
/// Most bytes of the refcount table, as in QEMU.
const MOST_REFCOUNT_BYTES: u64 = 8 << 20;
/// Refcounts of more than 64 bits do not exist.
const MOST_REFCOUNT_ORDER: u32 = 6;
/// More header extensions than any program writes.
const MOST_EXTENSIONS: usize = 16;

/// Incompatible feature: the refcounts may be wrong.
const DIRTY: u64 = 1 << 0;
/// Incompatible feature: the file is broken.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: the data are in another file.
const DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: clusters are compressed by other means than zlib.
const COMPRESSION: u64 = 1 << 3;
/// Incompatible feature: L2 entries with subclusters.
const EXTENDED_L2: u64 = 1 << 4;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a qcow2 file.
    #[error("it does not begin as a qcow2 file does; is its format raw, or is it compressed?")]
    Magic,
    /// The file ends within its header.
    #[error("it ends within its header")]
    Short,
    /// Neither version 2 nor 3.
    #[error("its version is {0}; 2 and 3 are supported")]
    Version(u32),
    /// It stands on another file.
    #[error("it has a backing file; make it whole with `qemu-img convert`")]
    BackingFile,
    /// Its data are in another file.
    #[error("its data are in an external file; make it whole with `qemu-img convert`")]
    DataFile,
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It was not closed properly.
    #[error("it is marked dirty or corrupt; check it with `qemu-img check`")]
    Unclean,
    /// It needs features that are not supported.
    #[error("it needs unknown features (bits {0:#x})")]
    Features(u64),
    /// An extension of the header that is not supported.
    #[error("its header has the unsupported extension {0:#010x}")]
    Extension(u32),
    /// Something in the header has a value that no valid file has.
    #[error("its {0} is out of bounds")]
    Bounds(&'static str),
    /// It holds internal snapshots.
    #[error("it holds {0} internal snapshots; delete them with `qemu-img snapshot -d`")]
    Snapshots(u32),
    /// The disk is too large.
    #[error("its virtual size is {0} bytes; at most {1} are allowed")]
    TooLarge(u64, u64),
    /// A table lies outside of the file.
    #[error("its {0} lies outside of the file")]
    Outside(&'static str),
}

/// What matters of a header that is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The size of the disk, in bytes.
    pub virtual_size: u64,
    l1_end: u64,
    refcount_end: u64,
}

impl Header {
    /// Checks that the tables are within a file of that length.
    ///
    /// # Errors
    /// If one is not.
    pub fn fits(&self, length: u64) -> Result<(), Invalid> {
        if self.l1_end > length {
            return Err(Invalid::Outside("L1 table"));
        }
        if self.refcount_end > length {
            return Err(Invalid::Outside("refcount table"));
        }
        Ok(())
    }
}

/// Checks the beginning of a file: its first [`HEAD`] bytes, or all of them. `largest` is the largest virtual size.
///
/// # Errors
/// What is wrong with it.
pub fn check(head: &[u8], largest: u64) -> Result<Header, Invalid> {
    if !head.starts_with(&MAGIC) {
        return Err(Invalid::Magic);
    }
    let version = u32_at(head, 4)?;
    let shortest = match version {
        2 => SHORTEST[0],
        3 => SHORTEST[1],
        other => return Err(Invalid::Version(other)),
    };
    if u64_at(head, 8)? != 0 || u32_at(head, 16)? != 0 {
        return Err(Invalid::BackingFile);
    }
    if u32_at(head, 32)? != 0 {
        return Err(Invalid::Encrypted);
    }
    let (features, header_length) = if version == 2 { (0, shortest) } else { version_3(head)? };
    let cluster_bits = u32_at(head, 20)?;
    if !CLUSTER_BITS.contains(&cluster_bits)
        || (features & EXTENDED_L2 != 0 && cluster_bits < EXTENDED_CLUSTER_BITS)
        || u64::from(header_length) > 1 << cluster_bits
    {
        return Err(Invalid::Bounds("cluster size"));
    }
    let snapshots = u32_at(head, 60)?;
    if snapshots != 0 {
        return Err(Invalid::Snapshots(snapshots));
    }
    let virtual_size = u64_at(head, 24)?;
    if virtual_size == 0 {
        return Err(Invalid::Bounds("virtual size"));
    }
    if virtual_size > largest {
        return Err(Invalid::TooLarge(virtual_size, largest));
    }
    let l1_end = l1_table(head, virtual_size, cluster_bits, features)?;
    let refcount_end = refcount_table(head, cluster_bits)?;
    extensions(head, header_length, cluster_bits)?;
    Ok(Header { virtual_size, l1_end, refcount_end })
}

/// The incompatible features and the header's length.
fn version_3(head: &[u8]) -> Result<(u64, u32), Invalid> {
    let features = u64_at(head, 72)?;
    if features & DATA_FILE != 0 {
        return Err(Invalid::DataFile);
    }
    if features & (DIRTY | CORRUPT) != 0 {
        return Err(Invalid::Unclean);
    }
    let unknown = features & !(COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(Invalid::Features(unknown));
    }
    if u32_at(head, 96)? > MOST_REFCOUNT_ORDER {
        return Err(Invalid::Bounds("refcount width"));
    }
    let length = u32_at(head, 100)?;
    if !(SHORTEST[1]..=LONGEST).contains(&length) || !length.is_multiple_of(8) {
        return Err(Invalid::Bounds("header length"));
    }
    // 0 is zlib, 1 is zstd; the bit says that it is not zlib.
    let compression = if length > SHORTEST[1] { at::<1>(head, 104)?[0] } else { 0 };
    if compression > 1 || (compression == 1) != (features & COMPRESSION != 0) {
        return Err(Invalid::Bounds("compression type"));
    }
    Ok((features, length))
}

/// Where the L1 table ends.
fn l1_table(head: &[u8], virtual_size: u64, cluster_bits: u32, features: u64) -> Result<u64, Invalid> {
    let invalid = Invalid::Bounds("L1 table");
    let entries = u64::from(u32_at(head, 36)?);
    // A cluster of L2 entries, of 8 or 16 bytes each, maps so many clusters.
    let l2_bits = cluster_bits - if features & EXTENDED_L2 != 0 { 4 } else { 3 };
    let needed = virtual_size.div_ceil(1 << (cluster_bits + l2_bits));
    let bytes = entries.saturating_mul(8);
    if entries < needed || bytes > MOST_L1_BYTES {
        return Err(invalid);
    }
    table(u64_at(head, 40)?, bytes, cluster_bits).ok_or(invalid)
}

/// Where the refcount table ends.
fn refcount_table(head: &[u8], cluster_bits: u32) -> Result<u64, Invalid> {
    let invalid = Invalid::Bounds("refcount table");
    let clusters = u64::from(u32_at(head, 56)?);
    let bytes = clusters << cluster_bits;
    if clusters == 0 || bytes > MOST_REFCOUNT_BYTES {
        return Err(invalid);
    }
    table(u64_at(head, 48)?, bytes, cluster_bits).ok_or(invalid)
}

/// The end of a table that begins at a cluster other than the first.
fn table(offset: u64, bytes: u64, cluster_bits: u32) -> Option<u64> {
    let aligned = offset != 0 && offset.trailing_zeros() >= cluster_bits;
    // QEMU's offsets are signed.
    offset.checked_add(bytes).filter(|end| aligned && i64::try_from(*end).is_ok())
}

/// Goes through the header's extensions: only the list of feature names may be there.
fn extensions(head: &[u8], header_length: u32, cluster_bits: u32) -> Result<(), Invalid> {
    let area = usize::try_from(1_u64 << cluster_bits).unwrap_or(HEAD).min(HEAD);
    let mut position = usize::try_from(header_length).map_err(|_| Invalid::Bounds("header length"))?;
    for _ in 0..MOST_EXTENSIONS {
        if position.saturating_add(8) > area {
            return Err(Invalid::Bounds("list of header extensions"));
        }
        let (kind, length) = (u32_at(head, position)?, u32_at(head, position + 4)?);
        match kind {
            END => return Ok(()),
            FEATURE_NAMES => {}
            BACKING_FORMAT => return Err(Invalid::BackingFile),
            ENCRYPTION => return Err(Invalid::Encrypted),
            DATA_FILE_NAME => return Err(Invalid::DataFile),
            BITMAPS => return Err(Invalid::Extension(kind)),
            other => return Err(Invalid::Extension(other)),
        }
        let length = usize::try_from(length).map_err(|_| Invalid::Bounds("header extension"))?;
        // The data are padded to eight bytes.
        position = position.saturating_add(8).saturating_add(length.saturating_add(7) & !7);
    }
    Err(Invalid::Bounds("list of header extensions"))
}

fn at<const N: usize>(head: &[u8], position: usize) -> Result<[u8; N], Invalid> {
    head.get(position..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Invalid::Short)
}

fn u32_at(head: &[u8], position: usize) -> Result<u32, Invalid> {
    at(head, position).map(u32::from_be_bytes)
}

fn u64_at(head: &[u8], position: usize) -> Result<u64, Invalid> {
    at(head, position).map(u64::from_be_bytes)
}
