//! The worker: slots, claims, reclaims, cancellation, shutdown, journal and recovery.
//!
//! Two halves. The [dispatcher](dispatch) is one task that owns the truth about what runs: commands, answers of the
//! queue, ends of tasks and timers all reach it as one ordered stream. Each task has a [supervisor](supervise) that
//! keeps its claim, and runs as [`crate::task::run`]. They only exchange messages.

mod cancellation;
mod control;
pub mod crashes;
mod dispatch;
pub mod journal;
mod options;
mod recovery;
pub mod status;
mod supervise;

pub use control::{Command, Commands, Control, Stop};
pub use dispatch::Worker;
pub use options::{EMBEDDED, Exit, WorkerOptions};
pub use recovery::{Recovery, StoredEngines, Undoers, recover, recover_later, recover_leases};
