//! A worker and its libraries, which may be loaded afresh while it works.
//!
//! A *generation* is everything that libraries are asked to make: engine, plugins, the payload schema of both, and the
//! services and the control that they were given. When one of them panicked or hung and the configuration says `reload`,
//! the worker ends as it always does (nothing more is claimed, tasks end, everything is disposed of), and the next
//! generation is made of fresh copies of all libraries. What outlives it are the queue and its client, the journal, the
//! status socket and the signals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::disk::Space;
use super::outcome::Failure;
use super::start::Parts;
use crate::config::Config;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{QueueClient, WorkerPoolId};
use crate::services::log::LogOptions;
use crate::worker::status::Board;
use crate::worker::{Command, Control, Exit, Stop, Worker, WorkerOptions};

/// Generations that may follow each other within [`PERIOD`]. A library that keeps failing is for somebody to look at,
/// and each generation leaves the memory and the threads of the one before.
const MOST: usize = 3;
const PERIOD: Duration = Duration::from_secs(3600);

/// What stays from one generation to the next.
pub(super) struct Generations<'a> {
    pub(super) config: &'a Config,
    pub(super) pool: WorkerPoolId,
    pub(super) client: Arc<QueueClient>,
    pub(super) embedded: Option<Arc<EmbeddedQueue>>,
    pub(super) options: WorkerOptions,
    pub(super) board: Board,
    /// For `tcw-host status`.
    pub(super) about: watch::Sender<Value>,
    /// What the signals have said last.
    pub(super) stops: watch::Receiver<Option<Stop>>,
}

impl Generations<'_> {
    /// Works until there is a reason to leave.
    pub(super) async fn run(&self, first: Parts) -> Result<Exit, Failure> {
        let mut reloads = Reloads::default();
        let mut parts = first;
        loop {
            let renewal = parts.renewal();
            let exit = self.work(parts).await?;
            if !self.options.reload || !matches!(exit, Exit::Unhealthy(_)) {
                return Ok(exit);
            }
            if !reloads.one_more(Instant::now()) {
                tracing::error!(
                    "fresh copies of the libraries were loaded {MOST} times within {} minutes: that does not help",
                    PERIOD.as_secs() / 60
                );
                return Ok(exit);
            }
            tracing::warn!("loading fresh copies of all libraries");
            let mut stops = self.stops.clone();
            parts = tokio::select! {
                biased;
                exit = told_to_stop(&mut stops) => return Ok(exit),
                parts = renewal.parts(self.config) => parts?,
            };
            parts.warn(self.config);
            if let Some(embedded) = &self.embedded {
                parts.publish(embedded, &self.pool);
            }
            self.about.send_modify(|about| describe(about, &parts));
            tracing::info!(generation = parts.generation(), "waiting for tasks again");
        }
    }

    async fn work(&self, parts: Parts) -> Result<Exit, Failure> {
        let control = parts.control.clone();
        let journal = parts.journal.clone();
        let (environment, commands) = parts.environment(self.config, &self.pool, LogOptions::default());
        let queue = Arc::clone(&self.client);
        let mut worker = Worker::new(environment, queue, journal, self.options.clone(), commands)
            .on_board(self.board.clone());
        if let Some(embedded) = &self.embedded {
            let embedded = Arc::downgrade(embedded);
            worker = worker.releasing_polls(move || {
                if let Some(embedded) = embedded.upgrade() {
                    embedded.release_polls();
                }
            });
        }
        // A generation of its own begins without a pause.
        self.about.send_modify(|about| about["paused"] = Value::Null);
        let space = Space::of(self.config);
        space.look(&control, &self.about);
        tokio::select! {
            exit = tokio::spawn(worker.run()) => exit.map_err(Failure::general),
            never = space.watch(&control, &self.about) => never,
            never = pass_on(self.stops.clone(), &control) => never,
        }
    }
}

/// Tells a generation what the signals say, and said before it was there.
async fn pass_on<T>(mut stops: watch::Receiver<Option<Stop>>, control: &Control) -> T {
    loop {
        let stop = stops.borrow_and_update().clone();
        if let Some(stop) = stop {
            control.send(Command::Stop(stop));
        }
        if stops.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The end of a worker that is told to stop while nothing runs.
async fn told_to_stop(stops: &mut watch::Receiver<Option<Stop>>) -> Exit {
    match stops.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Stop::Graceful(reason))) => Exit::Graceful(reason.clone()),
        Ok(Some(Stop::Now(reason))) => Exit::Now(reason.clone()),
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Puts what depends on the libraries into `about`.
pub(super) fn describe(about: &mut Value, parts: &Parts) {
    let libraries = parts.assembly.libraries.iter().map(|library| {
        json!({
            "name": library.manifest.name,
            "version": library.manifest.version,
            "sha256": library.sha256,
            "path": library.source,
        })
    });
    about["libraries"] = libraries.collect();
    about["engine"] = parts.assembly.engine.name.as_str().into();
    about["generation"] = parts.generation().into();
}

/// When the last ones were.
#[derive(Default)]
struct Reloads(VecDeque<Instant>);

impl Reloads {
    /// Whether there may be one more now; then it counts.
    fn one_more(&mut self, now: Instant) -> bool {
        while self
            .0
            .front()
            .is_some_and(|time| now.duration_since(*time) >= PERIOD)
        {
            self.0.pop_front();
        }
        let may = self.0.len() < MOST;
        if may {
            self.0.push_back(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_bounded_within_a_period_and_allowed_again_after_it() {
        let mut reloads = Reloads::default();
        let begun = Instant::now();
        for _ in 0..MOST {
            assert!(reloads.one_more(begun));
        }
        assert!(!reloads.one_more(begun + PERIOD - Duration::from_secs(1)));
        assert!(reloads.one_more(begun + PERIOD));
    }
}
