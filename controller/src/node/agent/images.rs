//! `PUT /v1/images/{sha256}.{format}`: a file from the API server, into the storage pool.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::super::domain_xml::DiskFormat;
use super::super::images::record::Content;
use super::super::images::{Failure, File, NotStored, Reason, Stored};
use super::Agent;
use super::answer::{Answer, Refusal, json};

/// What is asked about, if it is a content.
pub fn content(path: &str) -> Option<Content> {
    let (sha256, format) = path.strip_prefix("/v1/images/")?.split_once('.')?;
    let format = [DiskFormat::Qcow2, DiskFormat::Raw].into_iter().find(|known| known.as_str() == format)?;
    Content::new(sha256, format)
}

/// Stores what comes. 201 and 200 tell apart whether it was there before.
pub async fn put(agent: &Arc<Agent>, content: Content, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let file = File::of_body(request.into_body(), "the upload".to_owned());
    let status = match agent.importer.upload(content, file).await? {
        Stored::Now => StatusCode::CREATED,
        Stored::Before => StatusCode::OK,
    };
    Ok(json(status, &serde_json::json!({})))
}

impl From<NotStored> for Refusal {
    fn from(refused: NotStored) -> Self {
        let message = refused.to_string();
        match refused {
            NotStored::UnderWay => Self::conflict(&message),
            NotStored::TooMany => Self::too_many(&message),
            NotStored::Stopping => Self::unavailable(&message),
            NotStored::Failed(Failure { reason, .. }) => match reason {
                Reason::PoolFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, message),
                Reason::PoolUnavailable => Self::unavailable(&message),
                Reason::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, message),
                Reason::ChecksumMismatch
                | Reason::Invalid
                | Reason::DownloadFailed
                | Reason::SourceRefused
                | Reason::NotUploaded => Self::bad_request(&message),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checksums_are_looked_up() {
        let sha256 = "ab".repeat(32);
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            let path = kvmoor_crds::agent::image_path(&sha256, format.as_str());
            assert_eq!(content(&path), Content::new(&sha256, format));
            assert!(content(&path).is_some());
        }
        let upper = "AB".repeat(32);
        for path in [
            "/v1/images/",
            "/v1/images/x.raw",
            &format!("/v1/images/{sha256}"),
            &format!("/v1/images/{sha256}.vmdk"),
            &format!("/v1/images/{upper}.raw"),
            &format!("/v1/images/../{sha256}.raw"),
            &format!("/v1/images/{sha256}.raw/more"),
        ] {
            assert_eq!(content(path), None, "{path}");
        }
    }
}
