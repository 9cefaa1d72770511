//! What all states of one task share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use rand::Rng as _;
use rand::distr::Alphanumeric;
use tcw_abi::engine::Report;
use tcw_abi::services::{LogLevel, TaskContext, TaskInfo};
use tcw_abi::{Error, Handling, Result};

use super::control::{Alarm, TaskControlReceiver, TaskEvent};
use super::environment::TaskEnvironment;
use super::fault::{Cause, Fault};
use super::remains::Remains;
use super::report::{Resolution, TaskReport, WorkerEffect};
use crate::fault_point::fault_point;
use crate::queue::{Claim, Outage, QueueError, TaskQueue, format_time};
use crate::services::context::{Activity, TaskServices};
use crate::services::log::TaskLog;
use crate::services::worker::private_folder;

/// One task of this worker.
pub(super) struct Task {
    pub(super) env: Arc<TaskEnvironment>,
    pub(super) claim: Claim,
    pub(super) queue: Arc<dyn TaskQueue>,
    pub(super) control: TaskControlReceiver,
    pub(super) services: Arc<TaskServices>,
    pub(super) remains: Remains,
    directory: PathBuf,
    begun: Instant,
    findings: Mutex<Findings>,
    views: Mutex<Vec<(String, Weak<dyn TaskContext>)>>,
    log_ended: AtomicBool,
    told: OnceLock<(Resolution, bool)>,
}

/// What the report will say beside the resolution.
#[derive(Default)]
struct Findings {
    incident: Option<String>,
    effect: WorkerEffect,
    unhealthy: BTreeSet<String>,
    sandbox: Option<Report>,
}

/// A folder for a task's own files of the host, and the log in it.
pub(super) fn open_log(env: &TaskEnvironment, claim: &Claim) -> Result<(PathBuf, TaskLog)> {
    let directory = env
        .tasks_directory
        .join(format!("{}_{}", claim.task_id(), claim.run_id));
    // A run is claimed once. If there is such a folder, an earlier process was killed before it could remove it.
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    private_folder(&directory)?;
    let log = TaskLog::new(&directory, env.log.clone())?;
    Ok((directory, log))
}

impl Task {
    pub(super) fn new(
        env: Arc<TaskEnvironment>,
        claim: Claim,
        queue: Arc<dyn TaskQueue>,
        control: TaskControlReceiver,
        directory: PathBuf,
        log: TaskLog,
    ) -> Self {
        let expires = claim.task.expires.unwrap_or(claim.status.expires);
        let info = TaskInfo {
            task_id: claim.task_id().to_string(),
            run_id: claim.run_id.0,
            definition: serde_json::to_value(&claim.task).unwrap_or_default(),
            deadline: format_time(claim.task.deadline),
            expires: format_time(expires),
            scopes: claim.task.scopes.clone(),
            task_group_id: claim
                .task
                .task_group_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            worker_pool_id: env.worker.worker_pool_id.clone(),
            worker_group: claim.worker_group.clone(),
            worker_id: claim.worker_id.clone(),
            root_url: env.worker.root_url.clone(),
        };
        let services = TaskServices::new(
            info,
            expires,
            Arc::clone(&env.services),
            Arc::clone(&queue),
            log,
            directory.clone(),
        );
        Task {
            remains: Remains::new(Arc::clone(&env)),
            env,
            claim,
            queue,
            control,
            services,
            directory,
            begun: Instant::now(),
            findings: Mutex::default(),
            views: Mutex::default(),
            log_ended: AtomicBool::new(false),
            told: OnceLock::new(),
        }
    }

    /// What one library sees of the task, and how to tell whether it is using it.
    pub(super) fn view(&self, library: &str) -> (Arc<dyn TaskContext>, Arc<Activity>) {
        let activity = Arc::new(Activity::default());
        let view = self.services.view(Arc::clone(&activity));
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.push((library.to_owned(), Arc::downgrade(&view)));
        (view, activity)
    }

