//! tcw-host: the library behind the binary.

pub mod library;
pub mod queue;
