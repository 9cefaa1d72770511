//! The stable ABI of tcw and the SDK on top of it: the one crate that an engine or a plugin depends on.
//!
//! A library implements [`engine::EngineProvider`] or [`plugin::PluginProvider`] and exports them with
//! [`export_library!`]. Authors see ordinary async traits over ordinary types; the `repr(C)` mirror that really
//! crosses the boundary is private to this crate.
//!
//! # Policy
//!
//! A library built against 1.a loads in every host 1.b, older or newer. Therefore a released function, structure, enum
//! value or error kind never changes its meaning, layout, ownership or threading. What may happen:
//!
//! - a new method with a default at the **end** of an FFI trait: an older peer runs the default;
//! - a new optional field at the **end** of a prefix type: in an older library it reads as absent;
//! - a new key in a JSON object (descriptions, requests, `options`): unknown keys are ignored, absent ones have a
//!   default;
//! - a new error kind, with one of 1.0 as its fallback; a new value of an enum that crosses as text and has a variant
//!   for unknown values.
//!
//! A newer engine's method stays invisible to a newer plugin in an older host, because the host stands between them.
//! Everything else is a new major version. `abi_stable` and `async-ffi` are pinned and appear in no signature that an
//! author writes.
//!
//! # History
//!
//! - **1.0**: the first.

pub mod diagnostics;
pub mod engine;
pub mod error;
mod export;
mod fence;
mod ffi;
#[cfg(feature = "host")]
pub mod host;
pub mod io;
pub mod manifest;
pub mod plugin;
pub mod runtime;
pub mod services;
#[cfg(feature = "testing")]
pub mod testing;

pub use async_trait::async_trait;
pub use error::{Error, ErrorKind, Handling, Result};
pub use serde_json;

#[doc(hidden)]
pub use export::__private;

/// The pages for vendors in the book: all Rust on them compiles.
#[cfg(all(doctest, feature = "testing"))]
mod pages {
    macro_rules! page {
        ($($name:ident = $file:literal,)+) => {
            $(#[doc = include_str!(concat!("../../docs/src/vendors/", $file))] mod $name {})+
        };
    }
    page! {
        reference_engine = "reference-engine.md",
        reference_plugin = "reference-plugin.md",
        reference_services = "reference-services.md",
        errors = "errors.md",
        testing = "testing.md",
        must_not = "must-not.md",
    }
}
