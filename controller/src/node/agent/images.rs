//! `PUT /v1/images/{sha256}.{format}`: a file from the API server, into the storage pool. `GET`: out of it again, for
//! another host.

use std::sync::Arc;

use futures::{StreamExt, stream};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use super::super::domain_xml::DiskFormat;
use super::super::images::record::Content;
use super::super::images::{Failure, File, IDLE, NotStored, Reason, Stored, TOTAL};
use super::Agent;
use super::answer::{Answer, Refusal, json};

/// Images that are given at once: each has a thread of libvirt's calls.
pub const GIVEN_AT_ONCE: usize = 2;
/// Pieces on their way from libvirt to whoever asks: they are of 64 KiB.
const PIECES: usize = 8;

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

/// Gives what is there.
pub async fn get(agent: &Arc<Agent>, content: Content) -> Result<Answer, Refusal> {
    let found = agent.hypervisor.image_record(&content).await?.filter(|record| !record.retired);
    let record = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such image here"))?;
    let busy = |_| Refusal::too_many("other hosts are being given images");
    let place = Arc::clone(&agent.given).try_acquire_owned().map_err(busy)?;
    let (pieces, receiver) = mpsc::channel(PIECES);
    let (agent, length) = (Arc::clone(agent), record.length);
    tokio::spawn(async move {
        let _place = place;
        let (read, mut taken) = mpsc::channel(PIECES);
        let pass_on = async move {
            while let Some(bytes) = taken.recv().await {
                // Who takes nothing for so long has had its turn.
                if !matches!(tokio::time::timeout(IDLE, pieces.send(bytes)).await, Ok(Ok(()))) {
                    break;
                }
            }
        };
        let (sent, ()) = tokio::join!(agent.hypervisor.send_image(&record.volume, read, TOTAL), pass_on);
        // Who asks sees that it is not all of it.
        if let Err(error) = sent {
            tracing::warn!(image.sha256 = record.sha256, %error, "an image was not given to its end");
        }
    });
    let pieces =
        stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| Some((receiver.recv().await?, receiver)));
    let mut answer = Answer::new(StreamBody::new(pieces.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(answer)
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
                | Reason::SourceLost
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
