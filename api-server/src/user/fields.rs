//! What bodies hold of a user, each with its one schema. What the schema says is checked by [`super::validate`], in words
//! of its own.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::password::Password;

/// A name to log in with; unique without regard to case.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(
    example = "newuser",
    min_length = 1,
    max_length = 64,
    pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
)]
pub struct Username(pub String);

/// A new password, at least 8 characters.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password, min_length = 8, max_length = 256, example = "password")]
pub struct NewPassword(pub Password);

/// An e-mail address.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(example = "user@example.com", format = Email, max_length = 254)]
pub struct Email(pub String);
