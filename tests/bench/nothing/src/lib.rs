//! A plugin that does nothing. The benchmarks make many libraries of it: its name has a number that they overwrite in
//! the file.

use std::sync::Arc;

use tcw_abi::plugin::{EngineHandle, Plugin, PluginProvider, TaskPlugin};
use tcw_abi::serde_json::Value;
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Result, async_trait};

struct Nothing;

#[async_trait]
impl PluginProvider for Nothing {
    async fn new_plugin(
        &self,
        _services: Arc<dyn Services>,
        _engine: Arc<dyn EngineHandle>,
        _configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(Nothing))
    }
}

#[async_trait]
impl Plugin for Nothing {
    async fn new_task_plugin(
        &self,
        _task: Arc<dyn TaskContext>,
        _payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        Ok(Arc::new(Nothing))
    }
}

impl TaskPlugin for Nothing {}

tcw_abi::export_library! { name: "nothing-00", plugins: [Nothing] }
