//! What a task holds of others, and has to give back: its plugins, and the engine's builder, sandbox and result set.
//!
//! Everything that a library makes for the task is put here by the very call that made it, before anybody looks at the
//! answer. So nothing is lost when the task was given up meanwhile, and what arrives after the giving back is given
//! back at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcw_abi::engine::{ResultSet, Sandbox, SandboxBuilder};
use tcw_abi::plugin::TaskPlugin;
use tcw_abi::{ErrorKind, Result};

use super::call::Callee;
use super::environment::TaskEnvironment;

/// A plugin's part in this task.
pub(super) struct Member {
    pub(super) callee: Callee,
    pub(super) plugin: Arc<dyn TaskPlugin>,
    /// Whether the task's author wrote any of the plugin's keys.
    pub(super) has_keys: bool,
    disposed: AtomicBool,
}

impl Member {
    pub(super) fn new(callee: Callee, plugin: Arc<dyn TaskPlugin>, has_keys: bool) -> Self {
        Member {
            callee,
            plugin,
            has_keys,
            disposed: AtomicBool::new(false),
        }
    }

    /// The last call, once.
    pub(super) async fn dispose(self: Arc<Self>) -> Result<()> {
        if self.disposed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.plugin.dispose().await
    }
}

/// Everything that a task has to give back.
pub(super) struct Remains {
    env: Arc<TaskEnvironment>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: Vec<Arc<Member>>,
    engine: Held,
    /// Given back: whatever still comes is given back by who brings it.
    closed: bool,
}

/// The engine's object of the latest stage; it stands for those before it.
#[derive(Clone, Default)]
enum Held {
    #[default]
    Nothing,
    Builder(Arc<dyn SandboxBuilder>),
    Sandbox(Arc<dyn Sandbox>),
    /// A sandbox that was aborted has nothing left to give back.
    Aborted,
    Results(Arc<dyn ResultSet>),
}

impl Remains {
    pub(super) fn new(env: Arc<TaskEnvironment>) -> Self {
        Remains {
            env,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugins of this task that could be made.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.lock().members.clone()
    }

    pub(super) fn builder(&self) -> Option<Arc<dyn SandboxBuilder>> {
        match &self.lock().engine {
            Held::Builder(builder) => Some(Arc::clone(builder)),
            _ => None,
        }
    }

    /// The sandbox, while it runs for all that is known.
    pub(super) fn sandbox(&self) -> Option<Arc<dyn Sandbox>> {
        match &self.lock().engine {
            Held::Sandbox(sandbox) => Some(Arc::clone(sandbox)),
            _ => None,
        }
    }

    pub(super) fn results(&self) -> Option<Arc<dyn ResultSet>> {
        match &self.lock().engine {
            Held::Results(results) => Some(Arc::clone(results)),
            _ => None,
        }
    }

    pub(super) async fn put_member(&self, member: Arc<Member>) -> Result<()> {
        {
            let mut inner = self.lock();
            if !inner.closed {
                inner.members.push(member);
                return Ok(());
            }
        }
        member.dispose().await
    }

    pub(super) async fn put_builder(&self, builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        self.env.engine.occupancy.take();
        self.put(Held::Builder(builder)).await
    }

    pub(super) async fn put_sandbox(&self, sandbox: Arc<dyn Sandbox>) -> Result<()> {
        self.put(Held::Sandbox(sandbox)).await
    }

    pub(super) async fn put_results(&self, results: Arc<dyn ResultSet>) -> Result<()> {
        self.put(Held::Results(results)).await
    }

    async fn put(&self, held: Held) -> Result<()> {
        {
            let mut inner = self.lock();
            if !inner.closed {
                inner.engine = held;
                return Ok(());
            }
        }
        // A sandbox or a result set stands for a builder that was counted, and given back, before.
        let _counted = matches!(held, Held::Builder(_)).then(|| self.env.engine.occupancy.giving_back());
        give_back(held).await
    }

    /// The sandbox is gone with all it left.
    pub(super) fn aborted(&self) {
        let mut inner = self.lock();
        if matches!(inner.engine, Held::Sandbox(_)) {
            inner.engine = Held::Aborted;
        }
    }

    /// From here on, what arrives is given back by who brings it.
    pub(super) fn close(&self) -> Vec<Arc<Member>> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.members)
    }

    /// Gives back what the engine made.
    pub(super) async fn give_engine_back(&self) -> Result<()> {
        let held = std::mem::take(&mut self.lock().engine);
        if matches!(held, Held::Nothing) {
            return Ok(());
        }
        let _counted = self.env.engine.occupancy.giving_back();
        give_back(held).await
    }
}

async fn give_back(held: Held) -> Result<()> {
    match held {
        Held::Nothing | Held::Aborted => Ok(()),
        Held::Builder(builder) => builder.discard().await,
        Held::Results(results) => results.dispose().await,
        Held::Sandbox(sandbox) => match sandbox.abort().await {
            // It ended by itself first: then it has left something.
            Err(error) if error.kind() == ErrorKind::SandboxTerminated => {
                sandbox.wait().await?.dispose().await
            }
            aborted => aborted,
        },
    }
}