    /// Tells the operator, later, which libraries have not let go of a task that is disposed of. What else they keep
    /// for it (threads, descriptors, memory) nobody can see from here.
    pub(super) fn look_for_leaks(&self) {
        let views = std::mem::take(&mut *self.views.lock().unwrap_or_else(PoisonError::into_inner));
        let (task, run) = (self.claim.task_id().clone(), self.claim.run_id.0);
        let patience = self.env.deadlines.query;
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            for (library, _) in views.iter().filter(|(_, view)| view.strong_count() > 0) {
                tracing::warn!(
                    task_id = %task,
                    run_id = run,
                    library,
                    "the library still holds a task that ended {} s ago: it may leak threads, descriptors and memory",
                    patience.as_secs_f64()
                );
            }
        });
    }

    /// A line in the task log. After its end nobody needs it.
    pub(super) async fn say(&self, level: LogLevel, text: impl Into<String>) {
        if let Err(error) = self.services.log().line(level, text.into()).await {
            tracing::debug!(task_id = %self.claim.task_id(), %error, "a line for the task log came too late");
        }
    }

    /// Ends the log: when and why the task ended, then nothing more. Once.
    pub(super) async fn end_log(&self, lines: &[String]) {
        if self.log_ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.say(LogLevel::Info, "=== Task Finished ===").await;
        let seconds = self.begun.elapsed().as_secs_f64();
        self.say(LogLevel::Info, format!("Task Duration: {seconds:.2}s"))
            .await;
        for line in lines {
            self.say(LogLevel::Error, line).await;
        }
        self.services.log().close().await;
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how the sandbox went.
    pub(super) fn note_sandbox(&self, report: Report) {
        self.findings().sandbox = Some(report);
    }

    /// Takes faults into account that decide how the task ends.
    pub(super) fn note(&self, faults: &[Fault]) {
        for fault in faults {
            match fault.error.kind().handling() {
                Handling::NonFatal => self.worsen(WorkerEffect::NonFatal, fault),
                Handling::Fatal => self.worsen(WorkerEffect::Fatal, fault),
                _ => tracing::info!(
                    task_id = %self.claim.task_id(),
                    run_id = self.claim.run_id.0,
                    library = fault.library,
                    call = fault.place,
                    error = %fault.error,
                    "a library could not do its part of the task"
                ),
            }
        }
    }

    /// Takes faults into account that came when it was decided how the task ends: what was being done fails because
    /// it was told to stop, which is no news. A library that hangs or panics is, and so is a fatal error.
    pub(super) fn note_late(&self, faults: &[Fault]) {
        for fault in faults {
            match fault.error.kind().handling() {
                Handling::Fatal => self.worsen(WorkerEffect::Fatal, fault),
                _ if fault.unhealthy => self.worsen(WorkerEffect::NonFatal, fault),
                _ => tracing::debug!(
                    task_id = %self.claim.task_id(),
                    run_id = self.claim.run_id.0,
                    library = fault.library,
                    call = fault.place,
                    error = %fault.error,
                    "an error while the task is ended"
                ),
            }
        }
    }

    /// The cause of several faults, which are taken into account.
    pub(super) fn cause(&self, faults: Vec<Fault>) -> Option<Cause> {
        self.note(&faults);
        // Whose it is, should it turn out to be an error of ours.
        let place = faults
            .first()
            .map(|fault| (fault.library.clone(), fault.place.clone()));
        let cause = Cause::of(faults)?;
        if let Cause::Exception(_, error) = &cause
            && matches!(error.kind().handling(), Handling::NonFatal | Handling::Fatal)
        {
            // An echo without its event became an error of ours only just now.
            let mut findings = self.findings();
            if findings.effect == WorkerEffect::None {
                drop(findings);
                let (library, place) = place.unwrap_or_default();
                let fault = Fault {
                    library,
                    place,
                    ..Fault::of_host(error.clone())
                };
                self.worsen(WorkerEffect::NonFatal, &fault);
            } else {
                findings.incident.get_or_insert_with(incident);
            }
        }
        Some(cause)
    }

    fn worsen(&self, effect: WorkerEffect, fault: &Fault) {
        let incident = {
            let mut findings = self.findings();
            findings.effect = findings.effect.max(effect);
            if fault.unhealthy && !fault.library.is_empty() {
                findings.unhealthy.insert(fault.library.clone());
            }
            findings.incident.get_or_insert_with(incident).clone()
        };
        tracing::error!(
            task_id = %self.claim.task_id(),
            run_id = self.claim.run_id.0,
            incident,
            library = fault.library,
            kind = fault.error.kind().name(),
            detail = %fault.error.detail(),
            unhealthy = fault.unhealthy,
            "{}: {}",
            fault.place,
            fault.error.message()
        );
        if effect == WorkerEffect::Fatal {
            self.control.alarm(Alarm::Fatal);
        } else if fault.unhealthy && !fault.library.is_empty() {
            self.control.alarm(Alarm::Unhealthy(fault.library.clone()));
        }
    }

    /// The incident of this task, if there is one.
    pub(super) fn incident(&self) -> Option<String> {
        self.findings().incident.clone()
    }

    /// The report as it stands.
    pub(super) fn report(&self, resolution: Resolution, reported: bool) -> TaskReport {
        let findings = self.findings();
        TaskReport {
            resolution,
            reported,
            incident: findings.incident.clone(),
            effect: findings.effect,
            unhealthy: findings.unhealthy.clone(),
            sandbox: findings.sandbox.clone(),
        }
    }

    /// Tells the queue, unless the run is over for it already. Answers what became of the task.
    ///
    /// A queue that is away is asked again for as long as there is a claim, which is renewed meanwhile; when the worker
    /// shuts down, for a short time only.
    ///
    /// What was told stands, also if the host panics after that and would tell something else.
    pub(super) async fn tell_queue(&self, resolution: Resolution) -> (Resolution, bool) {
        if let Some(told) = self.told.get() {
            return *told;
        }
        let told = self.tell(resolution).await;
        *self.told.get_or_init(|| told)
    }

    async fn tell(&self, resolution: Resolution) -> (Resolution, bool) {
        if self.control.is_resolved_elsewhere() {
            return (Resolution::ResolvedElsewhere, false);
        }
        self.control.begin_report();
        let deadlines = &self.env.deadlines;
        let shutdown = async {
            // The worker stops because of this task, which is not given up.
            if self.findings().effect != WorkerEffect::Fatal {
                self.control.given_up().await;
            }
            tokio::time::sleep(deadlines.report_at_shutdown).await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = self.report_until_taken(resolution) => outcome.map_err(|error| error.to_string()),
            event = self.control.resolved_elsewhere() => {
                tracing::warn!(
                    task_id = %self.claim.task_id(),
                    run_id = self.claim.run_id.0,
                    ?resolution,
                    ?event,
                    "the end of this run was not reported before it was over for the queue"
                );
                return (Resolution::ResolvedElsewhere, false);
            }
            () = shutdown => Err(format!(
                "the queue did not take it within {} s, and the worker shuts down",
                deadlines.report_at_shutdown.as_secs_f64()
            )),
        };
        fault_point!("task.reported");
        match outcome {
            Ok(resolution) => (resolution, resolution != Resolution::ResolvedElsewhere),
            Err(error) => {
                let error = Error::internal(format!("the end of this run cannot be reported: {error}"));
                self.worsen(WorkerEffect::NonFatal, &Fault::of_host(error));
                (resolution, false)
            }
        }
    }

    /// Reports until the queue answers: with the resolution that stands, or with an error that asking again cannot mend.
    async fn report_until_taken(&self, resolution: Resolution) -> Result<Resolution, QueueError> {
        let mut outage = Outage::default();
        loop {
            let outcome = match resolution {
                Resolution::Completed => self.queue.report_completed().await.map(drop),
                Resolution::Failed => self.queue.report_failed().await.map(drop),
                Resolution::Exception(reason) => self.queue.report_exception(reason).await.map(drop),
                Resolution::ResolvedElsewhere => Ok(()),
            };
            match outcome {
                Ok(()) => return Ok(resolution),
                Err(QueueError::Conflict { message, .. }) => {
                    tracing::info!(
                        task_id = %self.claim.task_id(),
                        run_id = self.claim.run_id.0,
                        message,
                        "the queue has resolved this run before us"
                    );
                    return Ok(Resolution::ResolvedElsewhere);
                }
                Err(error) if error.is_transient() => {
                    let pause = self.env.deadlines.report_again;
                    let pause = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
                    if outage.failed() {
                        tracing::warn!(
                            task_id = %self.claim.task_id(),
                            run_id = self.claim.run_id.0,
                            %error,
                            ?pause,
                            "the end of this run could not be reported; trying again"
                        );
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the task's folder.
    pub(super) async fn remove_directory(&self) {
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(folder = %self.directory.display(), %error, "a task's folder is left behind");
        }
    }
}

/// What the author of the task reads about an event.
pub(super) fn explain(event: TaskEvent) -> &'static str {
    match event {
        TaskEvent::Cancelled => "The task was cancelled.",
        TaskEvent::Deadline => "The task's deadline has passed.",
        TaskEvent::ClaimLost => "The worker could not renew its claim on the task, and gives it up.",
        TaskEvent::WorkerShutdown => "The worker is shutting down. The queue will have the task run again.",
        TaskEvent::MaxRunTime(_) => "The task ran for longer than it may.",
    }
}

/// Short enough to be read out, long enough not to meet another one in a worker's logs.
fn incident() -> String {
    let random = rand::rng().sample_iter(&Alphanumeric).take(8);
    random.map(char::from).collect()
}
