//! Logging: one line an event, on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Format of the log.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging is set up already.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up logging")]
pub struct LogError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl LogFormat {
    /// Begins to log; RUST_LOG says what, `info` where it is missing or wrong.
    ///
    /// # Errors
    /// When logging is set up already.
    pub fn start(self) -> Result<(), LogError> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let stderr = std::io::stderr();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(stderr.is_terminal())
            .with_writer(std::io::stderr);
        match self {
            Self::Text => log.try_init(),
            Self::Json => log.json().flatten_event(true).try_init(),
        }
        .map_err(LogError)
    }
}
