//! What a virtual machine without its image is told. Pure.

use std::fmt::Write;

use super::super::desired::{Image, Origin};
use super::IMPORTING;
use super::failure::Failure;

/// Where the import of an image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// It waits for others to end, or is under way.
    UnderWay {
        /// Bytes so far.
        bytes: u64,
        /// All of them, where the server says it.
        length: Option<u64>,
    },
    /// It failed, and is tried again later.
    Failed(Failure),
}

/// Why a root disk cannot be made: the reason of the condition, and a sentence that the user can act on.
pub fn obstacle(image: &Image, import: Option<&Import>, pool: &str) -> (&'static str, String) {
    let name = &image.name;
    match (&image.origin, import) {
        (Origin::BuiltIn { volume }, _) => (
            "ImageMissing",
            format!("The host's storage pool {pool} has no volume {volume}: put it there, or choose another osType"),
        ),
        (Origin::Unusable(why), _) => ("ImageInvalid", format!("The Image {name} cannot be used: {why}")),
        (Origin::Import(_), None) => (IMPORTING, format!("The image {name} is about to be imported")),
        (Origin::Import(_), Some(Import::UnderWay { bytes, length })) => {
            (IMPORTING, format!("The image {name} is being imported: {}", progress(*bytes, *length)))
        }
        (Origin::Import(_), Some(Import::Failed(failure))) => (
            failure.reason.as_str(),
            format!("The image {name} could not be imported: {}; {}", failure.message, failure.advice()),
        ),
    }
}

/// How far it is, for people.
pub fn progress(bytes: u64, length: Option<u64>) -> String {
    let mut text = String::new();
    if let Some(percent) = percent(bytes, length) {
        // A String takes every write.
        let _ = write!(text, "{percent} % of ");
    }
    let _ = write!(text, "{} MiB", length.unwrap_or(bytes) >> 20);
    text
}

/// How far it is, in percent; `None` where the length is not known.
pub fn percent(bytes: u64, length: Option<u64>) -> Option<u64> {
    length
        .filter(|length| *length > 0)
        .map(|length| u64::try_from(u128::from(bytes) * 100 / u128::from(length)).unwrap_or(100).min(100))
}

#[cfg(test)]
mod tests {
    use super::super::super::domain_xml::DiskFormat;
    use super::super::importer::{Place, Source};
    use super::super::record::Content;
    use super::*;

    fn image() -> Image {
        let content = Content::new(&"0".repeat(64), DiskFormat::Raw).unwrap();
        let source = Source { place: Place::Url("https://example.org/x?key=secret".into()), content };
        Image { name: "debian".into(), format: DiskFormat::Raw, origin: Origin::Import(source) }
    }

    #[test]
    fn says_how_far_it_is() {
        let under_way = Import::UnderWay { bytes: 50 << 20, length: Some(200 << 20) };
        assert_eq!(
            obstacle(&image(), Some(&under_way), "default"),
            (IMPORTING, "The image debian is being imported: 25 % of 200 MiB".to_owned())
        );
        assert_eq!(progress(3 << 20, None), "3 MiB");
        assert_eq!(progress(0, Some(0)), "0 MiB");
        assert_eq!(percent(u64::MAX, Some(1)), Some(100));
    }

    #[test]
    fn says_why_it_failed_and_what_helps() {
        let failed = Import::Failed(Failure::download("example.org answers 404 Not Found"));
        let (reason, message) = obstacle(&image(), Some(&failed), "default");
        assert_eq!(reason, "ImageDownloadFailed");
        assert_eq!(
            message,
            "The image debian could not be imported: example.org answers 404 Not Found; it is tried again"
        );
        assert!(!message.contains("secret"));
    }
}
