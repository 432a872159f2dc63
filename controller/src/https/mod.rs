//! What the controllers need to serve each other and the API server over HTTPS: a certificate that is published rather
//! than signed, callers whose tokens the Kubernetes API confirms, connections within limits, and a client for all that.

pub mod answer;
pub mod certificate;
pub mod client;
pub mod node;
pub mod review;
pub mod server;
