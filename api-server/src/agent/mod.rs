//! Calls of the node controllers: measurements, consoles and boot logs come from the host that a virtual machine is on,
//! and the files of images go to one.
//!
//! Where a host is reached and with which certificate stands in its Host, where only that node may write. This side
//! proves itself by a token of its own service account for that host alone.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::{Client, ResourceExt};
use kvmoor_crds::agent::{self, Stats};
use kvmoor_crds::{Host, VirtualMachine};
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

mod connect;
mod token;
pub mod upload;

use crate::error::{ApiError, BoxError, Noun};
use crate::store::{Key, Stores};
use connect::Connection;
use token::AgentTokens;

/// How long a host may take to say what it measures.
const STATS: Duration = Duration::from_secs(2);
/// How long a host may take to open a console.
const CONSOLE: Duration = Duration::from_secs(8);
/// How long a host may take to read a log.
const LOG: Duration = Duration::from_secs(8);
/// Most bytes of an answer: those of a log.
const ANSWER: usize = agent::LOG_BYTES as usize;
const HOST_SILENT: &str = "The VM's host does not answer";

/// The node controllers of all hosts.
pub struct Agents {
    tokens: AgentTokens,
}

/// The bytes of a console: those of the guest's VNC server, or of its serial port.
pub type Console = TokioIo<Upgraded>;

/// Why a host does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The virtual machine is on no host, or the host has nothing of it yet.
    #[error("the VM is not on a host")]
    NotThere,
    /// The virtual machine is off, or something else that it is does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Too many consoles.
    #[error("{0}")]
    TooMany(String),
    /// It did not answer, or not as it should.
    #[error("{message}")]
    Unavailable {
        /// What, for the caller.
        message: &'static str,
        /// Why, for the log.
        #[source]
        cause: BoxError,
    },
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::NotThere => Self::Conflict("The VM is not on a host yet".to_owned()),
            AgentError::Conflict(_) => Self::Conflict("The VM is not running".to_owned()),
            AgentError::TooMany(_) => Self::TooManyRequests {
                message: "Too many consoles of this VM are open",
                retry_after: Duration::from_secs(5),
            },
            AgentError::Unavailable { message, cause } => Self::Unavailable { message, cause: Some(cause) },
        }
    }
}

impl Agents {
    /// Nothing is connected yet.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self { tokens: AgentTokens::new(client, system_namespace) }
    }

    /// What libvirt measures of a virtual machine now.
    pub async fn stats(&self, stores: &Stores, vm: &VirtualMachine) -> Result<Stats, AgentError> {
        let host = host_of(stores, vm)?;
        let path = agent::stats_path(&vm.uid().unwrap_or_default());
        let body = within(STATS, self.get(&host, path)).await?;
        serde_json::from_slice(&body).map_err(silent)
    }

    /// The last bytes that a virtual machine has written on its serial port.
    pub async fn log(&self, stores: &Stores, vm: &VirtualMachine, bytes: u32) -> Result<Bytes, AgentError> {
        let host = host_of(stores, vm)?;
        within(LOG, self.get(&host, agent::log_path(&vm.uid().unwrap_or_default(), bytes))).await
    }

    /// The display of a virtual machine.
    pub async fn display(&self, stores: &Stores, vm: &VirtualMachine) -> Result<Console, AgentError> {
        let path = agent::vnc_path(&vm.uid().unwrap_or_default());
        within(CONSOLE, self.upgrade(&*host_of(stores, vm)?, path, agent::VNC_PROTOCOL)).await
    }

    /// The serial port of a virtual machine.
    pub async fn serial(&self, stores: &Stores, vm: &VirtualMachine) -> Result<Console, AgentError> {
        let path = agent::serial_path(&vm.uid().unwrap_or_default());
        within(CONSOLE, self.upgrade(&*host_of(stores, vm)?, path, agent::SERIAL_PROTOCOL)).await
    }

    async fn get(&self, host: &Host, path: String) -> Result<Bytes, AgentError> {
        let Connection { mut sender, driver } = connect::open::<Empty<Bytes>>(host).await.map_err(silent)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let answer = sender
            .send_request(self.authorized(host, Request::get(path), Empty::new()).await?)
            .await
            .map_err(silent)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(silent)?.to_bytes();
        if status == StatusCode::OK { Ok(body) } else { self.refused(host, status, &body).await }
    }

    async fn upgrade(&self, host: &Host, path: String, protocol: &str) -> Result<Console, AgentError> {
        let Connection { mut sender, driver } = connect::open::<Empty<Bytes>>(host).await.map_err(silent)?;
        // It ends by itself: with the upgrade, or when `sender` is gone.
        tokio::spawn(driver);
        let request = Request::get(path).header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
        let answer = sender.send_request(self.authorized(host, request, Empty::new()).await?).await.map_err(silent)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(silent)?.to_bytes();
            return self.refused(host, status, &body).await;
        }
        upgraded(answer).await
    }

    async fn authorized<B>(
        &self,
        host: &Host,
        request: http::request::Builder,
        body: B,
    ) -> Result<Request<B>, AgentError> {
        let token = self.tokens.get(&host.name_any()).await.map_err(|error| AgentError::Unavailable {
            message: "The server cannot prove itself to the VM's host",
            cause: error,
        })?;
        let request = request.header(header::HOST, agent::SERVER_NAME);
        request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(body).map_err(silent)
    }

    async fn refused<T>(&self, host: &Host, status: StatusCode, body: &[u8]) -> Result<T, AgentError> {
        let message = refusal(body);
        Err(match status {
            StatusCode::NOT_FOUND => AgentError::NotThere,
            StatusCode::CONFLICT => AgentError::Conflict(message),
            StatusCode::TOO_MANY_REQUESTS => AgentError::TooMany(message),
            StatusCode::UNAUTHORIZED => {
                self.tokens.forget(&host.name_any()).await;
                unavailable("The VM's host does not accept this server", status, &message)
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                unavailable("libvirt on the VM's host does not answer", status, &message)
            }
            _ => unavailable("The VM's host refuses", status, &message),
        })
    }
}

/// Why a host refuses.
fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Refusal>(body).unwrap_or_default().message
}

async fn upgraded(answer: http::Response<Incoming>) -> Result<Console, AgentError> {
    Ok(TokioIo::new(hyper::upgrade::on(answer).await.map_err(silent)?))
}

async fn within<T>(deadline: Duration, asked: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    let late = |_| Err(silent(format!("no answer within {} s", deadline.as_secs())));
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(late)
}

fn unavailable(message: &'static str, status: StatusCode, text: &str) -> AgentError {
    AgentError::Unavailable { message, cause: format!("the node controller: {status}: {text}").into() }
}

fn silent(cause: impl Into<BoxError>) -> AgentError {
    AgentError::Unavailable { message: HOST_SILENT, cause: cause.into() }
}

/// The Host of a virtual machine.
fn host_of(stores: &Stores, vm: &VirtualMachine) -> Result<Arc<Host>, AgentError> {
    let name = vm.spec.node_name.as_deref().ok_or(AgentError::NotThere)?;
    let hosts = stores.hosts().map_err(|error| silent(error.to_string()))?.read();
    let host = hosts.get(&Key::namespaced("", name)).cloned();
    host.ok_or_else(|| silent(format!("there is no {} {name}", Noun::Host.as_str())))
}
