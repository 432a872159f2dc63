//! Resource versions. Those of one kind grow, and since Kubernetes 1.35 they are specified to compare as integers:
//! the longer string is the greater one, and among equally long ones the order is that of their digits.

use std::cmp::Ordering;

/// A resource version, ordered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Version(String);

impl Version {
    /// The version of an object; the least of all where it has none.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        Self(object.meta().resource_version.as_deref().unwrap_or_default().trim_start_matches('0').to_owned())
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_as_integers() {
        let version = |text: &str| Version(text.to_owned());
        assert!(version("99") < version("100"));
        assert!(version("100") < version("101"));
        assert!(Version::default() < version("1"));
        assert_eq!(version("18446744073709551616").cmp(&version("18446744073709551615")), Ordering::Greater);
    }
}
