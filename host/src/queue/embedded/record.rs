//! A task as the embedded queue knows it, and every way in which it can change. Nothing here touches the database or
//! the clock, so that the rules can be read and tested by themselves.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::queue::{Priority, Requires, RunState, TaskState};

/// The most runs one task can have.
const MOST_RUNS: usize = 50;

/// Milliseconds since 1970.
pub(super) type Millis = i64;

/// A time as the API writes it.
pub(super) fn iso(time: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(time)
        .map(crate::queue::format_time)
        .unwrap_or_default()
}

/// Why there is a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ReasonCreated {
    Scheduled,
    Retry,
    TaskRetry,
    Rerun,
    Exception,
}

/// Why a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ReasonResolved {
    Completed,
    Failed,
    DeadlineExceeded,
    Canceled,
    ClaimExpired,
    WorkerShutdown,
    MalformedPayload,
    ResourceUnavailable,
    InternalError,
    IntermittentTask,
}

impl ReasonResolved {
    fn state(self) -> RunState {
        match self {
            Self::Completed => RunState::Completed,
            Self::Failed => RunState::Failed,
            _ => RunState::Exception,
        }
    }

    /// Whether the infrastructure is to blame (or the task asked for it), so that there is another run if retries are left.
    fn retry(self) -> Option<ReasonCreated> {
        match self {
            Self::ClaimExpired | Self::WorkerShutdown => Some(ReasonCreated::Retry),
            Self::IntermittentTask => Some(ReasonCreated::TaskRetry),
            _ => None,
        }
    }
}

/// One attempt at a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) state: RunState,
    pub(super) created: ReasonCreated,
    pub(super) scheduled: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) worker: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) taken_until: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resolved: Option<(Millis, ReasonResolved)>,
}

impl Run {
    fn pending(created: ReasonCreated, now: Millis) -> Self {
        Self {
            state: RunState::Pending,
            created,
            scheduled: now,
            started: None,
            worker: None,
            taken_until: None,
            resolved: None,
        }
    }

    fn to_json(&self, id: usize) -> Value {
        let mut run = json!({
            "runId": id,
            "state": self.state,
            "reasonCreated": self.created,
            "scheduled": iso(self.scheduled),
        });
        if let Some(started) = self.started {
            run["started"] = iso(started).into();
        }
        if let Some((group, id)) = &self.worker {
            run["workerGroup"] = group.as_str().into();
            run["workerId"] = id.as_str().into();
        }
        if let Some(taken_until) = self.taken_until {
            run["takenUntil"] = iso(taken_until).into();
        }
        if let Some((time, reason)) = self.resolved {
            run["resolved"] = iso(time).into();
            run["reasonResolved"] = json!(reason);
        }
        run
    }
}

/// A task without its definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) scheduler: String,
    pub(super) group: String,
    pub(super) project: String,
    pub(super) priority: Priority,
    pub(super) requires: Requires,
    pub(super) deadline: Millis,
    pub(super) expires: Millis,
    pub(super) retries: u32,
    pub(super) retries_left: u32,
    /// Where it stands in line among those of its priority; set whenever it becomes pending.
    pub(super) position: i64,
    pub(super) runs: Vec<Run>,
}

impl Task {
    pub(super) fn state(&self) -> TaskState {
        match self.runs.last().map(|run| run.state) {
            None => TaskState::Unscheduled,
            Some(RunState::Pending) => TaskState::Pending,
            Some(RunState::Running) => TaskState::Running,
            Some(RunState::Completed) => TaskState::Completed,
            Some(RunState::Failed) => TaskState::Failed,
            Some(RunState::Exception) => TaskState::Exception,
        }
    }

    /// When something has to happen to it by itself.
    pub(super) fn next_event(&self) -> Option<Millis> {
        match self.state() {
            TaskState::Unscheduled | TaskState::Pending => Some(self.deadline),
            TaskState::Running => {
                let claim_ends = self.runs.last().and_then(|run| run.taken_until);
                Some(claim_ends.map_or(self.deadline, |end| end.min(self.deadline)))
            }
            _ => None,
        }
    }

    pub(super) fn status(&self) -> Value {
        let (provisioner, worker_type) = self.pool.split_once('/').unwrap_or((&self.pool, ""));
        let runs: Vec<Value> = self
            .runs
            .iter()
            .enumerate()
            .map(|(id, run)| run.to_json(id))
            .collect();
        json!({
            "taskId": self.id,
            "provisionerId": provisioner,
            "workerType": worker_type,
            "taskQueueId": self.pool,
            "schedulerId": self.scheduler,
            "projectId": self.project,
            "taskGroupId": self.group,
            "priority": self.priority,
            "deadline": iso(self.deadline),
            "expires": iso(self.expires),
            "retriesLeft": self.retries_left,
            "state": self.state(),
            "runs": runs,
        })
    }

    /// The run with this number.
    pub(super) fn run(&self, id: u32) -> Result<&Run, ApiError> {
        self.runs.get(id as usize).ok_or_else(|| {
            ApiError::not_found(format!(
                "task {} has no run {id}; it has {}",
                self.id,
                self.runs.len()
            ))
        })
    }

    /// Makes an unscheduled task pending.
    pub(super) fn schedule(&mut self, created: ReasonCreated, now: Millis) {
        if self.runs.is_empty() {
            self.runs.push(Run::pending(created, now));
        }
    }

