//! The one thread that owns the embedded queue's state. Calls reach it as jobs and are done one after the other, so that
//! there are no races to think about; it also is what lets deadlines and claims pass, at the moment they do.
//!
//! SQLite is the truth. What is held in memory besides (who is next in line, what happens when) is an index over the
//! tasks that have not ended, and is built anew from the database whenever a job fails halfway.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::error::ApiError;
use super::index::Index;
use super::record::{Millis, ReasonCreated, Task};
use super::store::Store;
use crate::queue::{Requires, TaskState};

/// The longest sleep: a clock that is set forward is noticed within it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How many milliseconds after a failure what is due is attempted again.
const RETRY_TIMER: Millis = 5000;

/// The time.
pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// The queue's own time: deadlines, claims and expiry go by it. It is the machine's, unless a test has moved it on.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    ahead: Arc<AtomicI64>,
}

impl Clock {
    pub(super) fn now(&self) -> Millis {
        now().saturating_add(self.ahead.load(Ordering::Acquire))
    }
}

type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// The way to the thread.
pub(super) struct CoreHandle {
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    wakers: Arc<Wakers>,
    clock: Clock,
}

impl CoreHandle {
    /// Reads what is active from the database and starts the thread.
    pub(super) fn start(store: Store) -> Result<Self, rusqlite::Error> {
        let wakers = Arc::new(Wakers::default());
        let clock = Clock::default();
        let mut core = Core {
            position: store.last_position()?,
            store,
            index: Index::default(),
            wakers: Arc::clone(&wakers),
            clock: clock.clone(),
            touched: false,
            time_stands_until: Millis::MIN,
        };
        core.rebuild()?;
        let (sender, receiver) = mpsc::channel::<Job>();
        let spawned = std::thread::Builder::new()
            .name("embedded-queue".to_owned())
            .spawn(move || core.run(&receiver));
        let thread = spawned.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            wakers,
            clock,
        })
    }

    /// The queue's time.
    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Moves the queue's time on; answers when what is due by then has happened.
    pub(super) async fn advance(&self, by: Duration) -> Result<(), ApiError> {
        let by = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
        self.clock.ahead.fetch_add(by, Ordering::AcqRel);
        self.read(|_| Ok(())).await
    }

    /// What wakes those who wait for a task of this pool.
    pub(super) fn waker(&self, pool: &str) -> Arc<Notify> {
        self.wakers.of(pool)
    }

    /// Does a job that only reads.
    pub(super) async fn read<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError> {
        self.call(job, |_, _| ()).await
    }

    /// Does a job that changes things: all of it, or nothing if it fails.
    pub(super) async fn write<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError> {
        self.call(move |core| core.atomically(job), |_, _| ()).await
    }

    /// The same, taken back if whoever asked has gone away meanwhile.
    pub(super) async fn write_or_undo<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> Result<R, ApiError> + Send + 'static,
        undo: impl FnOnce(&mut Core, R) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<R, ApiError> {
        self.call(
            move |core| core.atomically(job),
            move |core, done| {
                // A failure has been logged; the claim then ends with its time.
                let _ = core.atomically(|core| undo(core, done));
            },
        )
        .await
    }

    /// Changes something without waiting for it.
    pub(super) fn post(&self, job: impl FnOnce(&mut Core) -> Result<(), ApiError> + Send + 'static) {
        self.submit(Box::new(move |core| {
            let _ = core.atomically(job);
        }));
    }

    async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> Result<R, ApiError> + Send + 'static,
        undo: impl FnOnce(&mut Core, R) + Send + 'static,
    ) -> Result<R, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(move |core| {
            if reply.is_closed() {
                return;
            }
            if let Err(Ok(unwanted)) = reply.send(job(core)) {
                undo(core, unwanted);
            }
        }));
        match answer.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::internal(
                "the call was given up, since the queue stops or the call made it fail",
            )),
        }
    }

    fn submit(&self, job: Job) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread only ends after the sender has been taken.
            let _ = sender.send(job);
        }
    }

    /// Ends the thread after the jobs it has, and closes the database. Blocks.
    pub(super) fn stop(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the embedded queue's thread panicked");
        }
    }
}

/// For each pool, who waits for its tasks.
#[derive(Default)]
struct Wakers(Mutex<HashMap<String, Arc<Notify>>>);

impl Wakers {
    fn of(&self, pool: &str) -> Arc<Notify> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pools.get(pool) {
            Some(notify) => Arc::clone(notify),
            None => Arc::clone(pools.entry(pool.to_owned()).or_default()),
        }
    }

    /// Who comes to wait later looks first, so that a pool without anybody needs nothing to remember it by.
    fn wake_one(&self, pool: &str) {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = pools.get(pool) {
            notify.notify_one();
        }
    }
}

/// The state, as the jobs see it.
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) index: Index,
    position: i64,
    wakers: Arc<Wakers>,
    clock: Clock,
    /// Whether the job at hand has changed the index.
    touched: bool,
    /// Nothing is let happen by itself before this: it could not be written.
    time_stands_until: Millis,
}

