//! What a library's own tests use, without a host: a task, services and a sandbox that remember what was asked of
//! them.
//!
//! They keep the promises that a library relies on (one pipe a task, worker lines on fresh lines, folders that are
//! gone after `dispose`) and nothing more: no queue, no compression, no network. [`conformance`] is what every engine and
//! every plugin has to do, as cases that run against any of them.

pub mod conformance;
mod sandbox;
mod services;
mod task;

pub use sandbox::{FakeBuilder, FakeEngineHandle, FakeFile, FakeResult, FakeSandbox};
pub use services::FakeServices;
pub use task::{FakeArtifact, FakeTask, handle_with};
