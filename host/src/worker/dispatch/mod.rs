//! The dispatcher: one ordered stream of events, and the truth about what runs.

mod claiming;
mod ending;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinHandle, JoinSet};

use self::claiming::Poll;
use self::ending::Applied;
use super::cancellation;
use super::control::{Command, Commands, Stop};
use super::journal::Journal;
use super::options::{Exit, WorkerOptions};
use super::status::Board;
use crate::queue::{Outage, Queue, QueueError, RunId, TaskId, TaskStatus};
use crate::task::{Alarm, TaskControl, TaskEnvironment, TaskEvent, TaskReport};

/// How often a queue in this process is asked to end a poll that keeps the worker from leaving: the first time, the
/// poll may not have reached it yet.
const RELEASE: Duration = Duration::from_millis(100);

type Key = (TaskId, RunId);

/// A worker that is ready to run.
pub struct Worker {
    environment: Arc<TaskEnvironment>,
    queue: Arc<dyn Queue>,
    journal: Journal,
    options: WorkerOptions,
    commands: UnboundedReceiver<Command>,
    release_polls: Option<Box<dyn Fn() + Send + Sync>>,
    board: Board,
}

/// What is going on.
struct State {
    /// Tasks that hold a slot.
    running: HashMap<Key, TaskControl>,
    /// Keepers of claims; each ends when its task is resolved.
    resolving: JoinSet<(Key, Option<TaskReport>)>,
    /// Tasks that were resolved and still clean up.
    cleaning: JoinSet<(Key, Result<TaskReport, tokio::task::JoinError>)>,
    /// Claims that could not be written down, on their way back.
    giving_back: JoinSet<()>,
    /// Plugins that are told something; each answers its library if that turned out to be unhealthy.
    telling: JoinSet<Option<String>>,
    /// Tasks that may have news which concern all of them.
    alarms: JoinSet<(Key, TaskControl, Option<Alarm>)>,
    /// What tasks have already meant for the worker.
    applied: Applied,
    poll: Option<JoinHandle<Poll>>,
    statuses: Option<JoinHandle<Result<Vec<TaskStatus>, QueueError>>>,
    /// Not before this is anything claimed again.
    not_before: Option<Instant>,
    failures: u32,
    /// The queue gives no tasks, or says nothing about cancellations.
    no_claims: Outage,
    no_statuses: Outage,
    idle_since: Instant,
    stop: Option<Stop>,
    stop_by: Option<tokio::time::Instant>,
    paused: BTreeMap<String, String>,
    /// Claiming waits for clean-ups.
    lagging: bool,
    fatal: Option<Exit>,
}

impl Worker {
    /// A worker for these tasks. The other end of `commands` is the way to stop it.
    pub fn new(
        environment: Arc<TaskEnvironment>,
        queue: Arc<dyn Queue>,
        journal: Journal,
        options: WorkerOptions,
        commands: Commands,
    ) -> Self {
        Worker {
            environment,
            queue,
            journal,
            options,
            commands: commands.0,
            release_polls: None,
            board: Board::default(),
        }
    }

    /// The tasks that hold a slot, for [`status::serve`](super::status::serve).
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Goes on with a board on which others have written before: that of the libraries' last generation.
    #[must_use]
    pub fn on_board(mut self, board: Board) -> Self {
        self.board = board;
        self
    }

    /// `release` makes the queue answer polls at once: for a queue in this process, where nothing is lost by it. Without
    /// it, a worker that leaves waits until its last poll has ended.
    #[must_use]
    pub fn releasing_polls(mut self, release: impl Fn() + Send + Sync + 'static) -> Self {
        self.release_polls = Some(Box::new(release));
        self
    }

    /// Tasks at one time: what was asked for, or what the engine can do if that is less.
    fn capacity(&self) -> u32 {
        let most = self
            .environment
            .engine
            .description
            .max_concurrency
            .unwrap_or(u32::MAX);
        self.options.capacity.clamp(1, most.max(1))
    }

