//! The cloud-init seed (NoCloud): a small FAT file system labelled `CIDATA` with `meta-data`, `user-data` and perhaps
//! `network-config`.
//!
//! Host name and keys stand in `meta-data`, so that `user-data` is, byte for byte, what the user wrote. The instance id
//! is the UID for as long as nobody asks for another: cloud-init does the most of its work only when it meets an id for
//! the first time, and makes new SSH host keys then.
//!
//! Pure: bytes from values. Source: <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>.

use std::io::{self, Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use kvmoor_crds::SecretKeyReference;
use kvmoor_crds::guest_data::GuestData;
use sha2::{Digest, Sha256};

/// Size of the smallest seed, in bytes.
const SMALLEST: u64 = 1 << 20;
/// The label that cloud-init looks for.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// cloud-init takes a seed without user data for none at all.
const NO_USER_DATA: &[u8] = b"#cloud-config\n";

/// What cloud-init is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Name of the volume.
    pub volume: String,
    /// cloud-init does again what it does at a first boot when this changes.
    pub instance_id: String,
    /// The guest's host name.
    pub host_name: String,
    /// Public keys that may log in.
    pub ssh_authorized_keys: Vec<String>,
    /// Where the user data stands.
    pub user_data_from: Option<SecretKeyReference>,
    /// Where the network configuration stands.
    pub network_data_from: Option<SecretKeyReference>,
    /// What the cluster controller gave, once it did.
    pub told: GuestData,
}

/// The instance id after that many requests for another.
pub fn instance_id(uid: &str, reprovision: i64) -> String {
    if reprovision == 0 { uid.to_owned() } else { format!("{uid}-{reprovision}") }
}

impl Seed {
    /// A short hash of all that the spec says of it: when it differs from that of the seed that is there, another is
    /// written at the next start.
    pub fn fingerprint(&self) -> String {
        let Self { volume: _, instance_id, host_name, ssh_authorized_keys, user_data_from, network_data_from, told: _ } =
            self;
        let spec = (instance_id, host_name, ssh_authorized_keys, user_data_from, network_data_from);
        let digest = Sha256::digest(serde_json::to_vec(&spec).unwrap_or_default());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The bytes of the file system.
///
/// # Errors
/// What the FAT writer reports; in memory there is no cause for it to.
pub fn image(seed: &Seed) -> io::Result<Vec<u8>> {
    let meta_data = meta_data(seed);
    let user_data = seed.told.user_data.as_ref().map_or(NO_USER_DATA, |data| &data.0);
    let mut files = vec![("meta-data", meta_data.as_bytes()), ("user-data", user_data)];
    files.extend(seed.told.network_data.as_ref().map(|data| ("network-config", data.0.as_slice())));
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    // Half as much again for the tables, in whole MiB.
    let size = (content as u64).saturating_mul(3).div_euclid(2).next_multiple_of(SMALLEST).max(SMALLEST);
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0; size]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL))?;
    let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, bytes) in files {
        let mut file = file_system.root_dir().create_file(name)?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    file_system.unmount()?;
    Ok(disk.into_inner())
}

fn meta_data(seed: &Seed) -> String {
    let (id, name) = (quoted(&seed.instance_id), quoted(&seed.host_name));
    let mut text = format!("instance-id: {id}\nlocal-hostname: {name}\n");
    let keys: Vec<&str> =
        seed.ssh_authorized_keys.iter().chain(&seed.told.ssh_authorized_keys).map(|key| key.trim()).collect();
    if !keys.is_empty() {
        text.push_str("public-keys:\n");
        for key in keys {
            text.push_str(&format!("  - {}\n", quoted(key)));
        }
    }
    text
}

