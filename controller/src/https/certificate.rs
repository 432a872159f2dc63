//! The certificate that this process serves with: made at its start, signed by itself, known to others because it is
//! published where only this process may write.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Who this process is to its callers.
pub struct Identity {
    /// The certificate, in PEM.
    pub certificate: String,
    /// How connections are accepted, with the key.
    pub tls: Arc<ServerConfig>,
}

/// Makes a new key and its certificate, for that name.
pub fn make(name: &str) -> anyhow::Result<Identity> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).context("cannot make a certificate")?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into()))
        .context("cannot serve with the certificate")?;
    Ok(Identity { certificate: made.cert.pem(), tls: Arc::new(tls) })
}
