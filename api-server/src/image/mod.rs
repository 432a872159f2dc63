//! Images: creating one, and choosing the host that its file goes to.

pub mod create;
pub mod delete;
pub mod place;
