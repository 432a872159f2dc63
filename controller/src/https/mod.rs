//! What the controllers need to serve each other and the API server over HTTPS: a certificate that is published rather
//! than signed, callers whose tokens the Kubernetes API confirms, and connections within limits.

pub mod answer;
pub mod certificate;
pub mod review;
pub mod server;
