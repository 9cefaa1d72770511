//! From a free slot to a task that runs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tcw_abi::ErrorKind;

use super::{Key, State, Worker};
use crate::queue::{Claim, ExceptionReason, QueueError};
use crate::task::{self, Resolution, TaskEvent, task_control};
use crate::worker::journal::ClaimRecord;
use crate::worker::options::Exit;
use crate::worker::supervise::keep_claim;

/// At most so many tasks a call: the queue's own bound.
const MOST_CLAIMS: u32 = 32;

/// After this many clean-ups under way for each slot, claiming waits for them.
const CLEAN_UPS_PER_SLOT: usize = 2;

/// How long an engine that is not well, or a queue that does not answer, is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long writing a claim down may take: longer, and the disk is not one that can be relied on.
const WRITING: Duration = Duration::from_secs(30);

/// How long giving back a claim may take, of which nothing has begun.
const GIVING_BACK: Duration = Duration::from_secs(30);

/// How an attempt to claim ended.
pub(super) enum Poll {
    Claims(Vec<Claim>),
    Unwell(String),
    Broken(String),
    Failed(QueueError),
}

impl Worker {
    pub(super) fn claim_if_free(&self, state: &mut State) {
        if state.not_before.is_some_and(|time| time <= Instant::now()) {
            state.not_before = None;
        }
        let capacity = self.capacity();
        let taken = u32::try_from(state.running.len()).unwrap_or(u32::MAX);
        let wanted = self
            .options
            .number_of_tasks
            .map_or(u64::MAX, |most| most.saturating_sub(self.board.claimed()));
        let free = capacity
            .saturating_sub(taken)
            .min(MOST_CLAIMS)
            .min(u32::try_from(wanted).unwrap_or(u32::MAX));
        self.look_at_clean_ups(state);
        if free == 0
            || state.lagging
            || self.is_idle(state)
            || state.poll.is_some()
            || state.stop.is_some()
            || state.fatal.is_some()
            || state.not_before.is_some()
            || !state.paused.is_empty()
        {
            return;
        }
        let (queue, environment) = (Arc::clone(&self.queue), Arc::clone(&self.environment));
        state.poll = Some(tokio::spawn(async move {
            match tokio::time::timeout(environment.deadlines.query, environment.engine.engine.health()).await
            {
                Ok(Ok(health)) if health.healthy => {}
                Ok(Ok(health)) => return Poll::Unwell(health.reason),
                Ok(Err(error)) if error.kind() == ErrorKind::Panicked => {
                    return Poll::Broken(error.to_string());
                }
                Ok(Err(error)) => return Poll::Unwell(error.to_string()),
                Err(_) => {
                    return Poll::Broken(format!(
                        "it did not say how it is within {} s",
                        environment.deadlines.query.as_secs()
                    ));
                }
            }
            match queue.claim_work(free).await {
                Ok(claims) => Poll::Claims(claims),
                Err(error) => Poll::Failed(error),
            }
        }));
    }

    /// Clean-ups are bounded: whoever has too many of them claims nothing, and says so when that begins and ends.
    pub(super) fn look_at_clean_ups(&self, state: &mut State) {
        // Each task is among them from its beginning.
        let under_way = state.cleaning.len().saturating_sub(state.running.len());
        let most = CLEAN_UPS_PER_SLOT * self.capacity() as usize;
        let lagging = under_way >= most;
        if lagging != state.lagging {
            state.lagging = lagging;
            if lagging {
                tracing::warn!(
                    under_way,
                    "clean-ups of ended tasks lag behind: nothing is claimed until fewer are left"
                );
            } else {
                tracing::info!(under_way, "clean-ups have caught up: claiming again");
            }
            self.show_pauses(state);
        }
    }

    /// For `tcw-host status`: why nothing is claimed.
    pub(super) fn show_pauses(&self, state: &State) {
        let libraries = state.paused.iter();
        let mut pauses: Vec<String> = libraries
            .map(|(library, reason)| format!("{library}: {reason}"))
            .collect();
        if state.lagging {
            pauses.push("clean-ups of ended tasks lag behind".to_owned());
        }
        self.board.set_pauses(pauses);
    }

