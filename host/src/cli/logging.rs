//! The worker's own log: on stderr, as text for people or JSON for programs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Starts it. What other crates say is of interest from warnings up, unless `TCW_LOG` asks for something else, in the
/// form of `tracing`'s filters.
pub(super) fn start(config: &LogConfig) {
    let level = config.level.as_str();
    let filter = EnvFilter::try_from_env("TCW_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,tcw_host={level},library={level}")));
    let registry = tracing_subscriber::registry().with(filter);
    let result = match config.format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    if let Err(error) = result {
        eprintln!("tcw-host: the log cannot be started: {error}");
    }
}
