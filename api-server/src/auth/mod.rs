//! Who may do what: passwords, session tokens, throttling, and the extractors by which a handler's very signature says
//! what its caller is allowed.

pub mod extract;
pub mod keys;
pub mod password;
mod phc;
pub mod proxies;
pub mod session;
pub mod throttle;
pub mod ticket;
pub mod token;
mod workers;
