//! The one thread that owns the embedded queue's state. Calls reach it as jobs and are done one after the other, so that
//! there are no races to think about; it also is what lets deadlines and claims pass, at the moment they do.
//!
//! SQLite is the truth. What is held in memory besides (who is next in line, what happens when) is an index over the
//! tasks that have not ended, and is built anew from the database whenever a job fails halfway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::error::ApiError;
use super::record::{Millis, Task};
use super::store::Store;
use crate::queue::{Priority, TaskState};

/// The longest sleep: a clock that is set forward is noticed within it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How many milliseconds after a failure what is due is attempted again.
const RETRY_TIMER: Millis = 5000;

/// The time.
pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// The way to the thread.
pub(super) struct CoreHandle {
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    wakers: Arc<Wakers>,
}

impl CoreHandle {
    /// Reads what is active from the database and starts the thread.
    pub(super) fn start(store: Store) -> Result<Self, rusqlite::Error> {
        let wakers = Arc::new(Wakers::default());
        let mut core = Core {
            position: store.last_position()?,
            store,
            index: Index::default(),
            wakers: Arc::clone(&wakers),
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
        })
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
}

/// A place in line: the more urgent first, then the earlier.
type Place = (std::cmp::Reverse<Priority>, i64);

/// What is known by heart about the tasks that have not ended.
#[derive(Default)]
struct Index {
    entries: HashMap<String, Entry>,
    pending: HashMap<String, BTreeMap<Place, String>>,
    timers: BTreeSet<(Millis, String)>,
}

struct Entry {
    pool: String,
    place: Option<Place>,
    timer: Option<Millis>,
}

impl Index {
    /// Lets a task go that has ended, or that is no more.
    fn remove(&mut self, id: &str) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        if let Some(place) = entry.place
            && let Some(line) = self.pending.get_mut(&entry.pool)
        {
            line.remove(&place);
        }
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, id.to_owned()));
        }
    }

    /// Takes a task as it now is.
    fn set(&mut self, task: &Task) {
        self.remove(&task.id);
        let timer = task.next_event();
        let place =
            (task.state() == TaskState::Pending).then_some((std::cmp::Reverse(task.priority), task.position));
        if let Some(time) = timer {
            self.timers.insert((time, task.id.clone()));
        }
        if let Some(place) = place {
            self.pending
                .entry(task.pool.clone())
                .or_default()
                .insert(place, task.id.clone());
        }
        if timer.is_some() {
            self.entries.insert(
                task.id.clone(),
                Entry {
                    pool: task.pool.clone(),
                    place,
                    timer,
                },
            );
        }
    }
}

/// The state, as the jobs see it.
pub(super) struct Core {
    pub(super) store: Store,
    index: Index,
    position: i64,
    wakers: Arc<Wakers>,
}

impl Core {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let wait = self.index.timers.first().map_or(LONGEST_WAIT, |(time, _)| {
                let left = u64::try_from(time.saturating_sub(now())).unwrap_or(0);
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
        let outcome = job(self).and_then(|done| Ok(self.store.commit().map(|()| done)?));
        if let Err(error) = &outcome {
            if error.status.is_server_error() {
                self.recover();
            } else {
                // Refusals come before the first change, so the index needs no repair.
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
        while let Some((time, id)) = self.index.timers.first().cloned() {
            let now = now();
            if time > now {
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
                self.postpone(&id, error.status.is_server_error().then_some(now + RETRY_TIMER));
            }
        }
    }

    /// Lets a task's timer pass: until later, so that a full disk does not keep this thread busy, or for good if the task
    /// is no more.
    fn postpone(&mut self, id: &str, later: Option<Millis>) {
        let Some(later) = later else {
            return self.index.remove(id);
        };
        if let Some(entry) = self.index.entries.get_mut(id) {
            if let Some(timer) = entry.timer.replace(later) {
                self.index.timers.remove(&(timer, id.to_owned()));
            }
            self.index.timers.insert((later, id.to_owned()));
        }
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
        dependencies: &[String],
    ) -> Result<(), ApiError> {
        self.line_up(task);
        self.store.insert_task(task, definition, dependencies)?;
        self.index.set(task);
        self.wake(task);
        Ok(())
    }

    /// Writes a task that has changed, and lets go whoever waited for that.
    pub(super) fn changed(&mut self, task: &mut Task) -> Result<(), ApiError> {
        let was_in_line = self
            .index
            .entries
            .get(&task.id)
            .is_some_and(|entry| entry.place.is_some());
        if !was_in_line {
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
            self.wakers.of(&task.pool).notify_one();
        }
    }

    fn release_dependents(&mut self, task: &Task) -> Result<(), ApiError> {
        for id in self.store.dependents(&task.id)? {
            let Some(mut dependent) = self.store.task(&id)? else {
                continue;
            };
            if dependent.state() == TaskState::Unscheduled && self.is_released(&dependent)? {
                dependent.schedule(super::record::ReasonCreated::Scheduled, now());
                self.changed(&mut dependent)?;
            }
        }
        Ok(())
    }

    /// Whether all that a task depends on has become what it has to.
    fn is_released(&self, task: &Task) -> Result<bool, ApiError> {
        let required = self.store.dependencies(&task.id)?;
        self.are_released(&required, task.requires)
    }

    pub(super) fn are_released(
        &self,
        required: &[String],
        requires: crate::queue::Requires,
    ) -> Result<bool, ApiError> {
        for id in required {
            let Some(state) = self.store.task(id)?.map(|task| task.state()) else {
                return Ok(false);
            };
            let satisfied = match requires {
                crate::queue::Requires::AllCompleted => state == TaskState::Completed,
                crate::queue::Requires::AllResolved => state.is_resolved(),
            };
            if !satisfied {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next in line of a pool.
    pub(super) fn next_pending(&self, pool: &str) -> Option<String> {
        self.index.pending.get(pool)?.values().next().cloned()
    }

    /// How many tasks of a pool are pending.
    pub(super) fn count_pending(&self, pool: &str) -> usize {
        self.index.pending.get(pool).map_or(0, BTreeMap::len)
    }
}
