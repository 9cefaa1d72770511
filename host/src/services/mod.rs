//! The host's side of what libraries are offered: `tcw_abi::services`, implemented.
//!
//! [`worker`] lasts as long as the worker and is the same for all libraries; [`context`] is one task's. Both answer
//! with the error kinds of the ABI, because that is what crosses to a library.

pub mod artifacts;
pub mod context;
pub mod engine_handle;
pub mod fetch;
pub mod http;
pub mod log;
mod scratch;
pub mod worker;
