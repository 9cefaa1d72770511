//! The root of a library: function pointers, and nothing that runs when they are handed out.

use std::sync::{Arc, OnceLock};

use abi_stable::StableAbi;
use abi_stable::library::{RootModule, RootModuleResult};
use abi_stable::package_version_strings;
use abi_stable::prefix_type::{PrefixRefTrait, PrefixTypeTrait};
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RResult, RString};

use super::boundary::{self, Mode, Reply};
use super::wire::Wire;
use super::{FfiDiagnosticsBox, FfiEngineProviderObject, FfiPluginProviderObject, import_diagnostics};
use crate::diagnostics;
use crate::engine::EngineProvider;
use crate::error::{Error, Result};
use crate::plugin::PluginProvider;

/// The root module. New functions are appended, and absent in older libraries.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = FfiLibraryRef)))]
#[sabi(missing_field(option))]
pub struct FfiLibrary {
    /// Called once, first. `options` holds `logLevel`.
    pub initialise: extern "C" fn(diagnostics: FfiDiagnosticsBox, options: RString),
    /// The engine's provider; `ResourceNotFound` if the library has none.
    pub engine_provider: extern "C" fn(options: RString) -> Reply<FfiEngineProviderObject>,
    /// The provider of the plugin with this place in the manifest.
    pub plugin_provider: extern "C" fn(index: u32, options: RString) -> Reply<FfiPluginProviderObject>,
    /// The highest level that the host wants to hear of, 0 to 5.
    #[sabi(last_prefix_field)]
    pub set_log_level: extern "C" fn(level: u32),
}

impl RootModule for FfiLibraryRef {
    abi_stable::declare_root_module_statics! {FfiLibraryRef}
    const BASE_NAME: &'static str = "tcw_library";
    const NAME: &'static str = "tcw_library";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// What a library exports. Made by `export_library!`. The functions are named there and nowhere here, so that a library
/// without an engine holds nothing of what exports one.
#[derive(Clone, Copy)]
pub struct Exports {
    /// Makes the engine's provider, with [`engine_object`].
    pub engine: Option<fn() -> Result<FfiEngineProviderObject>>,
    /// Make the plugins' providers, with [`plugin_object`], in the order of the manifest.
    pub plugins: &'static [fn() -> Result<FfiPluginProviderObject>],
}

/// The engine's provider as it crosses.
pub fn engine_object(provider: Arc<dyn EngineProvider>) -> Result<FfiEngineProviderObject> {
    provider.into_wire()
}

/// A plugin's provider as it crosses.
pub fn plugin_object(provider: Arc<dyn PluginProvider>) -> Result<FfiPluginProviderObject> {
    provider.into_wire()
}

static EXPORTS: OnceLock<Exports> = OnceLock::new();

/// The constructor behind the exported symbol: hands out function pointers and does nothing else.
pub fn root_module(exports: Exports) -> RootModuleResult {
    EXPORTS.get_or_init(|| exports);
    let library = FfiLibrary {
        initialise,
        engine_provider,
        plugin_provider,
        set_log_level,
    }
    .leak_into_prefix();
    // SAFETY: the pointer is erased from an `FfiLibraryRef` just now, and read back as one by the caller of the
    // exported symbol, behind the layout check of this very type.
    RResult::ROk(unsafe { library.to_prefix_ref().cast() })
}

extern "C" fn initialise(host: FfiDiagnosticsBox, options: RString) {
    let options: serde_json::Value = serde_json::from_str(&options).unwrap_or_default();
    if let Some(level) = options["logLevel"].as_u64() {
        diagnostics::set_level(u32::try_from(level).unwrap_or(5));
    }
    diagnostics::install(import_diagnostics(host));
}

extern "C" fn engine_provider(_options: RString) -> Reply<FfiEngineProviderObject> {
    boundary::run(Mode::call, "the engine's provider", async {
        match EXPORTS.get().and_then(|exports| exports.engine) {
            Some(make) => make(),
            None => Err(Error::new(
                crate::ErrorKind::ResourceNotFound,
                "the library provides no engine",
            )),
        }
    })
}

extern "C" fn plugin_provider(index: u32, _options: RString) -> Reply<FfiPluginProviderObject> {
    boundary::run(Mode::call, "the plugin's provider", async move {
        match EXPORTS
            .get()
            .and_then(|exports| exports.plugins.get(index as usize))
        {
            Some(make) => make(),
            None => Err(Error::new(
                crate::ErrorKind::ResourceNotFound,
                format!("the library provides no plugin number {index}"),
            )),
        }
    })
}

extern "C" fn set_log_level(level: u32) {
    diagnostics::set_level(level);
}
