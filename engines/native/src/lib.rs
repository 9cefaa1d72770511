//! The native engine: a task's commands are processes of this machine, run as the worker's own user.
//!
//! ```text
//! engine     configuration, features, documentation
//! payload    the keys of a task's payload
//! builder    what a task gets before it starts
//! sandbox    a running task, as the host sees it
//! driver     runs the commands, one after another, and ends what they leave behind
//! shell      processes beside the commands
//! result     files out of the task's directory
//! ```
//!
//! and beneath them `directory`, `beneath` and `links` (files), `environment`, `command` (finding and starting programs),
//! `tree` (all processes of a task), `spawn` (the C library), `log_text` (what is printed into the task log),
//! `background` (what goes on when a call has returned).

mod background;
mod beneath;
mod builder;
mod command;
mod directory;
mod driver;
mod engine;
mod environment;
mod links;
mod log_text;
mod payload;
mod places;
mod result;
mod sandbox;
mod shell;
mod spawn;
mod tree;

pub use engine::NativeEngineProvider;

tcw_abi::export_library! { name: "native", engine: NativeEngineProvider }
