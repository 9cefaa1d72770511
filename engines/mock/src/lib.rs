//! The mock engine: for the tests of the host, of plugins, and of whoever wants to see every feature at work.
//!
//! It starts no process. A task names a *function* that stands for what a process would do, everything else (volumes,
//! proxies, shells, a display, files) lives in this process, and *faults* make any call fail, panic, hang or crash.
//! What it declares it keeps: the conformance cases for engines pass.

mod builder;
mod display;
mod engine;
mod faults;
mod files;
mod functions;
mod payload;
mod proxy;
mod result;
mod sandbox;
mod shell;
mod volume;

pub use engine::MockEngineProvider;

tcw_abi::export_library! { name: "mock", engine: MockEngineProvider }
