//! One image: from wherever it comes into a volume, hashed and checked on the way, and the record at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::domain_xml::DiskFormat;
use super::super::hypervisor::Hypervisor;
use super::super::hypervisor::libvirt::{Libvirt, Piece};
use super::attend::Import;
use super::failure::{Failure, Reason};
use super::file::File;
use super::importer::{Limits, Place, Source, Sources};
use super::peers;
use super::qcow2::{self, HEAD};
use super::raw;
use super::record::{Content, Record};

/// No import may take longer.
pub const TOTAL: Duration = Duration::from_secs(4 * 3600);
/// So long it may take until the beginning of a file is there: redirects, and what its header is in.
const BEGIN: Duration = Duration::from_secs(180);
/// Who sends less than so many bytes …
const LEAST: u64 = 4 << 20;
/// … in this time keeps others waiting for nothing.
const WINDOW: Duration = Duration::from_secs(600);
/// What is left for libvirt to end after the last byte came.
const FINISH: Duration = Duration::from_secs(120);
/// Pieces on their way from who sends them to libvirt: they are of 8 to 64 KiB.
const PIECES: usize = 32;

/// How far an import is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes so far.
    pub bytes: AtomicU64,
    /// All of them; 0 where nobody says.
    pub length: AtomicU64,
}

impl Progress {
    /// The same, to be told.
    pub fn state(&self) -> Import {
        let (bytes, length) = (self.bytes.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        Import::UnderWay { bytes, length: Some(length).filter(|length| *length > 0) }
    }
}

/// What is known of the file before all of it has come.
enum Header {
    Qcow2(qcow2::Header),
    Raw,
}

/// What comes, before it is written.
struct Incoming<'a> {
    file: &'a mut File,
    /// What was taken to be looked at first.
    head: Option<Bytes>,
    header: Header,
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was there already.
    Before,
    /// It was not there.
    Now,
}

/// Imports an image. When this ends well, the image is there; when it does not, nothing of it is, unless the process
/// ended too.
pub async fn import(
    libvirt: &Libvirt,
    sources: &Sources,
    limits: &Limits,
    source: &Source,
    progress: &Progress,
) -> Result<(), Failure> {
    if is_there(libvirt, &source.content).await? {
        return Ok(());
    }
    let (mut file, host) = match &source.place {
        Place::Url(url) => (begun(sources.fetcher.open(url)).await?, None),
        Place::Upload { image } => {
            let (host, file) = sources.peers.open(image, &source.content).await?;
            (file, Some(host))
        }
    };
    let written = write(libvirt, limits, &source.content, progress, &mut file).await;
    match (written, host) {
        (Err(failure), Some(host)) => Err(peers::blame(&host, failure)),
        (written, _) => written.map(drop),
    }
}

/// Stores what somebody sends, with the same outcome.
pub async fn store(
    libvirt: &Libvirt,
    limits: &Limits,
    content: &Content,
    progress: &Progress,
    file: &mut File,
) -> Result<Stored, Failure> {
    if is_there(libvirt, content).await? {
        return Ok(Stored::Before);
    }
    write(libvirt, limits, content, progress, file).await
}

async fn is_there(libvirt: &Libvirt, content: &Content) -> Result<bool, Failure> {
    match libvirt.image_record(content).await? {
        Some(record) if !record.retired => Ok(true),
        // It is wanted again just before it goes.
        Some(retired) => record(libvirt, content, Record { retired: false, ..retired }).await.map(|()| true),
        None => Ok(false),
    }
}

async fn write(
    libvirt: &Libvirt,
    limits: &Limits,
    content: &Content,
    progress: &Progress,
    file: &mut File,
) -> Result<Stored, Failure> {
    let length = file.length;
    progress.length.store(length.unwrap_or_default(), Ordering::Relaxed);
    too_large(length.unwrap_or_default(), limits)?;
    let incoming = begun(look_into(file, content.format, limits)).await?;
    let volume = content.volume(&uuid::Uuid::new_v4().simple().to_string());
    let result = transfer(libvirt, limits, content, progress, incoming, &volume, length).await;
    if result != Ok(Stored::Now) {
        // What cannot be deleted now is collected later.
        if let Err(error) = libvirt.delete_volume(&volume).await {
            tracing::warn!(volume, %error, "cannot delete what was written in vain yet");
        }
    }
    result
}

