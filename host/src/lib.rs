//! tcw-host: the library behind the binary.
