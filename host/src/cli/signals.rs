//! The signals with which a person or a supervisor ends the program.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::outcome::Failure;
use crate::library::crash;

/// Ends the process as it stands, for somebody who would not wait. Nothing is unwound: a task that is torn down halfway
/// could take its leases out of the journal while its processes still run.
pub(super) fn leave_at_once(status: u8) -> ! {
    crash::leaving();
    std::process::exit(status.into())
}

/// SIGINT and SIGTERM, from now on.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::general(format!("signals cannot be received: {error}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
