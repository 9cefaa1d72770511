//! The mirror of [`EngineProvider`].

use super::prelude::*;
use super::{FfiEngineObject, FfiServicesObject};
use crate::engine::{Engine, EngineProvider, EngineProviderDescription};
use crate::services::Services;
use serde_json::Value;

ffi_object! {
    /// The way into an engine.
    EngineProvider: FfiEngineProvider, FfiEngineProvider_TO, FfiEngineProviderObject, describes description: EngineProviderDescription;
    #[sabi(last_prefix_field)]
    detached fn new_engine(services: Arc<dyn Services> => FfiServicesObject, configuration: Value => RString) -> Arc<dyn Engine> => FfiEngineObject;
}
