//! What a plugin may do with the worker's engine, and no more than that.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use tcw_abi::engine::{Engine, EngineDescription, Volume, VolumeBuilder, VolumeDescription};
use tcw_abi::io::Handle;
use tcw_abi::plugin::EngineHandle;
use tcw_abi::{Error, ErrorKind, Result};

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
        let volume = judged(self.0.new_volume(options).await)?;
        Ok(Arc::new(JudgedVolume(volume)))
    }

    async fn new_volume_builder(&self, options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        let builder = judged(self.0.new_volume_builder(options).await)?;
        Ok(Arc::new(JudgedBuilder(builder)))
    }
}

/// A panic of the engine's is not the plugin's, which may hand the error on as its own.
fn judged<T>(answer: Result<T>) -> Result<T> {
    answer.map_err(|error| match error.kind() {
        ErrorKind::Panicked => Error::internal(format!("the engine failed: {}", error.message())),
        _ => error,
    })
}

struct JudgedVolume(Arc<dyn Volume>);

#[async_trait]
impl Volume for JudgedVolume {
    fn description(&self) -> VolumeDescription {
        self.0.description()
    }

    async fn size(&self) -> Result<u64> {
        judged(self.0.size().await)
    }

    async fn dispose(&self) -> Result<()> {
        judged(self.0.dispose().await)
    }
}

struct JudgedBuilder(Arc<dyn VolumeBuilder>);

#[async_trait]
impl VolumeBuilder for JudgedBuilder {
    async fn write_folder(&self, path: String) -> Result<()> {
        judged(self.0.write_folder(path).await)
    }

    async fn write_file(&self, path: String, mode: u32) -> Result<Handle> {
        judged(self.0.write_file(path, mode).await)
    }

    async fn build(&self) -> Result<Arc<dyn Volume>> {
        Ok(Arc::new(JudgedVolume(judged(self.0.build().await)?)))
    }

    async fn discard(&self) -> Result<()> {
        judged(self.0.discard().await)
    }
}
