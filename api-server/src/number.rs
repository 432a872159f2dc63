//! Whole numbers in bodies. JSON has no integers: `2` and `2.0` are the same number, and a schema that says integer means
//! both.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// The largest whole number up to which every whole number is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a whole number.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Whole)
}

/// Reads a whole number or null.
pub fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_option(OptionalWhole)
}

/// Reads a whole number or null into a field that may be missing too, and tells null and missing apart.
pub fn whole_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    optional_whole(deserializer).map(Some)
}

/// Reads a whole number into a field that may be missing, but not null.
pub fn some_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    whole(deserializer).map(Some)
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    /// What is too large for the type is too large for every use of it, and refused there in better words.
    fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
        Ok(i64::try_from(value).unwrap_or(i64::MAX))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the value is whole and small enough")]
    fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            Ok(value as i64)
        } else {
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }
    }
}

struct OptionalWhole;

impl<'de> Visitor<'de> for OptionalWhole {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number or null")
    }

    fn visit_none<E: Error>(self) -> Result<Option<i64>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<i64>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<i64>, D::Error> {
        whole(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Body {
        #[serde(deserialize_with = "whole")]
        number: i64,
        #[serde(default, deserialize_with = "optional_whole")]
        optional: Option<i64>,
        #[serde(default, deserialize_with = "whole_or_null")]
        change: Option<Option<i64>>,
    }

    fn number(text: &str) -> Result<i64, serde_json::Error> {
        serde_json::from_str::<Body>(&format!(r#"{{"number": {text}}}"#)).map(|body| body.number)
    }

    #[test]
    fn whole_numbers_however_written() {
        for (text, expected) in [("2", 2), ("2.0", 2), ("-3e0", -3), ("2e3", 2000), ("18446744073709551615", i64::MAX)]
        {
            assert_eq!(number(text).unwrap(), expected, "{text}");
        }
        for text in ["2.5", "1e300", "\"2\"", "null", "true", "[2]"] {
            assert!(number(text).unwrap_err().to_string().contains("a whole number"), "{text}");
        }
    }

    #[test]
    fn optional_ones() {
        let optional = |text: &str| serde_json::from_str::<Body>(text).unwrap().optional;
        assert_eq!(optional(r#"{"number": 1}"#), None);
        assert_eq!(optional(r#"{"number": 1, "optional": null}"#), None);
        assert_eq!(optional(r#"{"number": 1, "optional": 4.0}"#), Some(4));
    }

    #[test]
    fn missing_is_not_null() {
        let change = |text: &str| serde_json::from_str::<Body>(text).unwrap().change;
        assert_eq!(change(r#"{"number": 1}"#), None);
        assert_eq!(change(r#"{"number": 1, "change": null}"#), Some(None));
        assert_eq!(change(r#"{"number": 1, "change": 4}"#), Some(Some(4)));
    }
}
