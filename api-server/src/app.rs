//! What all requests share.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::Agents;
use crate::auth::keys::SigningKeys;
use crate::auth::password::{PasswordError, Passwords};
use crate::auth::proxies::Network;
use crate::auth::throttle::Throttle;
use crate::auth::ticket::UsedTickets;
use crate::error::{ApiError, BoxError};
use crate::feed::{Feed, fan_out};
use crate::metrics::Metrics;
use crate::socket::Seats;
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

/// What an operator sets about how the server is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Origins of web pages that may open WebSockets, besides the server's own.
    pub allowed_origins: Vec<String>,
    /// Proxies that are believed about whom they forward for.
    pub trusted_proxies: Vec<Network>,
    /// WebSockets that a user may have open at a time.
    pub max_sockets_per_user: usize,
    /// Most bytes of an image's file.
    pub largest_image: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { allowed_origins: vec![], trusted_proxies: vec![], max_sockets_per_user: 1024, largest_image: 64 << 30 }
    }
}

/// What all requests share.
pub struct App {
    /// The Kubernetes API.
    pub client: Client,
    /// Namespace of this installation.
    pub system_namespace: String,
    /// What requests read from.
    pub stores: Stores,
    /// The node controllers.
    pub agents: Agents,
    /// Keys of session tokens.
    pub keys: SigningKeys,
    /// Password hashing.
    pub passwords: Passwords,
    /// Slows down guessing.
    pub throttle: Throttle,
    /// How the server is reached.
    pub settings: Settings,
    /// Tickets that were used.
    pub tickets: UsedTickets,
    /// Open WebSockets.
    pub seats: Seats,
    /// Changes of virtual machines, for those who follow them.
    pub feed: Feed,
    /// What is counted.
    pub metrics: Metrics,
    /// Held while somebody may cease to be an admin, so that two requests here do not both find the other's left.
    pub admins: Mutex<()>,
    /// Work that goes on when its request is gone.
    pub tasks: TaskTracker,
    /// Cancelled when the process has been told to end: others take over, and what comes here is still answered.
    pub drain: CancellationToken,
    /// Cancelled when the process ends.
    pub stop: CancellationToken,
    probed: Mutex<Option<(Instant, bool)>>,
}

impl App {
    /// What requests share, before anything was read.
    pub fn new(client: Client, system_namespace: String, stores: Stores) -> Result<Self, PasswordError> {
        let parallel = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_PARALLEL_HASHES);
        Ok(Self {
            keys: SigningKeys::new(client.clone(), &system_namespace),
            agents: Agents::new(client.clone(), &system_namespace),
            client,
            system_namespace,
            stores,
            passwords: Passwords::new(parallel, HASH_QUEUE)?,
            throttle: Throttle::default(),
            settings: Settings::default(),
            tickets: UsedTickets::default(),
            seats: Seats::default(),
            feed: Feed::default(),
            metrics: Metrics::default(),
            admins: Mutex::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            probed: Mutex::default(),
        })
    }

    /// Follows the cluster and its signing keys until the process is to end.
    pub fn start(self: &Arc<Self>) {
        // Before the first listing, so that nothing is missed.
        if let Some(changes) = self.stores.vm_changes() {
            self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(fan_out(self.clone(), changes)));
        }
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

    /// Whether requests can be served: all is read, and nobody is leaving.
    pub fn ready(&self) -> Result<(), ApiError> {
        if self.drain.is_cancelled() {
            return Err(ApiError::unavailable("The server is being stopped"));
        }
        self.stores.ready()?;
        self.keys.ready().map(drop)
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