/// What has to come soon: each byte in time is not enough.
async fn begun<T>(beginning: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Err(Failure::download(format!("its beginning did not come within {} s", BEGIN.as_secs())));
    tokio::time::timeout(BEGIN, beginning).await.unwrap_or_else(late)
}

/// Takes as much of a file as shows what it is, and refuses what it may not be before anything is written.
async fn look_into<'a>(file: &'a mut File, format: DiskFormat, limits: &Limits) -> Result<Incoming<'a>, Failure> {
    let mut head = Vec::with_capacity(HEAD);
    while head.len() < HEAD {
        let Some(bytes) = file.next().await? else { break };
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
    Ok(Incoming { file, head: Some(Bytes::from(head)), header })
}

async fn transfer(
    libvirt: &Libvirt,
    limits: &Limits,
    content: &Content,
    progress: &Progress,
    mut incoming: Incoming<'_>,
    volume: &str,
    length: Option<u64>,
) -> Result<Stored, Failure> {
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
    if sha256 != content.sha256 {
        let message = format!("the SHA-256 of what came is {sha256}, not {}", content.sha256);
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
    // Another may have come from elsewhere meanwhile, and disks may stand on it.
    if is_there(libvirt, content).await? {
        return Ok(Stored::Before);
    }
    let whole = Record { volume: volume.to_owned(), sha256, length, virtual_size, retired: false };
    record(libvirt, content, whole).await.map(|()| Stored::Now)
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
    incoming: &mut Incoming<'_>,
    limits: &Limits,
    progress: &Progress,
    pieces: mpsc::Sender<Piece>,
) -> Result<(String, u64), Ended> {
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    let mut window = (Instant::now(), 0_u64);
    while let Some(bytes) = next(incoming).await? {
        length = length.saturating_add(bytes.len() as u64);
        too_large(length, limits)?;
        if window.0.elapsed() >= WINDOW {
            too_slow(length.saturating_sub(window.1))?;
            window = (Instant::now(), length);
        }
        hash.update(&bytes);
        pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Ended::NotTaken)?;
        progress.bytes.store(length, Ordering::Relaxed);
    }
    pieces.send(Piece::End).await.map_err(|_| Ended::NotTaken)?;
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), length))
}

async fn next(incoming: &mut Incoming<'_>) -> Result<Option<Bytes>, Failure> {
    match incoming.head.take() {
        Some(head) => Ok(Some(head)),
        None => incoming.file.next().await,
    }
}

fn too_slow(bytes: u64) -> Result<(), Failure> {
    if bytes < LEAST {
        let (least, minutes) = (LEAST >> 20, WINDOW.as_secs() / 60);
        return Err(Failure::download(format!("less than {least} MiB came in {minutes} minutes")));
    }
    Ok(())
}

fn too_large(length: u64, limits: &Limits) -> Result<(), Failure> {
    if length > limits.file {
        let message = format!("it is larger than the {} MiB that are allowed", limits.file >> 20);
        return Err(Failure { reason: Reason::TooLarge, message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const LIMITS: Limits = Limits { file: 1 << 40, virtual_size: 1 << 40 };

    /// A file that goes on without end, in pieces of that size that come after this many seconds each.
    fn trickle(piece: usize, seconds: u64) -> File {
        let next = move |()| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(Some((Bytes::from(vec![0; piece]), ())))
        };
        File::new(None, stream::try_unfold((), next))
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_byte_now_and_then_is_given_up() {
        let started = Instant::now();
        let failure = begun(look_into(&mut trickle(1, 20), DiskFormat::Raw, &LIMITS)).await.err().unwrap();
        assert_eq!((failure.reason, started.elapsed()), (Reason::DownloadFailed, BEGIN));

        let fed = async |piece, seconds| {
            let mut file = trickle(piece, seconds);
            let mut incoming = Incoming { file: &mut file, head: None, header: Header::Raw };
            let (pieces, mut taken) = mpsc::channel(PIECES);
            let taker = async { while taken.recv().await.is_some() {} };
            let progress = Progress::default();
            let feed = tokio::time::timeout(2 * WINDOW, feed(&mut incoming, &LIMITS, &progress, pieces));
            tokio::join!(feed, taker).0
        };
        let Ok(Err(Ended::Failed(failure))) = fed(1, 20).await else { panic!("it goes on") };
        assert_eq!(failure.message, "less than 4 MiB came in 10 minutes");
        assert!(fed(1 << 20, 20).await.is_err(), "what is slow and comes is taken");
    }
}
