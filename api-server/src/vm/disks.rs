//! Disks beside the root disk, as they are asked for: what attaching, growing and detaching make of a spec. Pure.

use kvmoor_crds::{ExtraDisk, quantity};

use crate::error::{ApiError, Noun};
use crate::model::mib;

/// Most of them; the schema says the same.
pub const MOST: usize = 16;

/// A disk, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Its name.
    pub name: String,
    /// Its size in MiB.
    pub size: u64,
}

impl NewDisk {
    /// As it stands in a spec.
    pub fn in_spec(&self) -> ExtraDisk {
        ExtraDisk { name: self.name.clone(), size: quantity::from_mib(self.size) }
    }
}

/// The disks with one more. One of that name and size is that one already.
pub fn attached(disks: &[ExtraDisk], new: &NewDisk) -> Result<Vec<ExtraDisk>, ApiError> {
    let mut disks = disks.to_vec();
    match disks.iter().find(|disk| disk.name == new.name) {
        Some(present) if mib(&present.size) == new.size => {}
        Some(_) => {
            let message = format!("VM has a disk {} of another size; grow it, or take another name", new.name);
            return Err(ApiError::Conflict(message));
        }
        None if disks.len() >= MOST => {
            return Err(ApiError::Conflict(format!("A VM has at most {MOST} disks beside the root disk")));
        }
        None => disks.push(new.in_spec()),
    }
    Ok(disks)
}

/// The disks, with one grown.
pub fn grown(disks: &[ExtraDisk], name: &str, size: u64) -> Result<Vec<ExtraDisk>, ApiError> {
    let mut disks = disks.to_vec();
    let disk = disks.iter_mut().find(|disk| disk.name == name).ok_or(ApiError::NotFound(Noun::Disk))?;
    only_grows(mib(&disk.size), size)?;
    if mib(&disk.size) != size {
        disk.size = quantity::from_mib(size);
    }
    Ok(disks)
}

/// The disks without one.
pub fn detached(disks: &[ExtraDisk], name: &str) -> Result<Vec<ExtraDisk>, ApiError> {
    let left: Vec<_> = disks.iter().filter(|disk| disk.name != name).cloned().collect();
    if left.len() == disks.len() { Err(ApiError::NotFound(Noun::Disk)) } else { Ok(left) }
}

/// Whether a disk of `present` MiB may be asked to have `wanted`.
pub fn only_grows(present: u64, wanted: u64) -> Result<(), ApiError> {
    if wanted >= present {
        return Ok(());
    }
    Err(ApiError::Conflict(format!("A disk only grows: it has {present} MiB, and cannot have {wanted}")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    fn disks() -> Vec<ExtraDisk> {
        vec![ExtraDisk { name: "data".into(), size: Quantity("2048Mi".into()) }]
    }

    fn new(name: &str, size: u64) -> NewDisk {
        NewDisk { name: name.into(), size }
    }

    #[test]
    fn disks_are_attached_once() {
        let two = attached(&disks(), &new("more", 64)).unwrap();
        assert_eq!(two.iter().map(|disk| disk.size.0.as_str()).collect::<Vec<_>>(), ["2048Mi", "64Mi"]);
        assert_eq!(attached(&disks(), &new("data", 2048)).unwrap(), disks());
        assert!(matches!(attached(&disks(), &new("data", 64)), Err(ApiError::Conflict(_))));
        let many: Vec<_> = (0..MOST).map(|n| new(&format!("d{n}"), 1).in_spec()).collect();
        assert!(matches!(attached(&many, &new("more", 64)), Err(ApiError::Conflict(_))));
    }

    #[test]
    fn disks_only_grow() {
        assert_eq!(grown(&disks(), "data", 4096).unwrap()[0].size.0, "4Gi");
        assert_eq!(grown(&disks(), "data", 2048).unwrap(), disks());
        assert!(grown(&disks(), "data", 2047).unwrap_err().to_string().contains("only grows"));
        assert!(matches!(grown(&disks(), "other", 1), Err(ApiError::NotFound(Noun::Disk))));
    }

    #[test]
    fn only_what_is_there_is_detached() {
        assert_eq!(detached(&disks(), "data").unwrap(), []);
        assert!(matches!(detached(&disks(), "other"), Err(ApiError::NotFound(Noun::Disk))));
    }
}
