//! What a virtual machine may be asked to be. The schema of the Kubernetes API refuses the same; here the sentences are
//! the REST API's own, and nothing is written.

use kvmoor_crds::guest_data::{LARGEST_NETWORK_DATA, LARGEST_USER_DATA};

use super::guest_data::GuestData;
use crate::error::ApiError;

/// Most virtual CPUs.
const MAX_CPU: i64 = 512;
/// Least memory, in MiB.
const MIN_MEMORY: i64 = 16;
/// Most memory, in MiB: 16 TiB.
const MAX_MEMORY: i64 = 16 << 20;
/// Most characters of a name.
const MAX_NAME: usize = 128;
/// Most characters of a description.
const MAX_DESCRIPTION: usize = 1024;

fn invalid<T>(message: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Invalid(message.into()))
}

/// A name for people: 1 to 128 characters that can be seen.
pub fn name(name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() {
        return invalid("Name must not be empty");
    }
    if name.chars().count() > MAX_NAME {
        return invalid("Name must have at most 128 characters");
    }
    if name.chars().any(char::is_control) {
        return invalid("Name must not hold control characters");
    }
    Ok(())
}

/// What something is for, free text: at most 1024 characters.
pub fn description(text: &str) -> Result<(), ApiError> {
    if text.chars().count() > MAX_DESCRIPTION {
        return invalid("Description must have at most 1024 characters");
    }
    Ok(())
}

/// A number of virtual CPUs.
pub fn cpu(cpu: i64) -> Result<i32, ApiError> {
    match i32::try_from(cpu) {
        _ if cpu <= 0 => invalid("CPU must be greater than 0"),
        Ok(count) if cpu <= MAX_CPU => Ok(count),
        _ => invalid(format!("CPU must be at most {MAX_CPU}")),
    }
}

/// An amount of memory in MiB.
pub fn memory(mib: i64) -> Result<u64, ApiError> {
    match u64::try_from(mib) {
        _ if mib <= 0 => invalid("Memory must be greater than 0"),
        _ if mib < MIN_MEMORY => invalid(format!("Memory must be at least {MIN_MEMORY} MiB")),
        Ok(amount) if mib <= MAX_MEMORY => Ok(amount),
        _ => invalid(format!("Memory must be at most {MAX_MEMORY} MiB")),
    }
}

/// A disk size in MiB.
pub fn disk(mib: i64) -> Result<u64, ApiError> {
    match u64::try_from(mib) {
        _ if mib <= 0 => invalid("Disk must be greater than 0"),
        Ok(amount) if mib <= 64 << 20 => Ok(amount),
        _ => invalid("Disk must be at most 67108864 MiB"),
    }
}

/// The name of a disk beside the root disk.
pub fn disk_name(name: &str) -> Result<(), ApiError> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits =
        name.len() <= 32 && name.starts_with(edge) && name.ends_with(edge) && name.chars().all(|c| edge(c) || c == '-');
    if fits {
        return Ok(());
    }
    invalid("The name of a disk must be 1 to 32 lower-case letters, digits and -, such as data")
}

/// The name of an image, whether there is one or not.
pub fn os_type(name: &str) -> Result<(), ApiError> {
    if is_object_name(name) {
        return Ok(());
    }
    invalid("os_type must be a name such as ubuntu-desktop: at most 63 lower-case letters, digits, - and .")
}

/// The name of a class, whether there is one or not.
pub fn class(name: &str) -> Result<(), ApiError> {
    if is_object_name(name) {
        return Ok(());
    }
    invalid("class must be a name such as small: at most 63 lower-case letters, digits, - and .")
}

fn is_object_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-' || c == '.')
}

/// Public keys in the format of authorized_keys.
pub fn ssh_keys(keys: &[String]) -> Result<(), ApiError> {
    if keys.len() > 64 {
        return invalid("ssh_authorized_keys must hold at most 64 keys");
    }
    if keys.iter().any(|key| key.trim().is_empty() || key.chars().count() > 8192 || key.chars().any(char::is_control)) {
        return invalid("Each of ssh_authorized_keys must be one line of at most 8192 characters");
    }
    Ok(())
}

/// What cloud-init is told: user data and a network configuration.
pub fn guest_data(user_data: Option<String>, network_config: Option<String>) -> Result<GuestData, ApiError> {
    at_most(&user_data, "user_data", LARGEST_USER_DATA)?;
    at_most(&network_config, "network_config", LARGEST_NETWORK_DATA)?;
    Ok(GuestData { user_data, network_config })
}

fn at_most(text: &Option<String>, field: &str, largest: usize) -> Result<(), ApiError> {
    match text {
        Some(text) if text.len() > largest => {
            invalid(format!("{field} has {} bytes and may have at most {largest} bytes", text.len()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(outcome: Result<T, ApiError>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn the_references_examples_are_accepted() {
        name("My VM").unwrap();
        assert_eq!(cpu(2).unwrap(), 2);
        assert_eq!(memory(2048).unwrap(), 2048);
        os_type("ubuntu-desktop").unwrap();
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(message(cpu(0)), "CPU must be greater than 0");
        assert_eq!(message(cpu(-1)), "CPU must be greater than 0");
        assert_eq!(message(cpu(513)), "CPU must be at most 512");
        assert_eq!(message(cpu(i64::MAX)), "CPU must be at most 512");
        assert_eq!(message(memory(0)), "Memory must be greater than 0");
        assert_eq!(message(memory(15)), "Memory must be at least 16 MiB");
        assert_eq!(message(memory(i64::MAX)), "Memory must be at most 16777216 MiB");
        assert_eq!(memory(16).unwrap(), 16);
        assert_eq!(memory(16 << 20).unwrap(), 16 << 20);
    }

    #[test]
    fn names_are_free_text_without_control_characters() {
        for good in ["-rf", "<vm name='x'/>", "\"; drop", &"한".repeat(64), &"x".repeat(128)] {
            name(good).unwrap();
        }
        for bad in ["", "   ", "a\nb", "a\u{0}", "\u{85}", "\u{7f}", &"x".repeat(129)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn os_types_are_names_of_images() {
        for good in ["tiny", "ubuntu-24.04", "0"] {
            os_type(good).unwrap();
        }
        for bad in ["", "-a", "a-", "Ubuntu", "a b", "../x", "a/b", &"x".repeat(64)] {
            assert!(os_type(bad).is_err(), "{bad:?}");
        }
    }
}
