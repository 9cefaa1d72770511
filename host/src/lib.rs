//! tcw-host: the library behind the binary.

pub mod assembly;
pub mod check;
pub mod cli;
pub mod config;
pub mod library;
pub mod lint;
mod memory;
pub mod queue;
pub mod schema;
pub mod services;
pub mod task;
pub mod worker;

pub(crate) use library::fault_point;
