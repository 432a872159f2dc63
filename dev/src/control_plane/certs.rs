//! Certificates of a private control plane: one authority, everything else signed by it. Made anew for each directory
//! and kept there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::files;

/// Names and addresses under which the servers are reached.
const SERVER_NAMES: [&str; 5] =
    ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];

/// Paths of the certificates and keys in one directory.
#[derive(Clone, Debug)]
pub(crate) struct Certs {
    dir: PathBuf,
}

/// The parties, each with `NAME.crt` and `NAME.key`: common name and organisation are the Kubernetes user and group.
const CLIENTS: [(&str, &str, Option<&str>); 6] = [
    ("admin", "kvmoor-dev-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    ("kubelet-client", "kube-apiserver", Some("system:masters")),
    ("etcd-client", "kube-apiserver", None),
];
const SERVERS: [&str; 2] = ["apiserver", "etcd"];

impl Certs {
    /// The certificates in `dir`, made if they are not there. The servers are reached also under the names and addresses
    /// `also`, and each of `nodes` gets a certificate `NAME.crt` of its own.
    pub(crate) fn ensure(dir: &Path, also: &[String], nodes: &[&str]) -> Result<Self> {
        let certs = Self { dir: dir.to_owned() };
        if !certs.complete().exists() {
            files::make_dir(dir, 0o700)?;
            certs.make(also, nodes).context("make certificates")?;
            // Last, so that a directory half made is made again.
            files::write(&certs.complete(), b"", 0o600)?;
        }
        Ok(certs)
    }

    fn complete(&self) -> PathBuf {
        self.dir.join("complete")
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// The public half of [`Self::key`] `service-account`.
    pub(crate) fn service_account_public_key(&self) -> PathBuf {
        self.dir.join("service-account.pub")
    }

    fn make(&self, also: &[String], nodes: &[&str]) -> Result<()> {
        let mut params = named("kvmoor-dev", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        files::write_private(&self.authority(), authority.pem())?;
        for (name, user, group) in CLIENTS {
            self.issue(&authority, name, named(user, group)?, &[ExtendedKeyUsagePurpose::ClientAuth])?;
        }
        for name in nodes {
            let params = named(&format!("system:node:{name}"), Some("system:nodes"))?;
            self.issue(&authority, name, params, &[ExtendedKeyUsagePurpose::ClientAuth])?;
        }
        for name in SERVERS {
            let mut params = named(name, None)?;
            let names = SERVER_NAMES.into_iter().map(str::to_owned).chain(also.iter().cloned());
            params.subject_alt_names = CertificateParams::new(names.collect::<Vec<_>>())?.subject_alt_names;
            // etcd's gateway is a client of etcd itself.
            self.issue(
                &authority,
                name,
                params,
                &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            )?;
        }
        let tokens = KeyPair::generate()?;
        files::write_private(&self.key("service-account"), tokens.serialize_pem())?;
        files::write_private(&self.service_account_public_key(), tokens.public_key_pem())
    }

    fn issue(
        &self,
        authority: &CertifiedIssuer<'_, KeyPair>,
        name: &str,
        mut params: CertificateParams,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        files::write_private(&self.certificate(name), certificate.pem())?;
        files::write_private(&self.key(name), key.serialize_pem())
    }
}

fn named(user: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name = name;
    Ok(params)
}