/// A YAML double-quoted scalar. JSON's strings are such scalars.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use k8s_openapi::ByteString;
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "550e8400-e29b-41d4-a716-446655440000";

    fn seed(keys: Vec<String>) -> Seed {
        Seed {
            volume: "v".into(),
            instance_id: UID.into(),
            host_name: "web".into(),
            ssh_authorized_keys: keys,
            user_data_from: None,
            network_data_from: None,
            told: GuestData::default(),
        }
    }

    fn read(image: &[u8], name: &str) -> Option<Vec<u8>> {
        let file_system = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
        let label = file_system.volume_label();
        assert_eq!(label.trim(), "CIDATA");
        let mut bytes = Vec::new();
        file_system.root_dir().open_file(name).ok()?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn holds_what_cloud_init_reads() {
        let mut seed = seed(vec!["ssh-ed25519 AAAA \"me\"\nruncmd: [x]".into()]);
        seed.told.ssh_authorized_keys = vec!["ssh-ed25519 BBBB".into()];
        let image = image(&seed).unwrap();
        assert_eq!(image.len(), 1 << 20);
        let meta_data = format!(
            "instance-id: \"{UID}\"\nlocal-hostname: \"web\"\npublic-keys:\n  \
             - \"ssh-ed25519 AAAA \\\"me\\\"\\nruncmd: [x]\"\n  - \"ssh-ed25519 BBBB\"\n"
        );
        assert_eq!(read(&image, "meta-data"), Some(meta_data.into_bytes()));
        assert_eq!(read(&image, "user-data").as_deref(), Some(NO_USER_DATA));
        assert_eq!(read(&image, "network-config"), None);
    }

    #[test]
    fn takes_the_largest_that_is_allowed() {
        use kvmoor_crds::guest_data::{LARGEST_NETWORK_DATA, LARGEST_USER_DATA};
        let mut seed = seed(vec!["k".repeat(8192); 64]);
        seed.told = GuestData {
            user_data: Some(ByteString(vec![b'u'; LARGEST_USER_DATA])),
            network_data: Some(ByteString(vec![b'n'; LARGEST_NETWORK_DATA])),
            ssh_authorized_keys: vec!["k".repeat(8192); 64],
        };
        let image = image(&seed).unwrap();
        assert_eq!(read(&image, "user-data").unwrap().len(), LARGEST_USER_DATA);
        assert_eq!(read(&image, "network-config").unwrap().len(), LARGEST_NETWORK_DATA);
        assert!(read(&image, "meta-data").unwrap().len() > 128 * 8192);
    }

    #[test]
    fn another_seed_is_due_when_the_spec_says_something_else_and_only_then() {
        let one = seed(vec!["k".into()]);
        let told = Seed {
            told: GuestData { user_data: Some(ByteString(b"x".to_vec())), ..GuestData::default() },
            ..one.clone()
        };
        assert_eq!(one.fingerprint(), told.fingerprint(), "what a Secret holds is not watched");
        let reference = SecretKeyReference { name: "s".into(), key: None };
        for other in [
            seed(vec![]),
            Seed { instance_id: instance_id(UID, 1), ..one.clone() },
            Seed { user_data_from: Some(reference.clone()), ..one.clone() },
            Seed { network_data_from: Some(reference), ..one.clone() },
        ] {
            assert_ne!(one.fingerprint(), other.fingerprint(), "{other:?}");
        }
        assert_eq!(instance_id(UID, 0), UID);
    }

    proptest! {
        #[test]
        fn whatever_the_user_wrote_reaches_the_guest_as_it_is(
            user_data in proptest::collection::vec(any::<u8>(), 0..5000),
            key in any::<String>(),
        ) {
            let mut seed = seed(vec![key.clone()]);
            seed.told.user_data = Some(ByteString(user_data.clone()));
            let image = image(&seed).unwrap();
            prop_assert_eq!(read(&image, "user-data"), Some(user_data));
            let meta_data = String::from_utf8(read(&image, "meta-data").unwrap()).unwrap();
            prop_assert_eq!(meta_data.lines().count(), 4, "{}", meta_data);
            let keys = meta_data.lines().last().unwrap().strip_prefix("  - ").unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(keys).unwrap(), key.trim());
        }
    }
}
