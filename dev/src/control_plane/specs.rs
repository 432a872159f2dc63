//! The command lines of etcd, kube-apiserver and kube-controller-manager.

use std::path::{Path, PathBuf};

use super::{PodNetwork, Ports, certs::Certs};
use crate::{binaries::ControlPlaneBinaries, instance::Instance, process::Spec};

/// Controllers that objects of Kvmoor depend on: owner references, namespaces and their service accounts.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
                           clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller";
/// What pods, their Deployments and DaemonSets, and Services need besides.
const POD_CONTROLLERS: &str = "root-ca-certificate-publisher-controller,deployment-controller,replicaset-controller,\
                               daemonset-controller,job-controller,disruption-controller,pod-garbage-collector-controller,\
                               endpointslice-controller,endpoints-controller,node-lifecycle-controller,\
                               taint-eviction-controller,horizontal-pod-autoscaler-controller";

/// Everything the command lines name.
pub(super) struct Surroundings<'a> {
    pub(super) instance: &'a Instance,
    pub(super) dir: &'a Path,
    pub(super) binaries: &'a ControlPlaneBinaries,
    pub(super) certs: &'a Certs,
    pub(super) ports: Ports,
    pub(super) pods: Option<&'a PodNetwork>,
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
        let spec = Spec::new("kube-apiserver", &self.binaries.apiserver, self.instance.log("kube-apiserver"));
        let spec = match self.pods {
            // Reached by pods under the machine's address in the network of the node, and by this process on loopback.
            Some(pods) => spec
                .flag("bind-address", "0.0.0.0")
                .flag("advertise-address", pods.machine.to_string())
                .flag("service-cluster-ip-range", format!("{}/24", pods.services))
                .flag("kubelet-client-certificate", certs.certificate("kubelet-client"))
                .flag("kubelet-client-key", certs.key("kubelet-client"))
                .flag("kubelet-preferred-address-types", "InternalIP"),
            None => spec
                .flag("bind-address", "127.0.0.1")
                .flag("service-cluster-ip-range", "10.0.0.0/24")
                // Its address would be published as an endpoint for pods, which loopback cannot be.
                .flag("endpoint-reconciler-type", "none"),
        };
        spec.flag("secure-port", self.ports.apiserver.to_string())
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
        let controllers = match self.pods {
            Some(_) => format!("{CONTROLLERS},{POD_CONTROLLERS}"),
            None => CONTROLLERS.to_owned(),
        };
        Spec::new(NAME, &self.binaries.controller_manager, self.instance.log(NAME))
            .flag("kubeconfig", kubeconfig)
            .flag("controllers", controllers)
            .arg("--use-service-account-credentials")
            .flag("root-ca-file", self.certs.authority())
            .flag("service-account-private-key-file", self.certs.key("service-account"))
            // There is one, and a lease would be a write every two seconds.
            .flag("leader-elect", "false")
            .flag("secure-port", "0")
            .flag("profiling", "false")
    }
}

pub(super) fn scheduler(instance: &Instance, program: &Path, kubeconfig: &Path) -> Spec {
    const NAME: &str = "kube-scheduler";
    Spec::new(NAME, program, instance.log(NAME))
        .flag("kubeconfig", kubeconfig)
        // There is one.
        .flag("leader-elect", "false")
        .flag("secure-port", "0")
        .flag("profiling", "false")
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
