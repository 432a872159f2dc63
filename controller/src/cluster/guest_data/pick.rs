//! What of the objects read belongs into the answer. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kvmoor_crds::guest_data::{
    LARGEST_NETWORK_DATA, LARGEST_USER_DATA, Lack, LackKind, NETWORK_DATA_KEY, USER_DATA_KEY,
};
use kvmoor_crds::{SecretKeyReference, User, VirtualMachine, names};

use crate::https::answer::Refusal;

/// What is read from a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// User data.
    UserData,
    /// A network configuration.
    NetworkData,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::UserData => "user data",
            Self::NetworkData => "network configuration",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::UserData => USER_DATA_KEY,
            Self::NetworkData => NETWORK_DATA_KEY,
        }
    }

    fn largest(self) -> usize {
        match self {
            Self::UserData => LARGEST_USER_DATA,
            Self::NetworkData => LARGEST_NETWORK_DATA,
        }
    }
}

/// Whether it is the virtual machine that is asked about, and the asking node's.
pub fn belongs_to(vm: &VirtualMachine, uid: &str, node: &str) -> Result<(), Refusal> {
    if !vm.metadata.uid.as_deref().is_some_and(|real| real.eq_ignore_ascii_case(uid)) {
        return Err(Refusal::not_found());
    }
    if vm.spec.node_name.as_deref() != Some(node) {
        return Err(Refusal::forbidden("the virtual machine is not bound to the node that asks"));
    }
    Ok(())
}

/// The keys of a namespace's user; none where the namespace is not really the user's.
pub fn keys(namespace: Option<&Namespace>, user: Option<User>) -> Vec<String> {
    let owner = namespace.and_then(|namespace| namespace.metadata.labels.as_ref()?.get(names::USER_LABEL));
    let user = user.filter(|user| owner.is_some() && user.metadata.uid.as_ref() == owner);
    user.map(|user| user.spec.ssh_authorized_keys).unwrap_or_default()
}

/// What stands in the Secret.
pub fn value(secret: Option<Secret>, reference: &SecretKeyReference, kind: Kind) -> Result<ByteString, Lack> {
    let (name, what) = (&reference.name, kind.words());
    let key = reference.key.as_deref().unwrap_or(kind.key());
    let lack = |kind, message| Lack { kind, message };
    let missing = |message| lack(LackKind::Missing, message);
    let secret = secret.ok_or_else(|| {
        missing(format!("There is no Secret {name} with the {what}: create it, and the guest is told and starts"))
    })?;
    let value = secret.data.and_then(|mut data| data.remove(key)).ok_or_else(|| {
        missing(format!("Secret {name} has no key {key} with the {what}: add it, and the guest is told and starts"))
    })?;
    let (size, largest) = (value.0.len(), kind.largest());
    if size > largest {
        return Err(lack(
            LackKind::TooLarge,
            format!(
                "The {what} in Secret {name}, key {key}, has {size} bytes, and a guest is told at most {largest}: \
                 have the guest fetch the rest"
            ),
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm() -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": { "name": "web", "uid": "550e8400-e29b-41d4-a716-446655440000" },
            "spec": { "cpu": 1, "memory": "1Gi", "nodeName": "host-0" },
        }))
        .unwrap()
    }

    #[test]
    fn only_the_node_of_this_very_virtual_machine_is_told() {
        let uid = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(belongs_to(&vm(), uid, "host-0"), Ok(()));
        assert_eq!(belongs_to(&vm(), uid, "host-1").unwrap_err().status, 403);
        let earlier = "550e8400-e29b-41d4-a716-446655440001";
        assert_eq!(belongs_to(&vm(), earlier, "host-0").unwrap_err().status, 404);
        let mut unplaced = vm();
        unplaced.spec.node_name = None;
        assert_eq!(belongs_to(&unplaced, uid, "host-0").unwrap_err().status, 403);
    }

    #[test]
    fn what_is_missing_or_too_large_is_named() {
        let reference = SecretKeyReference { name: "boot".into(), key: None };
        let secret = |key: &str, size: usize| {
            Some(Secret { data: Some([(key.to_owned(), ByteString(vec![b'x'; size]))].into()), ..Secret::default() })
        };
        let good = value(secret(USER_DATA_KEY, LARGEST_USER_DATA), &reference, Kind::UserData);
        assert_eq!(good.unwrap().0.len(), LARGEST_USER_DATA);
        for (secret, kind, word) in [
            (None, LackKind::Missing, "no Secret boot"),
            (Some(Secret::default()), LackKind::Missing, "no key user-data"),
            (secret("other", 1), LackKind::Missing, "no key user-data"),
            (secret(USER_DATA_KEY, LARGEST_USER_DATA + 1), LackKind::TooLarge, "524289 bytes"),
        ] {
            let lack = value(secret, &reference, Kind::UserData).unwrap_err();
            assert_eq!(lack.kind, kind);
            assert!(lack.message.contains(word), "{}", lack.message);
        }
        let other = SecretKeyReference { name: "boot".into(), key: Some("other".into()) };
        assert_eq!(value(secret("other", 1), &other, Kind::NetworkData).unwrap().0.len(), 1);
    }

    #[test]
    fn keys_are_those_of_the_namespaces_owner() {
        let user: User = serde_json::from_value(json!({
            "apiVersion": "kvmoor.dev/v1alpha1", "kind": "User", "metadata": { "name": "ann", "uid": "u1" },
            "spec": { "username": "ann", "sshAuthorizedKeys": ["k"] },
        }))
        .unwrap();
        let namespace = |owner: &str| -> Namespace {
            serde_json::from_value(json!({ "metadata": { "labels": { names::USER_LABEL: owner } } })).unwrap()
        };
        assert_eq!(keys(Some(&namespace("u1")), Some(user.clone())), ["k"]);
        assert_eq!(keys(Some(&namespace("u0")), Some(user.clone())), [""; 0]);
        assert_eq!(keys(Some(&Namespace::default()), Some(user.clone())), [""; 0]);
        assert_eq!(keys(None, Some(user)), [""; 0]);
    }
}
