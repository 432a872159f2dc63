//! Reading and writing Kubernetes quantities of bytes.
//!
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// Why a quantity is not a number of bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form `<number><suffix>`.
    #[error("{0:?} is not a quantity: write a number and one of Ki, Mi, Gi, Ti, Pi, k, M, G, T, P, such as 512Mi")]
    Malformed(String),
    /// Negative or larger than 2^63 - 1 bytes.
    #[error("{0:?} is out of range: it must be at least 0 and less than 8Ei")]
    OutOfRange(String),
}

/// A quantity in bytes, rounded up, as Kubernetes rounds.
pub fn bytes(quantity: &Quantity) -> Result<u64, QuantityError> {
    let text = quantity.0.as_str();
    let malformed = || QuantityError::Malformed(text.to_owned());
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(unit_at).ok_or_else(malformed)?;
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "m" => (1, 1_000),
        "u" => (1, 1_000_000),
        "n" => (1, 1_000_000_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => exponent(suffix).ok_or_else(malformed)?,
    };
    let (digits, decimals) = decimal(number).ok_or_else(malformed)?;
    let out_of_range = || QuantityError::OutOfRange(text.to_owned());
    let scale = 10_i128.checked_pow(decimals).ok_or_else(out_of_range)?;
    let numerator = digits.checked_mul(multiplier).ok_or_else(out_of_range)?;
    let denominator = divisor.checked_mul(scale).ok_or_else(out_of_range)?;
    let quotient = numerator.div_euclid(denominator);
    let rounded = if numerator.rem_euclid(denominator) == 0 { quotient } else { quotient + 1 };
    i64::try_from(rounded).ok().and_then(|value| u64::try_from(value).ok()).ok_or_else(out_of_range)
}

/// The size of a disk that is to hold so many bytes: disks consist of sectors of 512 bytes.
pub fn sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(512).unwrap_or(bytes)
}

/// A number of bytes as a quantity, with the largest binary suffix that loses nothing.
pub fn from_bytes(bytes: u64) -> Quantity {
    let suffixes = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let exact = suffixes.iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    Quantity(exact.map_or_else(|| bytes.to_string(), |(suffix, shift)| format!("{}{suffix}", bytes >> shift)))
}

/// A number of mebibytes as a quantity.
pub fn from_mib(mib: u64) -> Quantity {
    from_bytes(mib.saturating_mul(MIB))
}

/// The schema of a quantity: a short string. Whether it is a quantity is asked by CEL rules beside the field, because the
/// pattern that Kubernetes gives its own accepts more than it reads.
pub(crate) fn quantity_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 32 })
}

/// The schema of an optional quantity.
pub(crate) fn optional_quantity_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 32, "nullable": true })
}

/// `1.50` as (150, 2).
fn decimal(number: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let decimals = u32::try_from(fraction.len()).ok()?;
    let digits = format!("{whole}{fraction}");
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    (!unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
        .map(|value| (value, decimals))
}

/// `e3` or `E-2` as a multiplier and a divisor.
fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let value = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, value) } else { (value, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, QuantityError> {
        bytes(&Quantity(text.to_owned()))
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        let cases = [
            ("0", 0),
            ("16Mi", 16 << 20),
            ("1.5Gi", 3 << 29),
            ("1e3", 1000),
            ("1E2", 100),
            ("2E", 2_000_000_000_000_000_000),
            ("100m", 1),
            ("0.5", 1),
            ("12k", 12_000),
            ("+3Ki", 3072),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "Mi", "1 Gi", "1Gib", "0x10", "1.2.3Mi", "--1", "1e", "９Mi", "1é"] {
            assert!(matches!(parse(text), Err(QuantityError::Malformed(_))), "{text}");
        }
        for text in ["-1", "8Ei", "1e40", "99999999999999999999999999Ei"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for value in [0, 1, 1023, 1 << 10, 3 << 20, (1 << 30) + 1, 5 << 40] {
            assert_eq!(bytes(&from_bytes(value)), Ok(value));
        }
        assert_eq!(from_mib(2048).0, "2Gi");
    }
}