    /// Hands the pending run to a worker and answers its number.
    pub(super) fn claim(
        &mut self,
        worker: (String, String),
        now: Millis,
        taken_until: Millis,
    ) -> Option<u32> {
        let id = self.runs.len().checked_sub(1)?;
        let run = self
            .runs
            .last_mut()
            .filter(|run| run.state == RunState::Pending)?;
        run.state = RunState::Running;
        run.started = Some(now);
        run.worker = Some(worker);
        run.taken_until = Some(taken_until);
        u32::try_from(id).ok()
    }

    /// Takes back a claim whose answer never reached the worker.
    pub(super) fn unclaim(&mut self, id: u32, taken_until: Millis) -> bool {
        let is_last = self.runs.len() == id as usize + 1;
        match self.runs.last_mut() {
            Some(run)
                if is_last && run.state == RunState::Running && run.taken_until == Some(taken_until) =>
            {
                run.state = RunState::Pending;
                run.started = None;
                run.worker = None;
                run.taken_until = None;
                true
            }
            _ => false,
        }
    }

    /// Renews a claim.
    pub(super) fn reclaim(&mut self, id: u32, now: Millis, taken_until: Millis) -> Result<(), ApiError> {
        self.not_past_deadline(now)?;
        self.run(id)?;
        let is_last = self.runs.len() == id as usize + 1;
        match self.runs.last_mut() {
            Some(run) if is_last && run.state == RunState::Running => {
                run.taken_until = Some(taken_until);
                Ok(())
            }
            _ => Err(ApiError::conflict(format!(
                "run {id} of task {} is not running, so that it cannot be reclaimed",
                self.id
            ))),
        }
    }

    /// Ends a running run as its worker reports. Repeating the same report changes nothing and is no error.
    pub(super) fn report(&mut self, id: u32, reason: ReasonResolved, now: Millis) -> Result<(), ApiError> {
        let run = self.run(id)?;
        if run.resolved.is_some_and(|(_, earlier)| earlier == reason) {
            return Ok(());
        }
        if run.state != RunState::Running {
            let state = json!(run.state);
            return Err(ApiError::conflict(format!(
                "run {id} of task {} is {}, so that it cannot be reported as {}",
                self.id,
                state.as_str().unwrap_or_default(),
                json!(reason).as_str().unwrap_or_default(),
            )));
        }
        self.end(reason, now);
        Ok(())
    }

    /// Cancels it; what has ended stays as it is.
    pub(super) fn cancel(&mut self, now: Millis) -> Result<(), ApiError> {
        self.not_past_deadline(now)?;
        if !self.state().is_resolved() {
            self.end(ReasonResolved::Canceled, now);
        }
        Ok(())
    }

    /// A new run for what has ended; for what has not, nothing changes.
    pub(super) fn rerun(&mut self, now: Millis) -> Result<(), ApiError> {
        self.not_past_deadline(now)?;
        if self.runs.is_empty() {
            self.schedule(ReasonCreated::Rerun, now);
        } else if self.state().is_resolved() {
            if self.runs.len() >= MOST_RUNS {
                return Err(ApiError::conflict(format!(
                    "task {} has had {MOST_RUNS} runs, which is the most there can be; create a new task",
                    self.id
                )));
            }
            self.runs.push(Run::pending(ReasonCreated::Rerun, now));
            let room = u32::try_from(MOST_RUNS - self.runs.len()).unwrap_or(0);
            self.retries_left = self.retries.min(room);
        }
        Ok(())
    }

    /// Changes how urgent it is, unless it has ended. Whoever works on it already goes on as before.
    pub(super) fn change_priority(&mut self, priority: Priority, now: Millis) -> Result<(), ApiError> {
        self.not_past_deadline(now)?;
        if self.state().is_resolved() {
            return Err(ApiError::conflict(format!(
                "task {} has ended, so that its priority cannot be changed",
                self.id
            )));
        }
        self.priority = priority;
        Ok(())
    }

    /// What time alone does: a passed deadline ends the task, a passed claim ends the run. Answers whether it changed.
    pub(super) fn elapse(&mut self, now: Millis) -> bool {
        if self.state().is_resolved() {
            return false;
        }
        if self.deadline <= now {
            self.end(ReasonResolved::DeadlineExceeded, now);
            return true;
        }
        let claim_ended = self.state() == TaskState::Running
            && self
                .runs
                .last()
                .and_then(|run| run.taken_until)
                .is_some_and(|end| end <= now);
        if claim_ended {
            self.end(ReasonResolved::ClaimExpired, now);
        }
        claim_ended
    }

    /// Refuses what may not happen any more.
    pub(super) fn not_past_deadline(&self, now: Millis) -> Result<(), ApiError> {
        if self.deadline <= now {
            return Err(ApiError::conflict(format!(
                "the deadline of task {} has passed at {}",
                self.id,
                iso(self.deadline)
            )));
        }
        Ok(())
    }

    /// Ends the last run (a task without one gets one for that) and appends the next if there is to be one.
    fn end(&mut self, reason: ReasonResolved, now: Millis) {
        if self.runs.is_empty() {
            self.runs.push(Run::pending(ReasonCreated::Exception, now));
        }
        if let Some(run) = self.runs.last_mut() {
            run.state = reason.state();
            run.resolved = Some((now, reason));
        }
        if let Some(created) = reason.retry()
            && self.retries_left > 0
            && self.runs.len() < MOST_RUNS
        {
            self.retries_left -= 1;
            self.runs.push(Run::pending(created, now));
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
