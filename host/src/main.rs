//! The tcw-host binary.
fn main() {}
