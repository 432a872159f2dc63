//! The API server with a certificate of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kvmoor_tests::vm::SOON;
use kvmoor_tests::wait;
use reqwest::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::shared::Shared;

/// A certificate and its key in files, as a Secret that is mounted.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Makes another certificate, which the files then hold. Returns it as PEM.
    fn renew(&self) -> Result<String> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(&self.cert, made.cert.pem())?;
        std::fs::write(&self.key, made.signing_key.serialize_pem())?;
        Ok(made.cert.pem())
    }
}

/// Whoever trusts that certificate alone gets an answer: whether requests are served.
async fn ready(url: &str, trusted: &str) -> Result<serde_json::Value> {
    let trusted = Certificate::from_pem(trusted.as_bytes())?;
    let client = reqwest::Client::builder().tls_certs_only([trusted]).timeout(Duration::from_secs(5)).build()?;
    Ok(client.get(format!("{url}/api/ready")).send().await?.error_for_status()?.json().await?)
}

pub async fn https_websockets_and_a_renewal(shared: &Shared) -> Result<()> {
    let (server, url) = shared.cluster.another_api_server("tls")?;
    let (cert, key) = (shared.cluster.dir().join("tls.crt"), shared.cluster.dir().join("tls.key"));
    let files = Files { cert, key };
    let first = files.renew()?;
    server.set_env("KVMOOR_TLS_CERT", files.cert.to_str());
    server.set_env("KVMOOR_TLS_KEY", files.key.to_str());
    server.start()?;
    let secure = url.replacen("http:", "https:", 1);
    let is_ready = |answer: &serde_json::Value| answer["status"] == "ok";
    wait::until("HTTPS is served", SOON, || ready(&secure, &first), is_ready).await?;
    ensure!(reqwest::get(format!("{url}/api/health")).await.is_err(), "and nothing else");

    // A WebSocket by TLS.
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(first.as_bytes())?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let address = url.strip_prefix("http://").context("an address")?;
    let name = ServerName::try_from("127.0.0.1")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
    let token = shared.admin.token().context("a session")?;
    let (mut feed, _) =
        tokio_tungstenite::client_async(format!("wss://{address}/ws/vm-status?token={token}"), stream).await?;
    let frame = tokio::time::timeout(SOON, feed.next()).await?.context("a frame")??;
    ensure!(frame.to_text()?.starts_with(r#"{"type":"vm_list""#), "{frame}");

    let second = files.renew()?;
    wait::until("the new certificate is served", SOON, || ready(&secure, &second), is_ready).await?;
    ensure!(ready(&secure, &first).await.is_err(), "the old one is not");
    server.stop(SOON).await;
    Ok(())
}
