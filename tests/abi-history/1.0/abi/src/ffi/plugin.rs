//! The mirror of [`Plugin`].

use super::prelude::*;
use std::time::Duration;

use super::{FfiTaskContextObject, FfiTaskPluginObject};
use crate::plugin::{Plugin, PluginDescription, TaskPlugin};
use crate::services::TaskContext;
use serde_json::Value;

ffi_object! {
    /// What a task can ask for.
    Plugin: FfiPlugin, FfiPlugin_TO, FfiPluginObject, describes description: PluginDescription;
    call fn new_task_plugin(task: Arc<dyn TaskContext> => FfiTaskContextObject, payload: Value => RString) -> Arc<dyn TaskPlugin> => FfiTaskPluginObject;
    call fn report_idle(idle: Duration => u64) -> () => Nothing;
    call fn report_non_fatal_error() -> () => Nothing;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
