//! What a guest is told by cloud-init beyond its spec, and how a host gets it: whoever asks and whoever answers must
//! agree.
//!
//! User data may hold passwords, so it stands in Secrets, which the hosts have no right to read. The cluster controller
//! reads what one virtual machine needs and hands it, over HTTPS, to the host that the virtual machine is bound to. The
//! host proves itself by a token of the node controllers' account for [`AUDIENCE`] that was issued for its node; the
//! cluster controller by the certificate in the annotations of its Lease, which only it may write.

use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

/// Audience of the tokens that the cluster controller takes.
pub const AUDIENCE: &str = "kvmoor-cluster";
/// Port that the cluster controller listens on unless told otherwise.
pub const PORT: u16 = 18447;
/// The name that the certificate is made for. What counts is the certificate itself.
pub const SERVER_NAME: &str = "kvmoor-cluster";
/// Annotation of the leader's Lease: where it listens, as address and port.
pub const ADDRESS_ANNOTATION: &str = "kvmoor.dev/guest-data-address";
/// Annotation of the leader's Lease: its certificate, in PEM.
pub const CERTIFICATE_ANNOTATION: &str = "kvmoor.dev/guest-data-certificate";
/// Most bytes of user data.
pub const LARGEST_USER_DATA: usize = 512 << 10;
/// Most bytes of a network configuration.
pub const LARGEST_NETWORK_DATA: usize = 64 << 10;
/// Key of a Secret under which user data stands unless the reference names another.
pub const USER_DATA_KEY: &str = "user-data";
/// Key of a Secret under which a network configuration stands unless the reference names another.
pub const NETWORK_DATA_KEY: &str = "network-config";

/// Where the data of a virtual machine is.
pub fn path(namespace: &str, name: &str, uid: &str) -> String {
    format!("/v1/namespaces/{namespace}/vms/{name}/{uid}/guest-data")
}

/// The answer about a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// All that it needs.
    Data(GuestData),
    /// Something that its spec names is not there, or not good.
    Lack(Lack),
}

/// What a guest is told beyond its spec.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestData {
    /// User data, as the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<ByteString>,
    /// Network configuration, as the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<ByteString>,
    /// Public keys of the user that the namespace belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_authorized_keys: Vec<String>,
}

/// Sizes only: what is in it must not get into a log.
impl fmt::Debug for GuestData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |data: &Option<ByteString>| data.as_ref().map(|data| data.0.len());
        formatter
            .debug_struct("GuestData")
            .field("user_data_bytes", &size(&self.user_data))
            .field("network_data_bytes", &size(&self.network_data))
            .field("ssh_authorized_keys", &self.ssh_authorized_keys.len())
            .finish()
    }
}

/// What is not there, or not good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What kind of lack.
    pub kind: LackKind,
    /// A sentence that the user can act on. Never holds a secret.
    pub message: String,
}

/// Kinds of lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LackKind {
    /// The Secret or its key does not exist.
    Missing,
    /// There is more of it than a guest may be told.
    TooLarge,
}

impl LackKind {
    /// The reason of a condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "UserDataMissing",
            Self::TooLarge => "UserDataTooLarge",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_shows_sizes_only() {
        let data = GuestData {
            user_data: Some(ByteString(b"password".to_vec())),
            ssh_authorized_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            ..GuestData::default()
        };
        let text = format!("{:?}", Answer::Data(data));
        assert!(text.contains("user_data_bytes: Some(8)"), "{text}");
        assert!(!text.contains("password") && !text.contains("AAAA") && !text.contains("112"), "{text}");
    }

    #[test]
    fn any_bytes_survive_the_way() {
        let data = GuestData { user_data: Some(ByteString((0..=255).collect())), ..GuestData::default() };
        let text = serde_json::to_string(&Answer::Data(data.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), Answer::Data(data));
    }
}
