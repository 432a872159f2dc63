//! Random names and secrets.

use rand::Rng as _;

/// A version 4 UUID.
pub(crate) fn uuid() -> String {
    let mut bits: u128 = rand::rng().random();
    bits = bits & !(0xf << 76) | (0x4 << 76);
    bits = bits & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// `length` random letters and digits, without those that look alike.
pub(crate) fn word(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut rng = rand::rng();
    let letter = |_| char::from(ALPHABET.get(rng.random_range(0..ALPHABET.len())).copied().unwrap_or(b'x'));
    (0..length).map(letter).collect()
}

/// Random bytes for a key.
pub(crate) fn key() -> [u8; 32] {
    rand::rng().random()
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_say_version_four() {
        let uuid = super::uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{uuid}");
    }
}
