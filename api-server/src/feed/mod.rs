//! Changes of virtual machines, to everybody who may see them.
//!
//! One task reads the store's changes and turns each that shows over REST into a frame, once; whoever follows the
//! virtual machine gets the same bytes into a queue of its own. Nobody waits for anybody: whose queue is full is let go
//! of, and told so.

mod serve;
mod state;
mod task;

pub use self::serve::serve;
pub use self::state::{Feed, Frame, Scope};
pub use self::task::fan_out;
