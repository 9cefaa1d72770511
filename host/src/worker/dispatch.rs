//! The dispatcher: one ordered stream of events, and the truth about what runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tcw_abi::ErrorKind;
use tcw_abi::plugin::Plugin;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinHandle, JoinSet};

use super::cancellation;
use super::control::{Command, Commands, Stop};
use super::journal::{ClaimRecord, Journal};
use super::options::{Exit, WorkerOptions};
use super::status::Board;
use super::supervise::keep_claim;
use crate::queue::{Claim, ExceptionReason, Outage, Queue, QueueError, RunId, TaskId, TaskStatus};
use crate::task::{
    self, Alarm, Resolution, TaskControl, TaskEnvironment, TaskEvent, TaskReport, WorkerEffect, task_control,
};

/// At most so many tasks a call: the queue's own bound.
const MOST_CLAIMS: u32 = 32;

/// After this many clean-ups under way for each slot, claiming waits for them.
const CLEAN_UPS_PER_SLOT: usize = 2;

/// How long an engine that is not well, or a queue that does not answer, is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a queue in this process is asked to end a poll that keeps the worker from leaving: the first time, the
/// poll may not have reached it yet.
const RELEASE: Duration = Duration::from_millis(100);

/// How long writing a claim down may take: longer, and the disk is not one that can be relied on.
const WRITING: Duration = Duration::from_secs(30);

/// How long giving back a claim may take, of which nothing has begun.
const GIVING_BACK: Duration = Duration::from_secs(30);

/// How long the engine, or a plugin, may take for its last call when the worker ends.
const DISPOSAL: Duration = Duration::from_secs(30);

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
    /// What the tasks that clean up have already meant for the worker.
    applied: HashMap<Key, WorkerEffect>,
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

/// How an attempt to claim ended.
enum Poll {
    Claims(Vec<Claim>),
    Unwell(String),
    Broken(String),
    Failed(QueueError),
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
            applied: HashMap::new(),
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

