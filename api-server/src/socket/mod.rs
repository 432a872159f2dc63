//! What all WebSockets have in common: who may open one, how many, and how one is closed.

mod close;
mod opening;
mod origin;
mod seats;

pub use self::close::{Closing, close};
pub use self::opening::Opening;
pub use self::seats::Seats;
