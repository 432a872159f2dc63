//! The name of a virtual machine's Kubernetes object, which is the guest's host name too.

use rand::Rng;

/// Characters of the random end.
const SUFFIX: usize = 5;
/// Most characters of the readable begin, so that the whole is a DNS label.
const STEM: usize = 63 - 1 - SUFFIX;

/// A fresh name that begins like `display_name`.
pub fn generate(display_name: &str) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let suffix: String = (0..SUFFIX)
        .map(|_| alphabet.get(rng.random_range(0..alphabet.len())).copied().unwrap_or(b'x'))
        .map(char::from)
        .collect();
    format!("{}-{suffix}", stem(display_name))
}

/// What of a free text fits into a DNS label: letters and digits of ASCII, and single hyphens between them.
fn stem(text: &str) -> String {
    let mut stem = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            stem.push(c.to_ascii_lowercase());
        } else if !stem.is_empty() && !stem.ends_with('-') {
            stem.push('-');
        }
    }
    stem.truncate(STEM);
    let stem = stem.trim_end_matches('-');
    if stem.is_empty() { "vm".to_owned() } else { stem.to_owned() }
}

#[cfg(test)]
mod tests {
    use kvmoor_crds::names::is_dns_label;

    use super::*;

    #[test]
    fn stems_are_readable() {
        assert_eq!(stem("My VM"), "my-vm");
        assert_eq!(stem("--a  b--"), "a-b");
        assert_eq!(stem("한국어"), "vm");
        assert_eq!(stem("<name>'\"</name>"), "name-name");
        assert_eq!(stem(""), "vm");
    }

    #[test]
    fn names_are_labels_whatever_the_text() {
        let long = "a".repeat(300);
        let edge = format!("{} b", "a".repeat(STEM - 1));
        for text in ["My VM", "-", "…", &long, &edge, "0"] {
            let name = generate(text);
            assert!(is_dns_label(&name), "{name}");
        }
        assert_ne!(generate("a"), generate("a"));
    }
}
