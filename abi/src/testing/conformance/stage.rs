//! What all cases have: patience, the tasks they made, and where they are.

use std::future::Future;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Failure;
use crate::error::{ErrorKind, Result as LibraryResult};
use crate::io::Handle;
use crate::runtime::blocking;
use crate::testing::FakeTask;

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Lines of a task's log that a failure shows.
const TAIL: usize = 15;

/// What all cases have.
pub struct Stage {
    patience: Duration,
    tasks: Mutex<Vec<Arc<FakeTask>>>,
    on_step: Box<dyn Fn(&str) + Send + Sync>,
}

impl Stage {
    pub(super) fn new(timeout: Duration, on_step: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        Stage {
            // The case's own words about what hangs are better than those of whoever ends the process.
            patience: timeout * 3 / 4,
            tasks: Mutex::default(),
            on_step,
        }
    }

    /// How long one thing may take that has to happen.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Says what begins now.
    pub fn step(&self, what: &str) {
        (self.on_step)(what);
    }

    /// A new task, with an id of its own. A failure of the case shows the end of its log.
    pub fn task(&self) -> Arc<FakeTask> {
        let task = FakeTask::with_own_id();
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&task));
        task
    }

    /// Lets go of a task whose log nobody will ask for, with the descriptors that it has.
    pub(super) fn forget_task(&self, task: &Arc<FakeTask>) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, task));
    }

    /// How many tasks there are; each keeps the read end of its log open.
    pub(super) fn tasks_held(&self) -> usize {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for something that has to happen.
    pub async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        self.step(what);
        match tokio::time::timeout(self.patience, future).await {
            Ok(value) => Ok(value),
            Err(_) => Err(Failure::new(format!(
                "{what} did not return within {} s",
                self.patience.as_secs_f32()
            ))),
        }
    }

    /// A call that has to succeed.
    pub async fn ok<T>(
        &self,
        what: &str,
        call: impl Future<Output = LibraryResult<T>>,
    ) -> Result<T, Failure> {
        self.within(what, call)
            .await?
            .map_err(|error| Failure::new(format!("{what} has to succeed, and answered: {error}")))
    }

    /// A call that has to be refused, with an error of one of these kinds.
    pub async fn refused<T>(
        &self,
        what: &str,
        kinds: &[ErrorKind],
        call: impl Future<Output = LibraryResult<T>>,
    ) -> Result<(), Failure> {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let expected = names.join(" or ");
        match self.within(what, call).await? {
            Err(error) if kinds.contains(&error.kind()) => Ok(()),
            Err(error) => Err(Failure::new(format!(
                "{what} has to answer {expected}, and answered: {error}"
            ))),
            Ok(_) => Err(Failure::new(format!(
                "{what} has to answer {expected}, and succeeded"
            ))),
        }
    }

    /// Everything that can be read from a handle.
    pub async fn read(&self, what: &str, handle: Handle) -> Result<Vec<u8>, Failure> {
        let read = blocking(move || {
            let mut bytes = Vec::new();
            match handle.into_file().read_to_end(&mut bytes) {
                // The end of a terminal, once nobody has its other side.
                Err(error) if error.raw_os_error() != Some(EIO) => Err(error.into()),
                _ => Ok(bytes),
            }
        });
        self.ok(&format!("reading {what} to its end"), read).await
    }

    /// Writes all of it, and closes the handle.
    pub async fn write(&self, what: &str, handle: Handle, bytes: Vec<u8>) -> Result<(), Failure> {
        let written = blocking(move || Ok(handle.into_file().write_all(&bytes)?));
        self.ok(&format!("writing to {what}"), written).await
    }

    /// Waits until `text` stands in what the task has printed.
    pub async fn printed(&self, task: &FakeTask, text: &str) -> Result<(), Failure> {
        self.step(&format!("waiting for {text:?} in the task's output"));
        let seen = task.wait_for_output(text, self.patience).await;
        Failure::unless(seen, || {
            format!("expected {text:?} in the task's output while it runs, and it has not come")
        })
    }

    /// Adds the end of every log.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().enumerate().fold(failure, |failure, (index, task)| {
            let which = if tasks.len() > 1 {
                format!(" of task {}", index + 1)
            } else {
                String::new()
            };
            let text = task.log_text();
            let lines: Vec<&str> = text.lines().collect();
            if lines.is_empty() {
                return failure.with(&format!("the log{which} is empty"));
            }
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            let heading = if tail.len() < lines.len() {
                format!("the end of the log{which}:")
            } else {
                format!("the log{which}:")
            };
            tail.iter().fold(failure.with(&heading), |failure, line| {
                let line: String = line.chars().take(200).collect();
                failure.with(&format!("  {line}"))
            })
        })
    }
}
