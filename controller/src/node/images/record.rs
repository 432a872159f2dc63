//! The record of an imported image: a small volume, written last. Pure.
//!
//! libvirt cannot rename volumes, so a finished image cannot be told from a half one by its name. Its bytes go into a
//! volume with a name that is used once; when they are all there and checked, a record is written that names that
//! volume. No record, or one that cannot be read, and there is no image: whatever ends when, the next import begins
//! anew and what was left over is deleted. It costs one write of 4 KiB, where a copy under another name would write the
//! whole image twice and could itself be cut off.

use serde::{Deserialize, Serialize};

use super::super::domain_xml::DiskFormat;

/// What the names of all volumes of imported images begin with.
pub const PREFIX: &str = "kvmoor-import-";
/// What the name of a record ends with.
const SUFFIX: &str = ".record";
/// Length of a record, in bytes; what is not used is zero.
pub const LENGTH: usize = 4096;

/// What there is to know of an imported image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Name of the volume with its bytes.
    pub volume: String,
    /// SHA-256 of the bytes, in hexadecimal digits.
    pub sha256: String,
    /// Length of the file, in bytes.
    pub length: u64,
    /// The size of the disk that it holds, in bytes.
    pub virtual_size: u64,
    /// It is about to be deleted, since nobody uses it: nothing new is to stand on it.
    #[serde(default)]
    pub retired: bool,
}

/// Which bytes, read in which way: images of different names may be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Content {
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// Its format.
    pub format: DiskFormat,
}

impl Content {
    /// The content; `None` where the checksum is none, since it becomes a part of names.
    pub fn new(sha256: &str, format: DiskFormat) -> Option<Self> {
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let is_sum = sha256.len() == 64 && sha256.chars().all(is_digit);
        is_sum.then(|| Self { sha256: sha256.to_owned(), format })
    }

    /// Name of the record.
    pub fn record(&self) -> String {
        format!("{PREFIX}{}.{}{SUFFIX}", self.sha256, self.format.as_str())
    }

    /// A name for a volume with the bytes, used once.
    pub fn volume(&self, once: &str) -> String {
        format!("{PREFIX}{}-{once}.{}", self.sha256, self.format.as_str())
    }
}

/// The checksum in the name of a record or of a volume with the bytes.
pub fn sha256_of(volume: &str) -> Option<&str> {
    volume.strip_prefix(PREFIX)?.split(['-', '.']).next()
}

/// Whether that is the name of a record.
pub fn is_record(volume: &str) -> bool {
    volume.starts_with(PREFIX) && volume.ends_with(SUFFIX)
}

impl Record {
    /// The bytes of the record's volume.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.resize(LENGTH, 0);
        bytes
    }

    /// Reads them. `None` where they are not a whole record, of the content that the record's name says.
    pub fn parse(bytes: &[u8], name: &str) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let record: Self = serde_json::from_slice(bytes.get(..end)?).ok()?;
        let of_name = name.strip_prefix(PREFIX)?.starts_with(&format!("{}.", record.sha256));
        (of_name && record.volume.starts_with(PREFIX) && !is_record(&record.volume)).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content::new(&"ab".repeat(32), DiskFormat::Qcow2).unwrap()
    }

    fn record() -> Record {
        let content = content();
        Record { volume: content.volume("x"), sha256: content.sha256, length: 5, virtual_size: 7, retired: false }
    }

    #[test]
    fn reads_what_it_writes() {
        let bytes = record().to_bytes();
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(Record::parse(&bytes, &content().record()), Some(record()));
    }

    #[test]
    fn names_tell_the_content() {
        assert_eq!(sha256_of(&content().record()), Some(content().sha256.as_str()));
        assert_eq!(sha256_of(&record().volume), Some(content().sha256.as_str()));
        assert!(is_record(&content().record()) && !is_record(&record().volume));
        assert_eq!(sha256_of("kvmoor-image-tiny.qcow2"), None);
    }

    #[test]
    fn half_a_record_is_none() {
        let bytes = record().to_bytes();
        let whole = bytes.iter().position(|byte| *byte == 0).unwrap();
        for written in 0..whole {
            let mut torn = bytes.clone();
            torn[written..].fill(0);
            assert_eq!(Record::parse(&torn, &content().record()), None, "{written}");
        }
        assert_eq!(Record::parse(&[], &content().record()), None);
        assert_eq!(Record::parse(&bytes[..whole], &content().record()), None, "nothing says that it ends");
    }

    #[test]
    fn a_record_speaks_of_its_own_content_only() {
        let other = Content::new(&"cd".repeat(32), DiskFormat::Qcow2).unwrap();
        assert_eq!(Record::parse(&record().to_bytes(), &other.record()), None);
        let foreign = Record { volume: "kvmoor-uid-root.qcow2".into(), ..record() };
        assert_eq!(Record::parse(&foreign.to_bytes(), &content().record()), None);
        for sum in ["", "AB", &"AB".repeat(32), &"../x".repeat(16)] {
            assert_eq!(Content::new(sum, DiskFormat::Raw), None, "{sum}");
        }
    }
}
