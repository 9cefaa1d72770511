//! tcw-host: the library behind the binary.

pub mod queue;