impl Core {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let wait = self.index.next_timer().map_or(LONGEST_WAIT, |(time, _)| {
                let time = (*time).max(self.time_stands_until);
                let left = u64::try_from(time.saturating_sub(self.now())).unwrap_or(0);
                Duration::from_millis(left).min(LONGEST_WAIT)
            });
            match jobs.recv_timeout(wait) {
                Ok(job) => {
                    // What is due comes first: no job may see a task as it no longer ought to be.
                    self.elapse();
                    if catch_unwind(AssertUnwindSafe(|| job(&mut self))).is_err() {
                        tracing::error!("a call made the embedded queue panic; its effects are taken back");
                        self.recover();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.elapse();
        }
    }

    fn atomically<R>(&mut self, job: impl FnOnce(&mut Self) -> Result<R, ApiError>) -> Result<R, ApiError> {
        self.store.begin()?;
        self.touched = false;
        let outcome = job(self).and_then(|done| Ok(self.store.commit().map(|()| done)?));
        if let Err(error) = &outcome {
            if self.touched || error.status.is_server_error() {
                self.recover();
            } else {
                // Nearly all refusals come before the first change, so that the index needs no repair.
                self.store.roll_back();
            }
        }
        outcome
    }

    fn recover(&mut self) {
        self.store.roll_back();
        if let Err(error) = self.rebuild() {
            tracing::error!(%error, "the embedded queue could not read its tasks again");
        }
    }

    fn rebuild(&mut self) -> rusqlite::Result<()> {
        let mut index = Index::default();
        for task in self.store.active_tasks()? {
            index.set(&task);
        }
        self.index = index;
        Ok(())
    }

    /// Lets what is due happen.
    fn elapse(&mut self) {
        if self.time_stands_until > self.now().saturating_add(RETRY_TIMER) {
            // The clock was set back.
            self.time_stands_until = Millis::MIN;
        }
        while let Some((time, id)) = self.index.next_timer().cloned() {
            let now = self.now();
            if time.max(self.time_stands_until) > now {
                return;
            }
            let outcome = self.atomically(|core| {
                let Some(mut task) = core.store.task(&id)? else {
                    return Err(ApiError::not_found("the task has been forgotten"));
                };
                if task.elapse(now) {
                    core.changed(&mut task)?;
                } else {
                    core.index.set(&task);
                }
                Ok(())
            });
            if let Err(error) = outcome {
                tracing::warn!(
                    task = id,
                    error = error.message,
                    "time passed for a task, but that could not be written"
                );
                if error.status.is_server_error() {
                    // A full disk must not keep this thread busy: neither with this task nor with all others that are
                    // due, which are due again in the index that was just built anew. The others come first next time.
                    self.index.postpone(&id, Some(now + RETRY_TIMER));
                    self.time_stands_until = now + RETRY_TIMER;
                    return;
                }
                self.index.postpone(&id, None);
            }
        }
    }

    /// The queue's time.
    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The task, or 404.
    pub(super) fn task(&self, id: &str) -> Result<Task, ApiError> {
        self.store
            .task(id)?
            .ok_or_else(|| ApiError::not_found(format!("there is no task {id}; it may have expired")))
    }

    /// Adds a task that is complete but for its place in line.
    pub(super) fn add(
        &mut self,
        task: &mut Task,
        definition: &str,
        dependencies: &[(String, bool)],
    ) -> Result<(), ApiError> {
        self.line_up(task);
        self.store.insert_task(task, definition, dependencies)?;
        self.touched = true;
        self.index.set(task);
        self.wake(task);
        Ok(())
    }

    /// Writes a task that has changed, and lets go whoever waited for that.
    pub(super) fn changed(&mut self, task: &mut Task) -> Result<(), ApiError> {
        if !self.index.is_in_line(&task.id) {
            self.line_up(task);
        }
        self.write(task)?;
        if task.state().is_resolved() {
            self.release_dependents(task)?;
        }
        Ok(())
    }

    /// Writes a task as it is, its place in line included.
    pub(super) fn write(&mut self, task: &Task) -> Result<(), ApiError> {
        self.store.update_task(task)?;
        self.touched = true;
        self.index.set(task);
        self.wake(task);
        Ok(())
    }

    fn line_up(&mut self, task: &mut Task) {
        if task.state() == TaskState::Pending {
            self.position += 1;
            task.position = self.position;
        }
    }

    fn wake(&self, task: &Task) {
        if task.state() == TaskState::Pending {
            self.wakers.wake_one(&task.pool);
        }
    }

    /// Lets those go that waited for nothing but this task, which has ended.
    pub(super) fn release_dependents(&mut self, task: &Task) -> Result<(), ApiError> {
        for id in self.store.waiting_dependents(&task.id)? {
            let Some(mut dependent) = self.store.task(&id)? else {
                continue;
            };
            if !satisfies(task, dependent.requires) {
                continue;
            }
            self.store.satisfy(&task.id, &id)?;
            if dependent.state() == TaskState::Unscheduled && !self.store.is_blocked(&id)? {
                dependent.schedule(ReasonCreated::Scheduled, self.now());
                self.changed(&mut dependent)?;
            }
        }
        Ok(())
    }

    /// The next in line of a pool.
    pub(super) fn next_pending(&self, pool: &str) -> Option<String> {
        self.index.next_in_line(pool)
    }
}

/// Whether a task is what one that depends on it needs it to be.
pub(super) fn satisfies(task: &Task, requires: Requires) -> bool {
    match requires {
        Requires::AllCompleted => task.state() == TaskState::Completed,
        Requires::AllResolved => task.state().is_resolved(),
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
