//! The command lines of etcd, kube-apiserver and kube-controller-manager.

use std::path::{Path, PathBuf};

use super::{Ports, certs::Certs};
use crate::{binaries::ControlPlaneBinaries, instance::Instance, process::Spec};

/// Controllers that objects of Kvmoor depend on: owner references, namespaces and their service accounts.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
                           clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller";

/// Everything the command lines name.
pub(super) struct Surroundings<'a> {
    pub(super) instance: &'a Instance,
    pub(super) dir: &'a Path,
    pub(super) binaries: &'a ControlPlaneBinaries,
    pub(super) certs: &'a Certs,
    pub(super) ports: Ports,
}

impl Surroundings<'_> {
    pub(super) fn audit_log(dir: &Path) -> PathBuf {
        dir.join("audit.log")
    }

    pub(super) fn audit_policy(dir: &Path) -> PathBuf {
        dir.join("audit-policy.yaml")
    }

    pub(super) fn etcd(&self) -> Spec {
        let client = format!("https://127.0.0.1:{}", self.ports.etcd);
        let peer = format!("https://127.0.0.1:{}", self.ports.etcd_peer);
        Spec::new("etcd", &self.binaries.etcd, self.instance.log("etcd"))
            .flag("name", "kvmoor-dev")
            .flag("data-dir", self.dir.join("etcd"))
            .flag("listen-client-urls", &client)
            .flag("advertise-client-urls", &client)
            .flag("listen-peer-urls", &peer)
            .flag("initial-advertise-peer-urls", &peer)
            .flag("initial-cluster", format!("kvmoor-dev={peer}"))
            .flag("cert-file", self.certs.certificate("etcd"))
            .flag("key-file", self.certs.key("etcd"))
            .flag("trusted-ca-file", self.certs.authority())
            .arg("--client-cert-auth")
            .flag("peer-cert-file", self.certs.certificate("etcd"))
            .flag("peer-key-file", self.certs.key("etcd"))
            .flag("peer-trusted-ca-file", self.certs.authority())
            .arg("--peer-client-cert-auth")
            .flag("auto-compaction-retention", "10m")
            .flag("log-level", "warn")
            // Survives a crash of the process, not of the machine: right for development, and several times faster.
            .arg("--unsafe-no-fsync")
    }

    pub(super) fn apiserver(&self) -> Spec {
        let certs = self.certs;
        Spec::new("kube-apiserver", &self.binaries.apiserver, self.instance.log("kube-apiserver"))
            .flag("bind-address", "127.0.0.1")
            .flag("secure-port", self.ports.apiserver.to_string())
            // Its address would be published as an endpoint for pods, which loopback cannot be.
            .flag("endpoint-reconciler-type", "none")
            .flag("etcd-servers", format!("https://127.0.0.1:{}", self.ports.etcd))
            .flag("etcd-cafile", certs.authority())
            .flag("etcd-certfile", certs.certificate("etcd-client"))
            .flag("etcd-keyfile", certs.key("etcd-client"))
            .flag("client-ca-file", certs.authority())
            .flag("tls-cert-file", certs.certificate("apiserver"))
            .flag("tls-private-key-file", certs.key("apiserver"))
            .flag("service-account-issuer", "https://kubernetes.default.svc")
            .flag("service-account-signing-key-file", certs.key("service-account"))
            .flag("service-account-key-file", certs.service_account_public_key())
            .flag("service-cluster-ip-range", "10.0.0.0/24")
            .flag("authorization-mode", "Node,RBAC")
            .flag("anonymous-auth", "false")
            .flag("allow-privileged", "true")
            .flag("profiling", "false")
            .flag("audit-policy-file", Self::audit_policy(self.dir))
            .flag("audit-log-path", Self::audit_log(self.dir))
            .flag("audit-log-maxsize", "64")
            .flag("audit-log-maxbackup", "2")
            .flag("shutdown-delay-duration", "0s")
    }

    pub(super) fn controller_manager(&self, kubeconfig: &Path) -> Spec {
        const NAME: &str = "kube-controller-manager";
        Spec::new(NAME, &self.binaries.controller_manager, self.instance.log(NAME))
            .flag("kubeconfig", kubeconfig)
            .flag("controllers", CONTROLLERS)
            .arg("--use-service-account-credentials")
            .flag("root-ca-file", self.certs.authority())
            .flag("service-account-private-key-file", self.certs.key("service-account"))
            // There is one, and a lease would be a write every two seconds.
            .flag("leader-elect", "false")
            .flag("secure-port", "0")
            .flag("profiling", "false")
    }
}

/// Who wrote what, without bodies, and nothing about reads. The benchmarks count writes by it.
pub(super) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: Metadata
";
