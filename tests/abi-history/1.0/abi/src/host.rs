//! The host's half of the boundary: from an open library to its providers.
//!
//! Loading itself (finding, verifying, storing, opening) is the host's; what is here needs the mirror.

use std::ffi::c_void;
use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals};
use abi_stable::library::{AbiHeaderRef, LibHeader};
use abi_stable::type_layout::TypeLayout;

use crate::diagnostics::Sink;
use crate::engine::EngineProvider;
use crate::error::Result;
use crate::ffi::boundary::receive;
use crate::ffi::export_diagnostics;
use crate::ffi::library::FfiLibraryRef;
use crate::ffi::wire::{Wire, no_options};
use crate::plugin::PluginProvider;

/// The one symbol that a library exports.
pub const ROOT_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// Why an open library cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootError {
    /// It was built with an incompatible `abi_stable`, or C ABI.
    Header(String),
    /// Neither layout is an extension of the other. The report is long; it belongs into a file.
    Layout {
        /// Every difference.
        report: String,
    },
    /// Its constructor failed.
    Constructor(String),
}

impl std::fmt::Display for RootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RootError::Header(error) => write!(f, "it was not built with tcw-abi 1.x: {}", first_line(error)),
            RootError::Layout { .. } => {
                write!(f, "its ABI differs from this host's in what was already released")
            }
            RootError::Constructor(error) => write!(f, "its constructor failed: {}", first_line(error)),
        }
    }
}

impl std::error::Error for RootError {}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("")
}

/// An open library whose layout was checked.
#[derive(Clone, Copy)]
pub struct Root(FfiLibraryRef);

impl Root {
    /// Takes the root symbol of a library over.
    ///
    /// The layout is compared both ways, each with fresh state, so that no library decides another's fate: a newer
    /// library is accepted because it extends what the host knows, an older one because the host extends what it
    /// knows. What the older side lacks then reads as absent.
    ///
    /// # Safety
    /// `symbol` is the address of [`ROOT_SYMBOL`] in a library that carries a tcw manifest, is trusted as code, and
    /// is never unloaded.
    #[expect(unsafe_code, reason = "the address of a foreign symbol becomes a reference")]
    pub unsafe fn from_symbol(symbol: *const c_void) -> std::result::Result<Root, RootError> {
        // SAFETY: the symbol is a static `LibHeader`, which starts with an `AbiHeader`; `AbiHeaderRef` is a
        // transparent reference to that, valid for ever because the library stays.
        let header: AbiHeaderRef = unsafe { std::mem::transmute::<*const c_void, AbiHeaderRef>(symbol) };
        let header: &'static LibHeader = header
            .upgrade()
            .map_err(|error| RootError::Header(error.to_string()))?;
        check(<FfiLibraryRef as StableAbi>::LAYOUT, header)?;
        // SAFETY: one of the two layouts was found to be an extension of the other, so every field and method that
        // both sides know stands at the same place, and the accessors of prefix types ask for the others.
        let root = unsafe { header.init_root_module_with_unchecked_layout::<FfiLibraryRef>() };
        root.map(Root)
            .map_err(|error| RootError::Constructor(error.to_string()))
    }

    /// Lets the library report to `sink`, from `level` (0 to 5) down. Once, before anything else.
    pub fn initialise(&self, sink: Arc<dyn Sink>, level: u32) {
        let options = format!("{{\"logLevel\":{level}}}");
        (self.0.initialise())(export_diagnostics(sink), options.into());
    }

    /// The provider of the library's engine.
    pub async fn engine_provider(&self) -> Result<Arc<dyn EngineProvider>> {
        Wire::from_wire(receive((self.0.engine_provider())(no_options())).await?)
    }

    /// The provider of the plugin with this place in the manifest.
    pub async fn plugin_provider(&self, index: u32) -> Result<Arc<dyn PluginProvider>> {
        Wire::from_wire(receive((self.0.plugin_provider())(index, no_options())).await?)
    }

    /// Changes the level that the library reports from.
    pub fn set_log_level(&self, level: u32) {
        (self.0.set_log_level())(level);
    }
}

fn check(host: &'static TypeLayout, header: &'static LibHeader) -> std::result::Result<(), RootError> {
    let Some(library) = header.layout() else {
        return Err(RootError::Header("it does not describe its layout".to_owned()));
    };
    let Err(forward) = check_layout_compatibility_with_globals(host, library, &CheckingGlobals::new()) else {
        return Ok(());
    };
    let Err(backward) = check_layout_compatibility_with_globals(library, host, &CheckingGlobals::new())
    else {
        return Ok(());
    };
    Err(RootError::Layout {
        report: format!("as a newer library:\n{forward}\n\nas an older library:\n{backward}\n"),
    })
}
