//! The one choice of cryptography for TLS in this process.

/// Chooses ring, unless a choice was made. Without it every TLS client fails as soon as two crates bring two providers.
pub(crate) fn install_provider() {
    // An error only says that somebody was earlier.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
