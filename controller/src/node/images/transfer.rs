//! One import: from the server into a volume, hashed and checked on the way, and the record at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::super::domain_xml::DiskFormat;
use super::super::hypervisor::Hypervisor;
use super::super::hypervisor::libvirt::{Libvirt, Piece};
use super::failure::{Failure, Reason};
use super::fetch::{Download, Fetcher};
use super::importer::{Limits, Source};
use super::qcow2::{self, HEAD};
use super::raw;
use super::record::{Content, Record};

/// No import may take longer.
const TOTAL: Duration = Duration::from_secs(4 * 3600);
/// What is left for libvirt to end after the last byte came.
const FINISH: Duration = Duration::from_secs(120);
/// Pieces on their way from the server to libvirt: they are of 8 to 64 KiB.
const PIECES: usize = 32;

/// How far an import is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes so far.
    pub bytes: AtomicU64,
    /// All of them; 0 where the server does not say.
    pub length: AtomicU64,
}

/// What is known of the file before all of it has come.
enum Header {
    Qcow2(qcow2::Header),
    Raw,
}

/// What comes, before it is written.
struct Incoming {
    download: Download,
    /// What was taken to be looked at first.
    head: Option<Bytes>,
    header: Header,
}

/// Imports an image. When this ends well, the image is there; when it does not, nothing of it is, unless the process
/// ended too.
pub async fn import(
    libvirt: &Libvirt,
    fetcher: &Fetcher,
    limits: &Limits,
    source: &Source,
    progress: &Progress,
) -> Result<(), Failure> {
    match libvirt.image_record(&source.content).await? {
        Some(record) if !record.retired => return Ok(()),
        // It is wanted again just before it goes.
        Some(retired) => return record(libvirt, &source.content, Record { retired: false, ..retired }).await,
        None => {}
    }
    let download = fetcher.open(&source.url).await?;
    let length = download.length;
    progress.length.store(length.unwrap_or_default(), Ordering::Relaxed);
    too_large(length.unwrap_or_default(), limits)?;
    let incoming = look_into(download, source.content.format, limits).await?;
    let volume = source.content.volume(&uuid::Uuid::new_v4().simple().to_string());
    let result = transfer(libvirt, limits, source, progress, incoming, &volume, length).await;
    if result.is_err() {
        // What cannot be deleted now is collected later.
        if let Err(error) = libvirt.delete_volume(&volume).await {
            tracing::warn!(volume, %error, "cannot delete what was imported in vain yet");
        }
    }
    result
}

/// Takes as much of a file as shows what it is, and refuses what it may not be before anything is written.
async fn look_into(mut download: Download, format: DiskFormat, limits: &Limits) -> Result<Incoming, Failure> {
    let mut head = Vec::with_capacity(HEAD);
    while head.len() < HEAD {
        let Some(bytes) = download.next().await? else { break };
        head.extend_from_slice(&bytes);
    }
    let beginning = head.get(..HEAD).unwrap_or(&head);
    let header = match format {
        DiskFormat::Qcow2 => {
            let header = qcow2::check(beginning, limits.virtual_size);
            Header::Qcow2(header.map_err(|invalid| Failure::invalid(invalid.to_string()))?)
        }
        DiskFormat::Raw => {
            raw::check(beginning).map_err(Failure::invalid)?;
            Header::Raw
        }
    };
    Ok(Incoming { download, head: Some(Bytes::from(head)), header })
}

async fn transfer(
    libvirt: &Libvirt,
    limits: &Limits,
    source: &Source,
    progress: &Progress,
    mut incoming: Incoming,
    volume: &str,
    length: Option<u64>,
) -> Result<(), Failure> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let upload = libvirt.receive_image(volume, length, receiver, TOTAL + FINISH);
    let feed = async {
        let fed = tokio::time::timeout(TOTAL, feed(&mut incoming, limits, progress, pieces));
        let late = || Failure::download(format!("it did not come within {} hours", TOTAL.as_secs() / 3600));
        fed.await.unwrap_or_else(|_| Err(Ended::Failed(late())))
    };
    let (uploaded, fed) = tokio::join!(upload, feed);
    let (sha256, length) = match (fed, uploaded) {
        (Err(Ended::Failed(failure)), _) => return Err(failure),
        (_, Err(error)) => return Err(error.into()),
        (Err(Ended::NotTaken), Ok(())) => return Err(Failure::download("it was not taken")),
        (Ok(found), Ok(())) => found,
    };
    if sha256 != source.content.sha256 {
        let message = format!("the SHA-256 of what the server gives is {sha256}, not {}", source.content.sha256);
        return Err(Failure { reason: Reason::ChecksumMismatch, message });
    }
    let virtual_size = match incoming.header {
        Header::Qcow2(header) => {
            header.fits(length).map_err(|invalid| Failure::invalid(invalid.to_string()))?;
            header.virtual_size
        }
        Header::Raw => {
            raw::check_length(length, limits.virtual_size).map_err(Failure::invalid)?;
            length
        }
    };
    record(libvirt, &source.content, Record { volume: volume.to_owned(), sha256, length, virtual_size, retired: false })
        .await
}

/// Makes it an image.
async fn record(libvirt: &Libvirt, content: &Content, record: Record) -> Result<(), Failure> {
    libvirt.write_volume(&content.record(), record.to_bytes()).await?;
    // Read back: what was written is what others will find.
    match libvirt.imported_image(content).await? {
        Some(_) => Ok(()),
        None => {
            Err(Failure { reason: Reason::PoolUnavailable, message: "the image's record cannot be read back".into() })
        }
    }
}

/// Why no more is fed.
enum Ended {
    Failed(Failure),
    /// libvirt takes no more; it says itself why.
    NotTaken,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Passes on what comes: its checksum and length.
async fn feed(
    incoming: &mut Incoming,
    limits: &Limits,
    progress: &Progress,
    pieces: mpsc::Sender<Piece>,
) -> Result<(String, u64), Ended> {
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    while let Some(bytes) = next(incoming).await? {
        length = length.saturating_add(bytes.len() as u64);
        too_large(length, limits)?;
        hash.update(&bytes);
        pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Ended::NotTaken)?;
        progress.bytes.store(length, Ordering::Relaxed);
    }
    pieces.send(Piece::End).await.map_err(|_| Ended::NotTaken)?;
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), length))
}

async fn next(incoming: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    match incoming.head.take() {
        Some(head) => Ok(Some(head)),
        None => incoming.download.next().await,
    }
}

fn too_large(length: u64, limits: &Limits) -> Result<(), Failure> {
    if length > limits.file {
        return Err(Failure::invalid(format!("it is larger than the {} MiB that are allowed", limits.file >> 20)));
    }
    Ok(())
}
