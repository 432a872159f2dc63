//! What a user name and an e-mail address may be.

use crate::error::ApiError;

/// Most characters of a user name.
const MAX_USERNAME: usize = 64;
/// Most characters of an e-mail address.
const MAX_EMAIL: usize = 254;

/// A user name: 1 to 64 characters that can be seen, no space at either end.
pub fn username(name: &str) -> Result<(), ApiError> {
    let invalid = |message: &str| Err(ApiError::Invalid(message.to_owned()));
    if name.is_empty() {
        return invalid("Username must not be empty");
    }
    if name.chars().count() > MAX_USERNAME {
        return invalid("Username must have at most 64 characters");
    }
    if name.chars().any(char::is_control) {
        return invalid("Username must not hold control characters");
    }
    if name.trim() != name {
        return invalid("Username must not begin or end with a space");
    }
    Ok(())
}

/// An e-mail address. Whether mail arrives there only mail can tell, so little is asked of it.
pub fn email(address: &str) -> Result<(), ApiError> {
    let fits = address.chars().count() <= MAX_EMAIL
        && !address.chars().any(|c| c.is_control() || c.is_whitespace())
        && address.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if fits { Ok(()) } else { Err(ApiError::Invalid("E-mail address must look like user@example.com".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["admin", "newuser", "홍길동", "a b", "<x>", &"x".repeat(64)] {
            username(good).unwrap();
        }
        for bad in ["", " a", "a ", "a\n", "\u{0}", &"x".repeat(65)] {
            assert!(username(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["user@example.com", "사용자@예시.한국", "a@b"] {
            email(good).unwrap();
        }
        for bad in ["", "user", "@b", "a@", "a b@c", "a@b\n", &format!("{}@x", "a".repeat(254))] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
    }
}
