//! The cloud-init seed (NoCloud): a small FAT file system labelled `CIDATA` with `meta-data` and `user-data`.
//!
//! Pure: bytes from values. Source: <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>.

use std::io::{self, Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};

/// Size of the smallest seed, in bytes.
const SMALLEST: u64 = 1 << 20;
/// The label that cloud-init looks for.
const LABEL: [u8; 11] = *b"CIDATA     ";

/// What cloud-init is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Name of the volume.
    pub volume: String,
    /// cloud-init runs its once-per-instance parts again when this changes: the UID, so never.
    pub instance_id: String,
    /// The guest's host name.
    pub host_name: String,
    /// Public keys that may log in.
    pub ssh_authorized_keys: Vec<String>,
}

/// The bytes of the file system.
///
/// # Errors
/// What the FAT writer reports; in memory there is no cause for it to.
pub fn image(seed: &Seed) -> io::Result<Vec<u8>> {
    let files = [("meta-data", meta_data(seed)), ("user-data", user_data(seed))];
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    // Half as much again for the tables, in whole MiB.
    let size = (content as u64).saturating_mul(3).div_euclid(2).next_multiple_of(SMALLEST).max(SMALLEST);
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0; size]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL))?;
    let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, text) in files {
        let mut file = file_system.root_dir().create_file(name)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    file_system.unmount()?;
    Ok(disk.into_inner())
}

fn meta_data(seed: &Seed) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", quoted(&seed.instance_id), quoted(&seed.host_name))
}

fn user_data(seed: &Seed) -> String {
    let mut text = format!("#cloud-config\nhostname: {}\n", quoted(&seed.host_name));
    if !seed.ssh_authorized_keys.is_empty() {
        text.push_str("ssh_authorized_keys:\n");
        for key in &seed.ssh_authorized_keys {
            text.push_str(&format!("  - {}\n", quoted(key.trim())));
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

    use super::*;

    fn seed(keys: Vec<String>) -> Seed {
        Seed {
            volume: "v".into(),
            instance_id: "550e8400-e29b-41d4-a716-446655440000".into(),
            host_name: "web".into(),
            ssh_authorized_keys: keys,
        }
    }

    fn read(image: &[u8], name: &str) -> String {
        let file_system = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
        let label = file_system.volume_label();
        assert_eq!(label.trim(), "CIDATA");
        let mut text = String::new();
        file_system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn holds_what_cloud_init_reads() {
        let image = image(&seed(vec!["ssh-ed25519 AAAA \"me\"\nruncmd: [x]".into()])).unwrap();
        assert_eq!(image.len(), 1 << 20);
        assert_eq!(
            read(&image, "meta-data"),
            "instance-id: \"550e8400-e29b-41d4-a716-446655440000\"\nlocal-hostname: \"web\"\n"
        );
        let user_data = read(&image, "user-data");
        assert_eq!(
            user_data,
            "#cloud-config\nhostname: \"web\"\nssh_authorized_keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\\nruncmd: [x]\"\n"
        );
    }

    #[test]
    fn takes_the_largest_allowed_keys() {
        let image = image(&seed(vec!["k".repeat(8192); 64])).unwrap();
        assert!(read(&image, "user-data").len() > 64 * 8192);
    }
}
