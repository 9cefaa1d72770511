//! The mirror of [`EngineHandle`].

use super::prelude::*;
use super::{FfiVolumeBuilderObject, FfiVolumeObject};
use crate::engine::{EngineDescription, Volume, VolumeBuilder};
use crate::plugin::EngineHandle;
use serde_json::Value;

ffi_object! {
    /// What a plugin may do with the engine.
    EngineHandle: FfiEngineHandle, FfiEngineHandle_TO, FfiEngineHandleObject, describes description: EngineDescription;
    call fn new_volume(request: Value => RString) -> Arc<dyn Volume> => FfiVolumeObject;
    #[sabi(last_prefix_field)]
    call fn new_volume_builder(request: Value => RString) -> Arc<dyn VolumeBuilder> => FfiVolumeBuilderObject;
}
