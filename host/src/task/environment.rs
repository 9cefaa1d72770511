//! What every task of this worker runs with: one engine, the plugins, the payload's schema, the host's services.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tcw_abi::engine::{Engine, EngineDescription};
use tcw_abi::plugin::{Plugin, PluginDescription};
use tcw_abi::services::WorkerInfo;
use tokio::sync::Notify;

use crate::services::log::LogOptions;
use crate::services::worker::WorkerServices;

/// Splits a task's payload among those who declared its keys.
pub trait PayloadCheck: Send + Sync + 'static {
    /// Every violation, a line each for the task log, or each provider's own part.
    fn check(&self, payload: &Value) -> Result<PayloadParts, Vec<String>>;
}

/// A payload that fits, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PayloadParts {
    /// The engine's keys.
    pub engine: Value,
    /// Each plugin's keys, by its name. A plugin without an entry gets an empty object.
    pub plugins: BTreeMap<String, Value>,
}

/// The worker's engine.
pub struct EngineSlot {
    /// The name it goes by in messages.
    pub name: String,
    /// The library that provides it.
    pub library: String,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What it said about itself.
    pub description: EngineDescription,
    /// What of it is in use.
    pub(super) occupancy: Occupancy,
}

impl EngineSlot {
    /// An engine that is ready for tasks.
    pub fn new(name: impl Into<String>, library: impl Into<String>, engine: Arc<dyn Engine>) -> Self {
        let description = engine.description();
        EngineSlot {
            name: name.into(),
            library: library.into(),
            engine,
            description,
            occupancy: Occupancy::default(),
        }
    }

    /// Builders, sandboxes and result sets that tasks have not given back yet.
    pub fn in_use(&self) -> usize {
        self.occupancy.count.load(Ordering::Acquire)
    }
}

/// Counts what tasks hold of the engine, and wakes those who wait for some of it to be given back.
#[derive(Default)]
pub(super) struct Occupancy {
    count: AtomicUsize,
    pub(super) released: Notify,
}

impl Occupancy {
    pub(super) fn take(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives one back when the guard is dropped: also when giving the engine's object back panics.
    pub(super) fn giving_back(&self) -> GivingBack<'_> {
        GivingBack(self)
    }
}

pub(super) struct GivingBack<'a>(&'a Occupancy);

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.released.notify_waiters();
    }
}

/// One of the worker's plugins.
pub struct PluginSlot {
    /// The name it has in the configuration, and in [`PayloadParts`].
    pub name: String,
    /// The library that provides it.
    pub library: String,
    /// The plugin.
    pub plugin: Arc<dyn Plugin>,
    /// What it said about itself.
    pub description: PluginDescription,
}

impl PluginSlot {
    /// A plugin that is ready for tasks.
    pub fn new(name: impl Into<String>, library: impl Into<String>, plugin: Arc<dyn Plugin>) -> Self {
        let description = plugin.description();
        PluginSlot {
            name: name.into(),
            library: library.into(),
            plugin,
            description,
        }
    }
}

/// How long calls into libraries may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For questions: health.
    pub query: Duration,
    /// For hooks and engine calls; begins anew while the library uses services.
    pub call: Duration,
    /// For a hook to return after the task was given up; then it is dropped.
    pub hook_grace: Duration,
    /// For a call that is never dropped to return after the task was given up; then it is left to itself, and its
    /// library is unhealthy.
    pub call_grace: Duration,
    /// For all `exception` hooks of a task together.
    pub exception: Duration,
    /// Between attempts to report how a task ended to a queue that is away; each pause is between half of this and all
    /// of it. They end with the claim.
    pub report_again: Duration,
    /// For the report when the worker shuts down, as nothing may keep it from leaving.
    pub report_at_shutdown: Duration,
}

impl Deadlines {
    /// The usual ones, but for `call`; none of the bounds on libraries is longer than that.
    pub fn with_call(call: Duration) -> Self {
        let usual = Deadlines::default();
        Deadlines {
            query: usual.query.min(call),
            call,
            hook_grace: usual.hook_grace.min(call),
            call_grace: usual.call_grace.min(call),
            ..usual
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            query: Duration::from_secs(10),
            call: Duration::from_secs(30 * 60),
            hook_grace: Duration::from_secs(10),
            call_grace: Duration::from_secs(60),
            exception: Duration::from_secs(30),
            report_again: Duration::from_secs(10),
            report_at_shutdown: Duration::from_secs(60),
        }
    }
}

/// What every task of this worker runs with.
pub struct TaskEnvironment {
    /// What tasks run in.
    pub engine: EngineSlot,
    /// What tasks can ask for.
    pub plugins: Vec<PluginSlot>,
    /// The schema of payloads.
    pub payloads: Arc<dyn PayloadCheck>,
    /// Who we are; the `library` in it is not used.
    pub worker: WorkerInfo,
    /// What libraries share: content, HTTP, temporary folders.
    pub services: Arc<WorkerServices>,
    /// Where each task gets a folder of the host's own, for its log. Not the task's working directory.
    pub tasks_directory: PathBuf,
    /// How task logs are written.
    pub log: LogOptions,
    /// Lines at the top of every task log: the worker type's metadata.
    pub log_header: Vec<String>,
    /// How long libraries may take.
    pub deadlines: Deadlines,
}
