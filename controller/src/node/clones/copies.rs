//! What there is of a clone's disks, and so whether they are to be copied. Pure.

use super::super::hypervisor::Listed;
use super::record::Record;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// Nothing, or what is left of copies that broke off: it is copied anew.
    Lacking,
    /// All of it: nothing is copied once more.
    Whole(Record),
    /// Disks that no record calls copies: the clone had a domain with them. They are never copied over, nor deleted.
    HasDisks,
}

impl Copies {
    /// From the record, if there is one, all volumes of the clone, and the name of its root disk.
    pub fn of(record: Option<Record>, volumes: &[Listed], root: &str) -> Self {
        match record {
            None if volumes.is_empty() => Self::Lacking,
            None => Self::HasDisks,
            Some(record) if record.is_whole && volumes.iter().any(|volume| volume.name == root) => Self::Whole(record),
            Some(_) => Self::Lacking,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "kvmoor-1-root.qcow2";

    fn of(record: Option<bool>, volumes: &[&str]) -> Copies {
        let record = record.map(|is_whole| Record { is_whole, ..Record::default() });
        let listed = |name: &&str| Listed { name: (*name).to_owned(), virtual_size: 0 };
        Copies::of(record, &volumes.iter().map(listed).collect::<Vec<_>>(), ROOT)
    }

    #[test]
    fn what_is_whole_is_not_copied_again() {
        let whole = Record { is_whole: true, ..Record::default() };
        assert_eq!(of(Some(true), &["kvmoor-1-clone.record", ROOT]), Copies::Whole(whole));
    }

    #[test]
    fn what_broke_off_or_lost_its_root_disk_is_copied_anew() {
        assert_eq!(of(None, &[]), Copies::Lacking);
        assert_eq!(of(Some(false), &["kvmoor-1-clone.record"]), Copies::Lacking);
        assert_eq!(of(Some(false), &["kvmoor-1-clone.record", ROOT]), Copies::Lacking);
        assert_eq!(of(Some(true), &["kvmoor-1-clone.record", "kvmoor-1-data.qcow2"]), Copies::Lacking);
    }

    #[test]
    fn disks_without_a_record_are_no_copies() {
        assert_eq!(of(None, &[ROOT]), Copies::HasDisks);
        assert_eq!(of(None, &["kvmoor-1-data.qcow2"]), Copies::HasDisks);
    }
}
