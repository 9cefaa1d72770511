//! The mirror of [`PluginProvider`].

use super::prelude::*;
use super::{FfiEngineHandleObject, FfiPluginObject, FfiServicesObject};
use crate::plugin::{EngineHandle, Plugin, PluginProvider, PluginProviderDescription};
use crate::services::Services;
use serde_json::Value;

ffi_object! {
    /// The way into a plugin.
    PluginProvider: FfiPluginProvider, FfiPluginProvider_TO, FfiPluginProviderObject, describes description: PluginProviderDescription;
    #[sabi(last_prefix_field)]
    detached fn new_plugin(services: Arc<dyn Services> => FfiServicesObject, engine: Arc<dyn EngineHandle> => FfiEngineHandleObject, configuration: Value => RString) -> Arc<dyn Plugin> => FfiPluginObject;
}
