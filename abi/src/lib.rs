//! The stable ABI of tcw and the SDK on top of it: the one crate that an engine or a plugin depends on.
//!
//! A library implements [`engine::EngineProvider`] or [`plugin::PluginProvider`] and exports them with
//! [`export_library!`]. Authors see ordinary async traits over ordinary types; the `repr(C)` mirror that really
//! crosses the boundary is private to this crate.

pub mod engine;
pub mod error;
mod fence;
pub mod io;
pub mod plugin;
pub mod runtime;
pub mod services;

pub use async_trait::async_trait;
pub use error::{Error, ErrorKind, Handling, Result};
pub use serde_json;

/// Exports a library's providers. (The mirror behind it arrives with the next commits.)
#[macro_export]
macro_rules! export_library {
    ($($ignored:tt)*) => {};
}
