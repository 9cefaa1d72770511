//! The native engine through its public objects, with real processes and files.

mod commands;
mod ending;
mod files;
mod scene;
mod shells;
