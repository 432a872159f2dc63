//! Names that derive from other names: whoever writes and whoever reads them must agree, so they stand once, here.
//!
//! Nothing in libvirt is named after user text: domain, volumes and MAC addresses derive from the UID that the
//! Kubernetes API gave to the object.

use sha2::{Digest, Sha256};

/// Finalizer of a virtual machine or snapshot: it is dropped when the host says that what it had of it is gone.
pub const VM_FINALIZER: &str = "kvmoor.dev/host";
/// Finalizer of a user: its password Secret and namespace are deleted first.
pub const USER_FINALIZER: &str = "kvmoor.dev/tenant";
/// Label of a namespace that belongs to a user; the value is the User's UID.
pub const USER_LABEL: &str = "kvmoor.dev/user";
/// Annotation of a virtual machine whose creator waits for the verdict: over quota it is refused for good and deleted,
/// instead of waiting for room. It means nothing once the virtual machine was admitted.
pub const REFUSE_OVER_QUOTA_ANNOTATION: &str = "kvmoor.dev/refuse-over-quota";
/// Annotation of the Secret [`JWT_SECRET`]: the key id in use for signing.
pub const CURRENT_KEY_ANNOTATION: &str = "kvmoor.dev/current-key";
/// Secret with the keys that sign session tokens; each key of its data is a key id.
pub const JWT_SECRET: &str = "kvmoor-jwt";
/// Secret with `username` and `password` of the first admin.
pub const ADMIN_SECRET: &str = "kvmoor-admin";
/// Key of a password Secret under which the hash stands, in PHC string format.
pub const PASSWORD_HASH_KEY: &str = "hash";
/// Key of an admin's password Secret under which the hash of the password in [`ADMIN_SECRET`] stands that it was last set to.
pub const PASSWORD_SOURCE_KEY: &str = "source";
/// ConfigMap with the highest id given out so far, by kind.
pub const IDS_CONFIG_MAP: &str = "kvmoor-ids";
/// Lease of the leader of `kvmoor-controller cluster`.
pub const LEADER_LEASE: &str = "kvmoor-controller-cluster";
/// Name of the one Quota of a namespace.
pub const QUOTA_NAME: &str = "default";
/// ClusterRole that a user gets in its namespace.
pub const USER_CLUSTER_ROLE: &str = "kvmoor-user";
/// Prefix of a user's name in Kubernetes' own authentication.
pub const USER_SUBJECT_PREFIX: &str = "kvmoor:";

/// Field manager of the cluster controller.
pub const CLUSTER_MANAGER: &str = "kvmoor-cluster";
/// Field manager of the node controllers.
pub const NODE_MANAGER: &str = "kvmoor-node";
/// Field manager of the API server.
pub const API_MANAGER: &str = "kvmoor-api-server";

/// The Lease that says that a host's node controller lives.
pub fn host_lease(node_name: &str) -> String {
    format!("kvmoor-host-{node_name}")
}

/// The namespace of a user, from the User object's name.
pub fn user_namespace(user_object: &str) -> String {
    format!("kvmoor-user-{user_object}")
}

/// The User object's name that a namespace's name would come from; whether the namespace is that user's is for its
/// label to say.
pub fn user_of_namespace(namespace: &str) -> Option<&str> {
    namespace.strip_prefix("kvmoor-user-")
}

/// The Secret with the user data that was given to a virtual machine over REST, from the VirtualMachine object's name.
pub fn guest_data_secret(vm_object: &str) -> String {
    format!("{vm_object}-guest-data")
}

/// The Secret with a user's password hash, from the User object's name.
pub fn password_secret(user_object: &str) -> String {
    format!("kvmoor-password-{user_object}")
}

/// The User object's name for a user name. Equal for user names that differ only in case, so that the Kubernetes API
/// itself keeps them unique. A user name that is a DNS label of at most 40 characters is its own object name (in
/// lower case); any other gets `u-` and 16 hexadecimal digits of a hash.
pub fn user_object(username: &str) -> String {
    let lower = username.to_lowercase();
    if lower.len() <= 40 && !lower.starts_with("u-") && is_dns_label(&lower) {
        return lower;
    }
    format!("u-{}", hex(&sha256(lower.as_bytes()), 8))
}

/// Whether `name` is an RFC 1123 label: at most 63 of `a-z`, `0-9` and `-`, with neither end a `-`.
pub fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// The libvirt domain of a virtual machine.
pub fn domain(uid: &str) -> String {
    format!("kvmoor-{uid}")
}

/// The libvirt snapshot of a VirtualMachineSnapshot, from that object's UID.
pub fn snapshot(uid: &str) -> String {
    format!("kvmoor-{uid}")
}

/// The storage volume with a virtual machine's root disk.
pub fn root_volume(uid: &str) -> String {
    format!("kvmoor-{uid}-root.qcow2")
}

/// The storage volume with an extra disk of a virtual machine. Disk names are DNS labels by schema.
pub fn extra_volume(uid: &str, disk: &str) -> String {
    format!("kvmoor-{uid}-disk-{disk}.qcow2")
}

/// The storage volume with a virtual machine's cloud-init seed.
pub fn seed_volume(uid: &str) -> String {
    format!("kvmoor-{uid}-seed.img")
}

/// The storage volume that says how far the copying of a clone's disks is, while it is being made.
pub fn clone_record(uid: &str) -> String {
    format!("kvmoor-{uid}-clone.record")
}

/// The prefix of all storage volumes of a virtual machine.
pub fn volume_prefix(uid: &str) -> String {
    format!("kvmoor-{uid}-")
}

/// The storage volume with an image, from the Image object's name and its format.
pub fn image_volume(image: &str, format: crate::ImageFormat) -> String {
    format!("kvmoor-image-{image}.{}", format.as_str())
}

/// The prefix of the libvirt networks that belong to namespaces.
pub const NAMESPACE_NETWORK_PREFIX: &str = "kvmoor-net-";

/// The libvirt network that is a namespace's isolated segment.
pub fn isolated_network(namespace: &str) -> String {
    format!("{NAMESPACE_NETWORK_PREFIX}{}", hex(&sha256(namespace.as_bytes()), 8))
}

/// The MAC address of a virtual machine's network interface: QEMU's locally used prefix 52:54:00 and three bytes of a
/// hash of UID and network name, so that it is the same whenever and wherever the domain is defined.
pub fn mac_address(uid: &str, network: &str) -> String {
    let hash = sha256(format!("{uid}/{network}").as_bytes());
    let [a, b, c] = [hash.first(), hash.get(1), hash.get(2)].map(|byte| byte.copied().unwrap_or_default());
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_objects_are_labels_and_ignore_case() {
        assert_eq!(user_object("Admin"), "admin");
        assert_eq!(user_object("ÄRGER"), user_object("ärger"));
        for name in ["admin", "new user", "x'><y", "u-1", "-", "한국어", &"a".repeat(64)] {
            let object = user_object(name);
            assert!(is_dns_label(&object), "{object}");
            assert!(user_namespace(&object).len() <= 63, "{object}");
            assert_eq!(user_of_namespace(&user_namespace(&object)), Some(object.as_str()));
        }
        assert_ne!(user_object("u-1"), "u-1", "hashed names must not be forgeable");
    }

    #[test]
    fn mac_addresses_are_stable_and_differ() {
        let uid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(mac_address(uid, "default"), mac_address(uid, "default"));
        assert_ne!(mac_address(uid, "default"), mac_address(uid, "second"));
        assert!(mac_address(uid, "default").starts_with("52:54:00:"));
    }
}
