//! Objects of the engine as plugins get them: for one stage, and without what is the host's to do.
//!
//! A plugin may keep what it was given for as long as it likes. When the stage is over the wrapper lets go of the
//! engine's object, and from then on answers `ContractViolation`.

mod builder;
mod results;
mod sandbox;

use std::sync::{Arc, PoisonError, RwLock, Weak};

use tcw_abi::{Error, ErrorKind, Result};

use super::fault::Fault;
use super::shared::Task;
pub(super) use builder::LentBuilder;
pub(super) use results::LentResults;
pub(super) use sandbox::LentSandbox;

/// An object that can be taken back.
struct Revocable<T: ?Sized> {
    target: RwLock<Option<Arc<T>>>,
    /// What a call is told that comes too late.
    over: &'static str,
    /// Weak: a plugin that keeps the object does not keep the task.
    task: Weak<Task>,
}

impl<T: ?Sized> Revocable<T> {
    fn new(target: Arc<T>, over: &'static str, task: &Arc<Task>) -> Self {
        Revocable {
            target: RwLock::new(Some(target)),
            over,
            task: Arc::downgrade(task),
        }
    }

    /// What the engine has answered, for a plugin. A panic is put down to the engine, not to the plugin that hands the
    /// error on.
    fn judge<R>(&self, call: &str, answer: Result<R>) -> Result<R> {
        match answer {
            Err(error) if error.kind() == ErrorKind::Panicked => {
                if let Some(task) = self.task.upgrade() {
                    let engine = &task.env.engine;
                    let place = format!("engine '{}', {call}", engine.name);
                    task.note(&[Fault::answered(&engine.library, &place, error.clone())]);
                }
                Err(Error::internal(format!("the engine failed: {}", error.message())))
            }
            answer => answer,
        }
    }

    /// The object, for one call. The lock is not held while it runs.
    fn get(&self) -> Result<Arc<T>> {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner);
        target.clone().ok_or_else(|| Error::violation(self.over))
    }

    fn revoke(&self) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A call that only the host may make.
fn reserved<T>(call: &str) -> Result<T> {
    Err(Error::violation(format!("{call} is the host's to call")))
}
