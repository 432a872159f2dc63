//! What all requests share.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::keys::SigningKeys;
use crate::auth::password::{PasswordError, Passwords};
use crate::auth::throttle::Throttle;
use crate::error::{ApiError, BoxError};
use crate::store::Stores;

/// Hashes at a time at most, however many CPUs there are: each takes 19 MiB.
const MAX_PARALLEL_HASHES: usize = 4;
/// Hashes that may wait for a CPU.
const HASH_QUEUE: usize = 32;
/// For how long one answer about the Kubernetes API serves all who ask, since anybody may ask.
const PROBE_SERVES: Duration = Duration::from_millis(500);
/// How long the Kubernetes API may take to say that it is there.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Shared by all requests.
pub type AppState = Arc<App>;

/// What all requests share.
pub struct App {
    /// The Kubernetes API.
    pub client: Client,
    /// Namespace of this installation.
    pub system_namespace: String,
    /// What requests read from.
    pub stores: Stores,
    /// Keys of session tokens.
    pub keys: SigningKeys,
    /// Password hashing.
    pub passwords: Passwords,
    /// Slows down guessing.
    pub throttle: Throttle,
    /// Held while somebody may cease to be an admin, so that two requests here do not both find the other's left.
    pub admins: Mutex<()>,
    /// Work that goes on when its request is gone.
    pub tasks: TaskTracker,
    /// Cancelled when the process is to end.
    pub stop: CancellationToken,
    probed: Mutex<Option<(Instant, bool)>>,
}

impl App {
    /// What requests share, before anything was read.
    pub fn new(client: Client, system_namespace: String, stores: Stores) -> Result<Self, PasswordError> {
        let parallel = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_PARALLEL_HASHES);
        Ok(Self {
            keys: SigningKeys::new(client.clone(), &system_namespace),
            client,
            system_namespace,
            stores,
            passwords: Passwords::new(parallel, HASH_QUEUE)?,
            throttle: Throttle::default(),
            admins: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            probed: Mutex::default(),
        })
    }

    /// Follows the cluster and its signing keys until the process is to end.
    pub fn start(self: &Arc<Self>) {
        self.stores.follow(&self.client, &self.tasks, &self.stop);
        let app = self.clone();
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move { app.keys.keep_current().await }));
    }

    /// Does work of several steps to its end, even when the caller goes away in the middle.
    pub async fn to_completion<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let span = tracing::Span::current();
        let task = self.tasks.spawn(tracing::Instrument::instrument(work, span));
        task.await.map_err(|error| ApiError::Internal(BoxError::from(error)))?
    }

    /// Whether the Kubernetes API answers and has its store.
    pub async fn kubernetes_answers(&self) -> bool {
        let mut probed = self.probed.lock().await;
        if let Some((time, answer)) = *probed
            && time.elapsed() < PROBE_SERVES
        {
            return answer;
        }
        let answer = tokio::time::timeout(PROBE_DEADLINE, self.probe()).await.is_ok_and(|outcome| outcome.is_ok());
        *probed = Some((Instant::now(), answer));
        answer
    }

    async fn probe(&self) -> Result<String, BoxError> {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }
}
