//! The ways to stop a worker, and a matrix of them and something else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use super::Scene;
use crate::support::cli::Running;

/// How the worker is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    Int,
    Term,
    IntInt,
    IntTerm,
    TermTerm,
    PluginGraceful,
    PluginNow,
    Fatal,
    Panic,
    Hang,
}

pub(crate) const STOPS: [Stop; 10] = [
    Stop::Int,
    Stop::Term,
    Stop::IntInt,
    Stop::IntTerm,
    Stop::TermTerm,
    Stop::PluginGraceful,
    Stop::PluginNow,
    Stop::Fatal,
    Stop::Panic,
    Stop::Hang,
];

impl Stop {
    /// What runs is finished.
    pub(crate) fn is_graceful(self) -> bool {
        matches!(self, Stop::Int | Stop::PluginGraceful | Stop::Panic | Stop::Hang)
    }

    pub(crate) fn status(self) -> i32 {
        match self {
            Stop::Int | Stop::PluginGraceful => 71,
            Stop::Term | Stop::IntInt | Stop::IntTerm | Stop::TermTerm | Stop::PluginNow => 72,
            Stop::Fatal | Stop::Panic | Stop::Hang => 69,
        }
    }

    /// For the configuration: nobody waits for half an hour for a call that hangs.
    pub(crate) fn configuration(self) -> &'static str {
        match self {
            Stop::Hang => "libraries: {callTimeout: 4 s}\n",
            _ => "",
        }
    }

    /// For those that a task brings about, its payload. It stays in `prepare` until it is to happen.
    pub(crate) fn culprit(self) -> Option<&'static str> {
        match self {
            Stop::Fatal => Some("{hold: prepare, fault: fatal}"),
            Stop::Panic => Some("{hold: prepare, fault: engine-panic}"),
            Stop::Hang => Some("{hold: prepare, fault: engine-hang}"),
            _ => None,
        }
    }

    /// Stops it. `culprit` is the id of the task that brings it about.
    pub(crate) fn happens(self, scene: &Scene, worker: &Running, culprit: Option<&str>) {
        let (int, term) = (Signal::INT, Signal::TERM);
        let twice = |first: (Signal, &str), then: Signal| {
            worker.signal(first.0);
            worker.says(first.1);
            worker.signal(then);
        };
        match self {
            Stop::Int => worker.signal(int),
            Stop::Term => worker.signal(term),
            Stop::IntInt => twice((int, "stopping after the running tasks"), int),
            Stop::IntTerm => twice((int, "stopping after the running tasks"), term),
            Stop::TermTerm => twice((term, "stopping now"), term),
            Stop::PluginGraceful => scene.tells("graceful"),
            Stop::PluginNow => scene.tells("now"),
            Stop::Fatal | Stop::Panic | Stop::Hang => {
                let culprit = culprit.expect("there is one");
                scene.releases_one(&format!("{culprit} prepare"));
            }
        }
    }

    /// Waits until the worker knows: what runs is not just faster than that.
    pub(crate) fn is_noticed(self, worker: &Running) {
        worker.says(match self {
            Stop::Panic | Stop::Hang => "the library is unhealthy",
            Stop::Fatal => "a library reported a fatal error",
            Stop::Int | Stop::PluginGraceful => "stopping after the running tasks",
            _ => "stopping now",
        });
    }
}

/// Runs these cells of a matrix, so many at a time, and says which of them are wrong.
pub(crate) fn matrix<Cell: Copy + std::fmt::Debug + Sync>(
    cells: &[Cell],
    at_a_time: usize,
    run: impl Fn(Cell) + Sync,
) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    if catch_unwind(AssertUnwindSafe(|| run(cell))).is_err() {
                        failed.lock().expect("no panic").push(format!("{cell:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{failed:#?}");
}
