//! The record of a clone's copies: a small volume that is there while they are made, until its domain is what it is to
//! be. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Most bytes of a record: hundreds of snapshots.
pub const MOST: usize = 1 << 20;
/// Length of the checksum, in hexadecimal digits.
const SUM: usize = 64;

/// What there is to know of the copies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whether all bytes are there.
    pub is_whole: bool,
    /// The names of the disks beside the root disk that were copied.
    pub disks: Vec<String>,
    /// The snapshot in the copies that is to be gone back to, by its name in libvirt.
    pub apply: Option<String>,
    /// All snapshots in the copies.
    pub snapshots: Vec<String>,
}

impl Record {
    /// The bytes of the record's volume: a checksum, and what it is of. A zero ends them: what was there before may be
    /// longer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).unwrap_or_default();
        let mut bytes = format!("{}{text}\0", checksum(&text)).into_bytes();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    }

    /// Reads them. One of which not all was written is of copies that are not whole.
    pub fn parse(bytes: &[u8]) -> Self {
        let read = || {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            let (sum, text) = std::str::from_utf8(bytes.get(..end)?).ok()?.split_at_checked(SUM)?;
            if sum == checksum(text) { serde_json::from_str(text).ok() } else { None }
        };
        read().unwrap_or_default()
    }
}

fn checksum(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_half_a_record_is_of_half_a_copy() {
        let record = Record {
            is_whole: true,
            disks: vec!["data".into()],
            apply: Some("kvmoor-1".into()),
            snapshots: (0..400).map(|number| format!("kvmoor-{number}")).collect(),
        };
        let bytes = record.to_bytes();
        assert_eq!(Record::parse(&bytes), record);
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"}}}\0");
        assert_eq!(Record::parse(&longer), record);
        let whole = bytes.iter().position(|byte| *byte == 0).unwrap();
        for written in 0..whole {
            let mut torn = bytes.clone();
            torn[written..].fill(0);
            assert!(!Record::parse(&torn).is_whole, "{written}");
            assert!(!Record::parse(&bytes[..written]).is_whole, "{written}");
        }
        // Over another that was there: the beginning of the new one, then the rest of the old one.
        let half = Record { is_whole: false, ..record }.to_bytes();
        for written in 0..whole {
            let torn = [&bytes[..written], half.get(written..).unwrap_or_default()].concat();
            assert!(!Record::parse(&torn).is_whole, "{written}");
        }
    }
}
