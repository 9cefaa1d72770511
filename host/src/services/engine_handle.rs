//! What a plugin may do with the worker's engine, and no more than that.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tcw_abi::Result;
use tcw_abi::engine::{Engine, EngineDescription, Volume, VolumeBuilder};
use tcw_abi::plugin::EngineHandle;

/// The engine, without sandboxes, recovery and disposal.
pub struct PluginEngine(Arc<dyn Engine>);

impl PluginEngine {
    /// A handle for plugins.
    pub fn of(engine: Arc<dyn Engine>) -> Arc<dyn EngineHandle> {
        Arc::new(PluginEngine(engine))
    }
}

#[async_trait]
impl EngineHandle for PluginEngine {
    fn description(&self) -> EngineDescription {
        self.0.description()
    }

    async fn new_volume(&self, options: Value) -> Result<Arc<dyn Volume>> {
        self.0.new_volume(options).await
    }

    async fn new_volume_builder(&self, options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        self.0.new_volume_builder(options).await
    }
}
