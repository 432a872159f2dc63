//! What a guest has said on its serial port, in a file that libvirt's virtlogd writes and rotates.
//!
//! The file is read where it lies. libvirt serves files as volumes of a storage pool only, and looks into each file of a
//! pool to tell its format; a guest, which decides every byte of this one, must not be looked at like that. Blocking.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use kvmoor_crds::names;

/// What virtlogd appends to the name of the file when it has grown too large, the newest first.
const ROTATED: [&str; 4] = ["", ".0", ".1", ".2"];

/// Name of the file of the virtual machine with that UID.
pub fn file(uid: &str) -> String {
    format!("{}-serial.log", names::domain(uid))
}

/// The last `most` bytes. There are none of a guest that was never on.
pub fn tail(directory: &Path, uid: &str, most: u64) -> io::Result<Vec<u8>> {
    // Said apart: otherwise a directory that was not mounted would look like a guest that says nothing.
    std::fs::metadata(directory)?;
    let mut parts = Vec::new();
    let mut missing = most;
    for suffix in ROTATED {
        let part = match File::open(directory.join(file(uid) + suffix)) {
            Ok(file) => end_of(file, missing)?,
            // It may be rotated at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        missing = missing.saturating_sub(u64::try_from(part.len()).unwrap_or(u64::MAX));
        parts.push(part);
        if missing == 0 {
            break;
        }
    }
    parts.reverse();
    Ok(parts.concat())
}

fn end_of(mut file: File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes all of it, as far as it can be reached.
pub fn remove(directory: &Path, uid: &str) {
    for suffix in ROTATED {
        let path = directory.join(file(uid) + suffix);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot remove a guest's log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_put_together_from_rotated_files() {
        let directory = std::env::temp_dir().join(format!("serial-log-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let write = |suffix: &str, text: &str| {
            std::fs::write(directory.join(file("u") + suffix), text).unwrap();
        };
        let tail = |most| String::from_utf8(tail(&directory, "u", most).unwrap()).unwrap();
        assert_eq!(tail(100), "");
        write(".1", "one ");
        write(".0", "two ");
        write("", "three");
        assert_eq!(tail(0), "");
        assert_eq!(tail(3), "ree");
        assert_eq!(tail(7), "o three");
        assert_eq!(tail(1000), "one two three");
        remove(&directory, "u");
        assert_eq!(tail(1000), "");
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_a_silent_guest() {
        assert!(tail(Path::new("/nonexistent"), "u", 10).is_err());
    }
}
