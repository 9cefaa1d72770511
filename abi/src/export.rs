//! `export_library!`: the manifest and the one symbol that a library exports.

/// What the macro's expansion needs. Not for anybody else.
#[doc(hidden)]
pub mod __private {
    pub use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
    pub use std::sync::Arc;

    pub use crate::ffi::library::{Exports, FfiLibraryRef, engine_object, plugin_object, root_module};
    pub use crate::manifest::text::{Piece, is_name, join, length};
    pub use crate::manifest::{ABI_VERSION, FAMILY, RUSTC, TARGET};

    /// What cargo knows, or nothing where something else builds.
    pub const fn or_empty(value: Option<&'static str>) -> &'static str {
        match value {
            Some(value) => value,
            None => "",
        }
    }
}

/// Exports a library's providers.
///
/// ```ignore
/// tcw_abi::export_library! { name: "greeting", plugins: [GreetingProvider] }
/// tcw_abi::export_library! { name: "bubblewrap", engine: BubblewrapProvider }
/// tcw_abi::export_library! {
///     name: "company",
///     engine: CompanyEngineProvider::new(),
///     plugins: ["company-caches" => CachesProvider, "company-signing" => SigningProvider],
/// }
/// ```
///
/// Names are lower-case letters, digits and hyphens. The engine has the library's name, and so has a single plugin;
/// several plugins are named one by one. Providers are expressions, evaluated once, on the library's own threads.
/// Version, vendor and licence are those of the crate. A library that is compiled with `panic = "abort"` is refused
/// here: the fence around its code would not hold.
#[macro_export]
macro_rules! export_library {
    (name: $name:literal, engine: $engine:expr $(, plugins: [])? $(,)?) => {
        $crate::export_library! { @export $name, ("true") [$engine] [] }
    };
    (name: $name:literal, plugins: [$plugin:expr $(,)?] $(,)?) => {
        $crate::export_library! { @export $name, ("false") [] [$name => $plugin] }
    };
    (name: $name:literal, engine: $engine:expr, plugins: [$plugin:expr $(,)?] $(,)?) => {
        $crate::export_library! { @export $name, ("true") [$engine] [$name => $plugin] }
    };
    (name: $name:literal, plugins: [$($plugin_name:literal => $plugin:expr),+ $(,)?] $(,)?) => {
        $crate::export_library! { @export $name, ("false") [] [$($plugin_name => $plugin),+] }
    };
    (name: $name:literal, engine: $engine:expr, plugins: [$($plugin_name:literal => $plugin:expr),+ $(,)?] $(,)?) => {
        $crate::export_library! { @export $name, ("true") [$engine] [$($plugin_name => $plugin),+] }
    };
    (@export $name:literal, ($has_engine:literal) [$($engine:expr)?]
        [$($first_name:literal => $first:expr $(, $plugin_name:literal => $plugin:expr)*)?]
    ) => {
        #[allow(unsafe_code, missing_docs, unreachable_pub, non_upper_case_globals, reason = "the export of a library needs a symbol and a section of its own")]
        const _: () = {
            use $crate::__private::{self as sdk, Arc, Piece};

            const _: () = assert!(
                cfg!(panic = "unwind"),
                "a tcw library needs `panic = \"unwind\"`: with \"abort\" one panic would end the worker and all its tasks"
            );
            const _: () = assert!(
                sdk::is_name($name) $(&& sdk::is_name($first_name) $(&& sdk::is_name($plugin_name))*)?,
                "names of libraries and plugins are lower-case letters, digits and hyphens, and start with a letter"
            );

            const PIECES: &[Piece] = &[
                Piece::Raw("{\"name\":\""), Piece::Raw($name),
                Piece::Raw("\",\"version\":\""), Piece::Escaped(sdk::or_empty(option_env!("CARGO_PKG_VERSION"))),
                Piece::Raw("\",\"vendor\":\""), Piece::Escaped(sdk::or_empty(option_env!("CARGO_PKG_AUTHORS"))),
                Piece::Raw("\",\"license\":\""), Piece::Escaped(sdk::or_empty(option_env!("CARGO_PKG_LICENSE"))),
                Piece::Raw("\",\"engine\":"), Piece::Raw($has_engine),
                Piece::Raw(",\"plugins\":["),
                $(Piece::Raw("\""), Piece::Raw($first_name), Piece::Raw("\""),
                $(Piece::Raw(",\""), Piece::Raw($plugin_name), Piece::Raw("\""),)*)?
                Piece::Raw("],\"abi\":{\"family\":\""), Piece::Raw(sdk::FAMILY),
                Piece::Raw("\",\"version\":\""), Piece::Raw(sdk::ABI_VERSION),
                Piece::Raw("\"},\"sdk\":\""), Piece::Raw(sdk::ABI_VERSION),
                Piece::Raw("\",\"rustc\":\""), Piece::Escaped(sdk::RUSTC),
                Piece::Raw("\",\"target\":\""), Piece::Escaped(sdk::TARGET),
                Piece::Raw("\"}"),
            ];

            #[used]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".tcwmf"))]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__tcwmf"))]
            static MANIFEST: [u8; sdk::length(PIECES)] = sdk::join(PIECES);

            #[allow(unused_mut, unused_assignments, reason = "a library without an engine makes none")]
            extern "C" fn root() -> sdk::RootModuleResult {
                // `used` is a word to the compiler only: with link-time optimisation some linkers still drop the
                // section (seen with rustc 1.85), unless something that is exported leads to it.
                ::std::hint::black_box(&MANIFEST);
                let mut exports = sdk::Exports {
                    engine: None,
                    plugins: &[$(|| sdk::plugin_object(Arc::new($first)), $(|| sdk::plugin_object(Arc::new($plugin))),*)?],
                };
                $(exports.engine = Some(|| sdk::engine_object(Arc::new($engine)));)?
                sdk::root_module(exports)
            }

            // SAFETY: `root` answers a pointer that was made from an `FfiLibraryRef`.
            #[unsafe(no_mangle)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: sdk::LibHeader = unsafe {
                sdk::LibHeader::from_constructor::<sdk::FfiLibraryRef>(root, sdk::CheckTypeLayout::Yes)
            };
        };
    };
}
