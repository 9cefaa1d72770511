//! tcw-host: the library behind the binary.

pub mod queue;
pub mod services;
pub mod task;
