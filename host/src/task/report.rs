//! How a task ended, for the worker.

use std::collections::BTreeSet;

use serde::Serialize;
use tcw_abi::engine::Report;

use crate::queue::ExceptionReason;

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "resolution", content = "reason")]
pub enum Resolution {
    /// It succeeded.
    Completed,
    /// It did not.
    Failed,
    /// It has no verdict of its own.
    Exception(ExceptionReason),
    /// It was cancelled, its deadline passed, its claim was lost, or the queue had resolved it already: nothing was
    /// reported, or the report was refused. What the task may have spoilt (its caches) is to be purged.
    ResolvedElsewhere,
}

/// What a task's end means for the worker, the greater the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerEffect {
    /// Nothing.
    #[default]
    None,
    /// Every plugin's `report_non_fatal_error` is to be called.
    NonFatal,
    /// The worker has to stop with a non-zero exit status.
    Fatal,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskReport {
    /// What became of it.
    pub resolution: Resolution,
    /// Whether the queue has taken that. False with any resolution but `ResolvedElsewhere`: it could not be reached,
    /// and the claim will expire.
    pub reported: bool,
    /// The id of the worker's log lines about an error of ours, which the task log names.
    pub incident: Option<String>,
    /// What it means for the worker.
    pub effect: WorkerEffect,
    /// Libraries that panicked or hung: no new task before a fresh copy of them is loaded.
    pub unhealthy: BTreeSet<String>,
    /// What the sandbox said, if it came to an end of its own.
    pub sandbox: Option<Report>,
}
