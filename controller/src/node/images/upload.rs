//! What an admin uploads to this host: written like an import, but it comes by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use super::file::File;
use super::importer::Importer;
use super::record::Content;
use super::transfer::{self, Progress, Stored};

/// Uploads at once.
const AT_ONCE: usize = 2;

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// Somebody else is at it.
    #[error("this very content is being uploaded to the host already; wait until that has ended")]
    UnderWay,
    /// There are others.
    #[error("{AT_ONCE} images are being uploaded to the host already")]
    TooMany,
    /// The process ends.
    #[error("the host's controller is stopping")]
    Stopping,
    /// The file, or the pool.
    #[error("{}", .0.message)]
    Failed(Failure),
}

/// The uploads that are under way.
pub struct Uploads {
    under_way: Mutex<HashMap<Content, Arc<Progress>>>,
    places: Arc<Semaphore>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { under_way: Mutex::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Uploads {
    /// How far the upload of that content is.
    pub fn progress(&self, content: &Content) -> Option<Arc<Progress>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(content).cloned()
    }

    /// The checksums of all that is being uploaded.
    pub fn checksums(&self) -> Vec<String> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.keys().map(|content| content.sha256.clone()).collect()
    }

    fn claim(self: &Arc<Self>, content: &Content) -> Result<Claim, NotStored> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Vacant(free) = under_way.entry(content.clone()) else { return Err(NotStored::UnderWay) };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| NotStored::TooMany)?;
        let progress = Arc::clone(free.insert(Arc::default()));
        Ok(Claim { uploads: Arc::clone(self), content: content.clone(), progress, _place: place })
    }
}

/// That a content is being uploaded, until this is dropped.
struct Claim {
    uploads: Arc<Uploads>,
    content: Content,
    progress: Arc<Progress>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.uploads.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.content);
    }
}

impl Importer {
    /// Takes a file that somebody sends. It is gone through to its end, good or bad, whatever becomes of the caller.
    pub async fn upload(&self, content: Content, file: File) -> Result<Stored, NotStored> {
        match self.uploads().claim(&content) {
            Ok(claim) => tokio::spawn(take(self.clone(), claim, file)).await.unwrap_or(Err(NotStored::Stopping)),
            Err(refused) => {
                file.let_go();
                Err(refused)
            }
        }
    }
}

async fn take(importer: Importer, claim: Claim, mut file: File) -> Result<Stored, NotStored> {
    let sha256 = claim.content.sha256.clone();
    tracing::info!(image.sha256 = sha256, "an image is being uploaded");
    let result = tokio::select! {
        result = transfer::store(importer.libvirt(), importer.limits(), &claim.content, &claim.progress, &mut file) => result,
        () = importer.stopped() => return Err(NotStored::Stopping),
    };
    match &result {
        Ok(stored) => {
            tracing::info!(image.sha256 = sha256, ?stored, "uploaded");
            importer.came(&claim.content);
        }
        Err(Failure { reason, message }) => {
            tracing::warn!(image.sha256 = sha256, reason = reason.as_str(), message, "not uploaded");
        }
    }
    // Before anybody looks for what broke off.
    drop(claim);
    importer.ended().notify_one();
    file.let_go();
    result.map_err(NotStored::Failed)
}

#[cfg(test)]
mod tests {
    use super::super::super::domain_xml::DiskFormat;
    use super::*;

    fn content(digit: &str) -> Content {
        Content::new(&digit.repeat(64), DiskFormat::Raw).unwrap()
    }

    #[test]
    fn one_content_once_and_few_at_a_time() {
        let uploads = Arc::new(Uploads::default());
        let first = uploads.claim(&content("1")).unwrap();
        assert!(matches!(uploads.claim(&content("1")), Err(NotStored::UnderWay)));
        let second = uploads.claim(&content("2")).unwrap();
        assert!(matches!(uploads.claim(&content("3")), Err(NotStored::TooMany)));
        assert_eq!(uploads.checksums().len(), 2);
        drop(first);
        assert!(uploads.progress(&content("1")).is_none());
        let _third = uploads.claim(&content("3")).unwrap();
        drop(second);
        let _again = uploads.claim(&content("1")).unwrap();
        assert!(uploads.progress(&content("1")).is_some());
    }
}