    pub(super) async fn polled(&self, state: &mut State, poll: Result<Poll, tokio::task::JoinError>) {
        state.poll = None;
        match poll {
            Ok(Poll::Claims(claims)) => {
                state.failures = 0;
                if let Some((failures, time)) = state.no_claims.ended() {
                    tracing::info!(failures, seconds = time.as_secs(), "the queue answers again");
                }
                if claims.is_empty() {
                    if state.running.is_empty() {
                        let idle = state.idle_since.elapsed();
                        self.report_idle(state, idle);
                    }
                } else {
                    self.start(state, claims).await;
                }
            }
            Ok(Poll::Unwell(reason)) => {
                tracing::warn!(
                    engine = self.environment.engine.name,
                    reason,
                    "the engine is not well: nothing is claimed until it is"
                );
                state.not_before = Some(Instant::now() + PATIENCE);
            }
            Ok(Poll::Broken(reason)) => {
                let engine = &self.environment.engine;
                tracing::error!(engine = engine.name, reason, "the engine cannot say how it is");
                self.unhealthy(state, &engine.library);
            }
            Ok(Poll::Failed(error)) => {
                state.failures = state.failures.saturating_add(1);
                let pause = PATIENCE * state.failures.min(12);
                let pause = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                let (pause_s, failures) = (pause.as_secs(), state.failures);
                if state.no_claims.failed() {
                    tracing::error!(%error, pause_s, failures, "nothing could be claimed; trying again");
                } else {
                    tracing::debug!(%error, pause_s, failures, "nothing could be claimed; trying again");
                }
                state.not_before = Some(Instant::now() + pause);
            }
            Err(error) => {
                tracing::error!(%error, "claiming failed inside the worker");
                state.fatal = Some(Exit::Fatal(format!("claiming failed: {error}")));
            }
        }
    }

    /// Writes the claims down, then starts them; when the worker is stopping, only to resolve them.
    pub(super) async fn start(&self, state: &mut State, mut claims: Vec<Claim>) {
        // A run is claimed once. An answer that came twice must not start what runs here a second time.
        let mut known: HashSet<Key> = state.running.keys().cloned().collect();
        claims.retain(|claim| {
            let new = known.insert((claim.task_id().clone(), claim.run_id));
            if !new {
                tracing::warn!(task_id = %claim.task_id(), run_id = claim.run_id.0, "the queue has given out a run twice");
            }
            new
        });
        if claims.is_empty() {
            return;
        }
        self.board.count(claims.len() as u64);
        let records = claims.iter().map(|claim| ClaimRecord {
            task_id: claim.task_id().clone(),
            run_id: claim.run_id,
            queue: self.options.queue_name.clone(),
            credentials: claim.credentials.clone(),
        });
        let written = tokio::time::timeout(WRITING, self.journal.claimed(records.collect())).await;
        let failure = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!(
                "the journal did not take a claim within {} s",
                WRITING.as_secs()
            )),
        };
        if let Some(failure) = failure {
            tracing::error!(
                error = failure,
                "claims cannot be written down, so they are given back"
            );
            state.fatal = Some(Exit::Fatal(failure.clone()));
            self.stop_now(state, &failure, None);
            for claim in claims {
                let queue = self.queue.for_claim(&claim);
                state.giving_back.spawn(async move {
                    let report = queue.report_exception(ExceptionReason::WorkerShutdown);
                    match tokio::time::timeout(GIVING_BACK, report).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => {
                            tracing::error!(task_id = %claim.task_id(), %error, "a claim could not be given back; it expires");
                        }
                        Err(_) => tracing::error!(task_id = %claim.task_id(), "the queue is away: a claim expires"),
                    }
                });
            }
            return;
        }
        for claim in claims {
            tracing::info!(task_id = %claim.task_id(), run_id = claim.run_id.0, name = claim.task.metadata.name, "claimed");
            self.run_task(state, claim);
        }
    }

    pub(super) fn run_task(&self, state: &mut State, claim: Claim) {
        let key = (claim.task_id().clone(), claim.run_id);
        let (control, receiver) = task_control();
        if state.stop.is_some() || state.fatal.is_some() {
            // It came with a poll that was under way: it goes back to the queue at once.
            control.send(TaskEvent::WorkerShutdown);
        }
        let cleaned = key.clone();
        let queue = self.queue.for_claim(&claim);
        let run = tokio::spawn(task::run(
            Arc::clone(&self.environment),
            claim.clone(),
            Arc::clone(&queue),
            receiver,
        ));
        self.board
            .add(&key.0, key.1, &claim.task.metadata.name, control.clone());
        state.running.insert(key.clone(), control.clone());
        self.listen(state, key.clone(), control.clone(), None);
        let journal = self.journal.clone();
        state.resolving.spawn(async move {
            let report = keep_claim(claim, queue.as_ref(), control, &journal).await;
            let told = match &report {
                Some(report) => report.reported || report.resolution == Resolution::ResolvedElsewhere,
                // The task's own code failed before it could say how it ended.
                None => match queue.report_exception(ExceptionReason::InternalError).await {
                    Ok(_) | Err(QueueError::Conflict { .. }) => true,
                    Err(error) => {
                        tracing::error!(task_id = %key.0, %error, "a task that failed inside the worker was not reported");
                        false
                    }
                },
            };
            if told
                && let Err(error) = journal.resolved(key.0.clone(), key.1).await
            {
                tracing::error!(task_id = %key.0, %error, "the end of a task is not written down");
            }
            (key, report)
        });
        state.cleaning.spawn(async move { (cleaned, run.await) });
    }
}
