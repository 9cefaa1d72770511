//! Exit statuses, and errors as the command line shows them.

use std::fmt;
use std::process::ExitCode;

use crate::assembly::AssemblyError;
use crate::config::ConfigError;
use crate::library::LibraryError;
use crate::queue::{QueueError, TaskState, TaskStatus};
use crate::worker::journal::JournalError;

/// The command line or the configuration cannot be read. (generic-worker's number.)
pub(super) const USAGE: u8 = 64;
/// Something inside failed. (generic-worker's number.)
pub(super) const INTERNAL: u8 = 69;
/// The configuration does not make sense. (generic-worker's number.)
pub(super) const INVALID: u8 = 73;

/// Others can read what is secret. (generic-worker's number.)
pub(super) const EXPOSED: u8 = 77;

pub(super) fn status(number: u8) -> ExitCode {
    ExitCode::from(number)
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    message: String,
    status: u8,
    at_once: bool,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, status: u8) -> Self {
        Failure {
            message: message.into(),
            status,
            at_once: false,
        }
    }

    pub(super) fn general(message: impl fmt::Display) -> Self {
        Failure::new(message.to_string(), 1)
    }

    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Failure::new(message.to_string(), USAGE)
    }

    /// Whether the process can only end as it stands.
    pub(super) fn is_stuck(&self) -> bool {
        self.at_once
    }

    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(error.to_string(), error.exit_status())
    }
}

impl From<AssemblyError> for Failure {
    fn from(error: AssemblyError) -> Self {
        let status = match error {
            AssemblyError::NoEngine | AssemblyError::NotAnEngine { .. } => USAGE,
            AssemblyError::Creation { .. } | AssemblyError::Blocks { .. } | AssemblyError::Host(_) => {
                INTERNAL
            }
            _ => INVALID,
        };
        let at_once = matches!(error, AssemblyError::Blocks { .. });
        Failure {
            at_once,
            ..Failure::new(error.to_string(), status)
        }
    }
}

impl From<LibraryError> for Failure {
    fn from(error: LibraryError) -> Self {
        Failure::new(error.to_string(), INVALID)
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Failure::new(error.to_string(), INVALID)
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        Failure::general(error)
    }
}

impl From<tcw_abi::Error> for Failure {
    fn from(error: tcw_abi::Error) -> Self {
        Failure::new(error.message(), INTERNAL)
    }
}

/// What a resolved task is as an exit status: 0 completed, 1 failed, 2 exception.
pub(super) fn of_task(task: &TaskStatus) -> ExitCode {
    match task.state {
        TaskState::Completed => ExitCode::SUCCESS,
        TaskState::Failed => status(1),
        _ => status(2),
    }
}

/// How a task ended, in words: `completed`, `exception (malformed-payload)`.
pub(super) fn in_words(task: &TaskStatus) -> String {
    let state = serde_json::to_value(task.state)
        .ok()
        .and_then(|state| state.as_str().map(str::to_owned));
    let state = state.unwrap_or_else(|| format!("{:?}", task.state));
    match task.runs.last().and_then(|run| run.reason_resolved.as_deref()) {
        Some(reason) if task.state == TaskState::Exception => format!("{state} ({reason})"),
        _ => state,
    }
}
