//! Running the conformance cases against a built library, each in a process of its own.
//!
//! ```text
//! file.rs        the vendor's check file: how the library is driven
//! plan.rs        which cases there are, and what becomes of them before anything runs
//! job.rs         what one case is told and answers, as files in its directory
//! dispatch.rs    several cases at one time; this process never opens the library
//! supervise.rs   one process a case: starts the one that runs it, times it, and ends everything below it
//! run.rs         the process that opens the library and runs the case
//! descendants.rs the processes below this one
//! ```
//!
//! Two processes a case, because what a library leaves behind is orphaned when its process dies: the supervisor is where
//! orphans go, so what is left is known to be of that case, and can be ended.

mod descendants;
mod dispatch;
pub mod file;
mod job;
mod plan;
mod run;
mod supervise;

pub use dispatch::{CheckError, Dispatch, Interrupted};
pub use job::{Described, EngineSaid, Outcome, PluginSaid};
pub use plan::{Entry, Plan, Totals, UnknownCase};
pub use run::run;
pub use supervise::supervise;
