//! The mirror of [`Engine`].

use super::prelude::*;
use super::{FfiSandboxBuilderObject, FfiTaskContextObject, FfiVolumeBuilderObject, FfiVolumeObject};
use crate::engine::{
    Engine, EngineDescription, Health, LeaseRecord, RecoveryReport, SandboxBuilder, Volume, VolumeBuilder,
};
use crate::services::TaskContext;
use serde_json::Value;

ffi_object! {
    /// What tasks run in.
    Engine: FfiEngine, FfiEngine_TO, FfiEngineObject, describes description: EngineDescription;
    call fn health() -> Health => RString;
    detached fn new_sandbox_builder(task: Arc<dyn TaskContext> => FfiTaskContextObject, payload: Value => RString) -> Arc<dyn SandboxBuilder> => FfiSandboxBuilderObject;
    call fn new_volume(request: Value => RString) -> Arc<dyn Volume> => FfiVolumeObject;
    call fn new_volume_builder(request: Value => RString) -> Arc<dyn VolumeBuilder> => FfiVolumeBuilderObject;
    detached fn recover(leases: Vec<LeaseRecord> => RString) -> RecoveryReport => RString;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
