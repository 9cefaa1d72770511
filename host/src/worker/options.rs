//! How a worker is to run, and how it ended.

use std::fmt;
use std::time::Duration;

/// What the journal calls the embedded queue: there is one for each state directory.
pub const EMBEDDED: &str = "embedded";

/// How a worker is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerOptions {
    /// Tasks at one time, at least 1. The engine's own bound lowers it.
    pub capacity: u32,
    /// What the journal calls the queue, so that the next start knows whether claims are of the same one. A root URL;
    /// [`EMBEDDED`] for the queue of the state directory, whose port changes from start to start.
    pub queue_name: String,
    /// Stop after this many tasks.
    pub number_of_tasks: Option<u64>,
    /// Stop when nothing was claimed for this long.
    pub idle_timeout: Option<Duration>,
    /// How often the queue is asked whether running tasks were cancelled.
    pub cancellation_interval: Duration,
    /// A library that panicked or hung is no reason to leave, only to begin anew: any other reason to stop comes first.
    pub reload: bool,
    /// How long tasks have to end after the worker was told to stop now. Then the process leaves them to the next
    /// start.
    pub shutdown_bound: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            capacity: 1,
            queue_name: EMBEDDED.to_owned(),
            number_of_tasks: None,
            idle_timeout: None,
            cancellation_interval: Duration::from_secs(60),
            reload: false,
            shutdown_bound: Duration::from_secs(150),
        }
    }
}

/// How a worker ended. The numbers are generic-worker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It has run as many tasks as it should.
    Done,
    /// There was nothing to do for too long.
    Idle,
    /// It was asked to stop, and finished what ran.
    Graceful(String),
    /// It was told to stop, and resolved what ran as `worker-shutdown`.
    Now(String),
    /// It cannot go on.
    Fatal(String),
    /// A library panicked or hung; a fresh process can go on.
    Unhealthy(String),
}

impl Exit {
    /// The process's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Idle => 68,
            Exit::Fatal(_) | Exit::Unhealthy(_) => 69,
            Exit::Graceful(_) => 71,
            Exit::Now(_) => 72,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Done => write!(f, "all tasks that were wanted are done"),
            Exit::Idle => write!(f, "there was nothing to do for the whole idle time-out"),
            Exit::Graceful(reason) => write!(f, "stopped after the running tasks: {reason}"),
            Exit::Now(reason) => write!(f, "stopped: {reason}"),
            Exit::Fatal(reason) => write!(f, "the worker cannot go on: {reason}"),
            Exit::Unhealthy(library) => write!(
                f,
                "the library '{library}' panicked or hung, so the worker leaves; start it again for a fresh copy"
            ),
        }
    }
}
