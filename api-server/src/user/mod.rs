//! Accounts: creating, finding, changing and deleting them.

pub mod admins;
pub mod change;
pub mod create;
pub mod delete;
pub mod fields;
pub mod find;
pub mod secret;
pub mod validate;
