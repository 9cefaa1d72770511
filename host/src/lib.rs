//! tcw-host: the library behind the binary.

pub mod config;
pub mod schema;