    fn claim_if_free(&self, state: &mut State) {
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
    fn look_at_clean_ups(&self, state: &mut State) {
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
    fn show_pauses(&self, state: &State) {
        let libraries = state.paused.iter();
        let mut pauses: Vec<String> = libraries
            .map(|(library, reason)| format!("{library}: {reason}"))
            .collect();
        if state.lagging {
            pauses.push("clean-ups of ended tasks lag behind".to_owned());
        }
        self.board.set_pauses(pauses);
    }

    async fn polled(&self, state: &mut State, poll: Result<Poll, tokio::task::JoinError>) {
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
    async fn start(&self, state: &mut State, claims: Vec<Claim>) {
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

    fn run_task(&self, state: &mut State, claim: Claim) {
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

    async fn resolved(
        &self,
        state: &mut State,
        ended: Result<(Key, Option<TaskReport>), tokio::task::JoinError>,
    ) {
        let Ok((key, report)) = ended else {
            tracing::error!("a task's supervisor failed; the worker stops so that its claim is looked after");
            self.stop_now(state, "a task's supervisor failed", None);
            state.fatal = Some(Exit::Fatal("a task's supervisor failed".into()));
            return;
        };
        state.running.remove(&key);
        self.board.remove(&key.0, key.1);
        if state.running.is_empty() {
            state.idle_since = Instant::now();
        }
        let Some(report) = report else {
            self.report_non_fatal(state);
            return;
        };
        state.applied.insert(key.clone(), report.effect);
        self.apply(state, &key, &report, WorkerEffect::None);
    }

    /// A task has cleaned up, and what went wrong in that counts too.
    fn cleaned(
        &self,
        state: &mut State,
        cleaned: Result<(Key, Result<TaskReport, tokio::task::JoinError>), tokio::task::JoinError>,
    ) {
        let Ok((key, Ok(report))) = cleaned else { return };
        let before = state.applied.remove(&key).unwrap_or_default();
        self.apply(state, &key, &report, before);
    }

    /// What has happened in a task means something for the worker, however long the task takes to end.
    fn alarmed(
        &self,
        state: &mut State,
        alarmed: Result<(Key, TaskControl, Option<Alarm>), tokio::task::JoinError>,
    ) {
        let Ok((key, control, Some(alarm))) = alarmed else {
            return;
        };
        match &alarm {
            Alarm::Unhealthy(library) => self.unhealthy(state, library),
            Alarm::Fatal => self.fatal(state, &key),
        }
        self.listen(state, key, control, Some(alarm));
    }

    /// Waits for alarms of a task beyond this one.
    fn listen(&self, state: &mut State, key: Key, control: TaskControl, beyond: Option<Alarm>) {
        state.alarms.spawn(async move {
            let alarm = control.alarmed(beyond).await;
            (key, control, alarm)
        });
    }

    /// A task has met an error after which the worker cannot go on.
    fn fatal(&self, state: &mut State, key: &Key) {
        if matches!(state.fatal, Some(Exit::Fatal(_))) {
            return;
        }
        tracing::error!(task_id = %key.0, "a library reported a fatal error: the worker stops now");
        let reason = format!(
            "a library reported a fatal error in task {} (see the log above)",
            key.0
        );
        state.fatal = Some(Exit::Fatal(reason.clone()));
        self.stop_now(state, &reason, Some(key));
    }

    /// What a task's end means for the worker, beyond what it has meant `before`.
    fn apply(&self, state: &mut State, key: &Key, report: &TaskReport, before: WorkerEffect) {
        match report.effect {
            effect if effect <= before => {}
            WorkerEffect::None => {}
            WorkerEffect::NonFatal => self.report_non_fatal(state),
            WorkerEffect::Fatal => self.fatal(state, key),
        }
        if let Some(library) = report.unhealthy.first() {
            self.unhealthy(state, library);
        }
    }

    /// A library panicked or hung.
    fn unhealthy(&self, state: &mut State, library: &str) {
        if state.fatal.is_none() {
            let then = if self.options.reload {
                "fresh copies of all libraries are loaded after the running tasks"
            } else {
                "the worker leaves"
            };
            tracing::error!(
                library,
                "the library is unhealthy: nothing more is claimed, and {then}"
            );
            state.fatal = Some(Exit::Unhealthy(library.to_owned()));
        }
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

    fn report_idle(&self, state: &mut State, idle: Duration) {
        self.tell_plugins(state, "report_idle", move |plugin| async move {
            plugin.report_idle(idle).await
        });
    }

    fn report_non_fatal(&self, state: &mut State) {
        self.tell_plugins(state, "report_non_fatal_error", |plugin| async move {
            plugin.report_non_fatal_error().await
        });
    }

    /// In the background; a plugin that does not return in time is left alone, and what it holds with it.
    fn tell_plugins<F, Told>(&self, state: &mut State, what: &'static str, tell: F)
    where
        F: Fn(Arc<dyn Plugin>) -> Told,
        Told: Future<Output = tcw_abi::Result<()>> + Send + 'static,
    {
        let bound = self.environment.deadlines.query;
        for plugin in &self.environment.plugins {
            let (name, library) = (plugin.name.clone(), plugin.library.clone());
            let told = tell(Arc::clone(&plugin.plugin));
            state.telling.spawn(async move {
                match tokio::time::timeout(bound, told).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => {
                        tracing::warn!(plugin = name, %error, "{what} failed");
                        (error.kind() == ErrorKind::Panicked).then_some(library)
                    }
                    Err(_) => {
                        let seconds = bound.as_secs_f64();
                        tracing::warn!(plugin = name, "{what} did not return within {seconds} s");
                        Some(library)
                    }
                }
            });
        }
    }

    /// The end: clean-ups, plugins, engine, each within a bound.
    async fn dispose(&mut self, state: &mut State) {
        let bound = state
            .stop_by
            .unwrap_or_else(|| tokio::time::Instant::now() + self.options.shutdown_bound);
        let bound = bound.max(tokio::time::Instant::now() + Duration::from_secs(5));
        let cleaned = tokio::time::timeout_at(bound, async {
            while !state.cleaning.is_empty() {
                tokio::select! {
                    // No task is left that could be told, but whoever asks is answered.
                    Some(command) = self.commands.recv() => self.obey(state, command),
                    Some(cleaned) = state.cleaning.join_next() => self.cleaned(state, cleaned),
                }
            }
        });
        if cleaned.await.is_err() {
            tracing::error!(
                left = state.cleaning.len(),
                "clean-ups did not end in time; the next start goes on with them"
            );
        }
        let bound = DISPOSAL.min(self.environment.deadlines.call);
        let disposals = self.environment.plugins.iter().map(|plugin| async move {
            dispose_of(&plugin.name, plugin.plugin.dispose(), bound).await;
        });
        futures_util::future::join_all(disposals).await;
        dispose_of(
            &self.environment.engine.name,
            self.environment.engine.engine.dispose(),
            bound,
        )
        .await;
    }
}

async fn dispose_of(name: &str, disposal: impl Future<Output = tcw_abi::Result<()>>, bound: Duration) {
    match tokio::time::timeout(bound, disposal).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(name, %error, "dispose failed"),
        Err(_) => tracing::error!(
            name,
            "dispose did not return within {} s; it is left to itself",
            bound.as_secs_f64()
        ),
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
