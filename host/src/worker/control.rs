//! What may be asked of a worker from outside: by signals, and by libraries.

use async_trait::async_trait;
use tcw_abi::services::{ErrorReport, StopMode};
use tcw_abi::{Error, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::services::worker::WorkerControl;

/// How to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Claim nothing more, finish what runs.
    Graceful(String),
    /// Resolve what runs as `worker-shutdown`.
    Now(String),
}

/// Something that is asked of the worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Stop.
    Stop(Stop),
    /// Claim nothing until the same library resumes.
    Pause {
        /// Who asks.
        library: String,
        /// Why, for the operator.
        reason: String,
    },
    /// Claim again, as far as this library is concerned.
    Resume {
        /// Who asks.
        library: String,
    },
}

/// The sending end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    commands: UnboundedSender<Command>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Commands(pub(super) UnboundedReceiver<Command>);

impl Control {
    /// The two ends.
    pub fn new() -> (Control, Commands) {
        let (commands, receiver) = unbounded_channel();
        (Control { commands }, Commands(receiver))
    }

    /// Asks. False if the worker is gone.
    pub fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    fn ask(&self, command: Command) -> Result<()> {
        if self.send(command) {
            Ok(())
        } else {
            Err(Error::violation("the worker has ended"))
        }
    }
}

#[async_trait]
impl WorkerControl for Control {
    async fn stop(&self, library: &str, mode: StopMode, reason: String) -> Result<()> {
        let reason = format!("{library}: {reason}");
        self.ask(Command::Stop(match mode {
            StopMode::Graceful => Stop::Graceful(reason),
            StopMode::Now => Stop::Now(reason),
        }))
    }

    async fn pause(&self, library: &str, reason: String) -> Result<()> {
        self.ask(Command::Pause {
            library: library.to_owned(),
            reason,
        })
    }

    async fn resume(&self, library: &str) -> Result<()> {
        self.ask(Command::Resume {
            library: library.to_owned(),
        })
    }

    async fn report_error(&self, library: &str, report: ErrorReport) -> Result<()> {
        tracing::error!(
            library,
            kind = report.kind,
            description = report.description,
            extra = %report.extra,
            "{}",
            report.title
        );
        Ok(())
    }
}
