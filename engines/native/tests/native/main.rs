//! The native engine through its public objects, with real processes and files.

mod commands;
mod ending;
mod files;
mod processes;
mod scene;
mod shells;