    /// Works until it is told to stop, or has reason to. Every claim that it ever received is resolved then, unless
    /// the queue is away, and then the journal has it.
    pub async fn run(mut self) -> Exit {
        let mut state = State {
            running: HashMap::new(),
            resolving: JoinSet::new(),
            cleaning: JoinSet::new(),
            giving_back: JoinSet::new(),
            telling: JoinSet::new(),
            alarms: JoinSet::new(),
            applied: Applied::default(),
            poll: None,
            statuses: None,
            not_before: None,
            failures: 0,
            no_claims: Outage::default(),
            no_statuses: Outage::default(),
            idle_since: Instant::now(),
            stop: None,
            stop_by: None,
            paused: BTreeMap::new(),
            lagging: false,
            fatal: None,
        };
        // What libraries of an earlier generation had to say about it.
        self.board.set_pauses(Vec::new());
        let mut cancellations = Box::pin(tokio::time::sleep(self.next_question()));
        // Who has said already that nothing is to be claimed was first.
        while let Ok(command) = self.commands.try_recv() {
            self.obey(&mut state, command);
        }
        loop {
            self.claim_if_free(&mut state);
            if let Some(exit) = self.ended(&state) {
                self.dispose(&mut state).await;
                // What the last clean-ups found out counts too.
                return state.fatal.unwrap_or(exit);
            }
            if self.waits_for_poll_only(&state)
                && let Some(release) = &self.release_polls
            {
                release();
            }
            let wake = self.next_wake(&state);
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => self.obey(&mut state, command),
                Some(alarmed) = state.alarms.join_next() => self.alarmed(&mut state, alarmed),
                Some(ended) = state.resolving.join_next() => self.resolved(&mut state, ended).await,
                poll = wait(&mut state.poll) => self.polled(&mut state, poll).await,
                Some(cleaned) = state.cleaning.join_next() => self.cleaned(&mut state, cleaned),
                Some(_) = state.giving_back.join_next() => {}
                Some(told) = state.telling.join_next() => {
                    if let Ok(Some(library)) = told {
                        self.unhealthy(&mut state, &library);
                    }
                }
                statuses = wait(&mut state.statuses) => self.heard(&mut state, statuses),
                () = &mut cancellations => {
                    cancellations.set(tokio::time::sleep(self.next_question()));
                    self.ask_statuses(&mut state);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// How long until the queue is asked about cancellations: at most the interval, and not at the same moment as the
    /// workers that were started together with this one.
    fn next_question(&self) -> Duration {
        let interval = self.options.cancellation_interval;
        interval.mul_f64(rand::rng().random_range(0.8..=1.0))
    }

    /// When to look again although nothing happens.
    fn next_wake(&self, state: &State) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let release = self.release_polls.is_some() && self.waits_for_poll_only(state);
        [
            release.then(|| Instant::now() + RELEASE),
            state.not_before,
            state.stop_by.map(tokio::time::Instant::into_std),
            self.options
                .idle_timeout
                .filter(|_| state.running.is_empty() && !self.is_idle(state))
                .map(|idle| state.idle_since + idle),
        ]
        .into_iter()
        .flatten()
        .fold(far, Instant::min)
        .max(Instant::now() + Duration::from_millis(1))
    }

    fn ended(&self, state: &State) -> Option<Exit> {
        if state
            .stop_by
            .is_some_and(|bound| tokio::time::Instant::now() >= bound)
        {
            let left = state.running.len();
            return Some(Exit::Fatal(format!(
                "{left} tasks did not end within {} s; the next start resolves them",
                self.options.shutdown_bound.as_secs()
            )));
        }
        if !state.running.is_empty() || state.poll.is_some() || !state.giving_back.is_empty() {
            return None;
        }
        let reload = self.options.reload && matches!(state.fatal, Some(Exit::Unhealthy(_)));
        if let Some(fatal) = &state.fatal
            && !reload
        {
            return Some(fatal.clone());
        }
        match &state.stop {
            Some(Stop::Now(reason)) => return Some(Exit::Now(reason.clone())),
            Some(Stop::Graceful(reason)) => return Some(Exit::Graceful(reason.clone())),
            None => {}
        }
        if self
            .options
            .number_of_tasks
            .is_some_and(|most| self.board.claimed() >= most)
        {
            return Some(Exit::Done);
        }
        if reload {
            return state.fatal.clone();
        }
        self.is_idle(state).then_some(Exit::Idle)
    }

    /// Nothing has run for the whole idle time-out.
    fn is_idle(&self, state: &State) -> bool {
        let bound = self.options.idle_timeout;
        state.running.is_empty() && bound.is_some_and(|bound| state.idle_since.elapsed() >= bound)
    }

    /// A poll is under way, and what it brings is not wanted any more.
    fn waits_for_poll_only(&self, state: &State) -> bool {
        state.poll.is_some() && (state.stop.is_some() || state.fatal.is_some() || self.is_idle(state))
    }

    fn obey(&self, state: &mut State, command: Command) {
        match command {
            Command::Stop(Stop::Graceful(reason)) => {
                if state.stop.is_none() {
                    tracing::info!(
                        reason,
                        running = state.running.len(),
                        "stopping after the running tasks"
                    );
                    state.stop = Some(Stop::Graceful(reason));
                }
            }
            Command::Stop(Stop::Now(reason)) => {
                tracing::info!(reason, running = state.running.len(), "stopping now");
                self.stop_now(state, &reason, None);
            }
            Command::Pause { library, reason } => {
                tracing::warn!(library, reason, "claiming is paused");
                state.paused.insert(library, reason);
                self.show_pauses(state);
            }
            Command::Resume { library } => {
                tracing::info!(library, "claiming is not paused by this library any more");
                state.paused.remove(&library);
                self.show_pauses(state);
            }
        }
    }

    /// Gives up what runs, except the task because of which that happens: it has its end already.
    fn stop_now(&self, state: &mut State, reason: &str, but: Option<&Key>) {
        // Before anything goes back to the queue: a poll that waits there would bring it here again.
        if state.poll.is_some()
            && let Some(release) = &self.release_polls
        {
            release();
        }
        if !matches!(state.stop, Some(Stop::Now(_))) {
            state.stop = Some(Stop::Now(reason.to_owned()));
            state.stop_by = Some(tokio::time::Instant::now() + self.options.shutdown_bound);
        }
        for (_, control) in state.running.iter().filter(|(key, _)| Some(*key) != but) {
            control.send(TaskEvent::WorkerShutdown);
        }
    }

    fn ask_statuses(&self, state: &mut State) {
        if state.statuses.is_some() || state.running.is_empty() {
            return;
        }
        let queue = Arc::clone(&self.queue);
        let tasks: Vec<TaskId> = state.running.keys().map(|(task, _)| task.clone()).collect();
        state.statuses = Some(tokio::spawn(async move { queue.statuses(&tasks).await }));
    }

    fn heard(
        &self,
        state: &mut State,
        statuses: Result<Result<Vec<TaskStatus>, QueueError>, tokio::task::JoinError>,
    ) {
        let statuses = match statuses {
            Ok(Ok(statuses)) => statuses,
            Ok(Err(error)) => {
                if state.no_statuses.failed() {
                    tracing::warn!(%error, "the queue could not be asked about cancellations; asking again later");
                }
                return;
            }
            Err(error) => {
                tracing::error!(%error, "asking about cancellations failed inside the worker");
                return;
            }
        };
        state.no_statuses.ended();
        for status in statuses {
            for ((task, run), control) in &state.running {
                if *task == status.task_id
                    && let Some(event) = cancellation::event_for(&status, *run)
                {
                    tracing::info!(task_id = %task, ?event, "the queue has resolved a task that runs here");
                    control.send(event);
                }
            }
        }
    }
}

/// Waits for a call that may not be there, and takes it away.
async fn wait<T>(call: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match call {
        Some(handle) => {
            let result = handle.await;
            *call = None;
            result
        }
        None => std::future::pending().await,
    }
}
