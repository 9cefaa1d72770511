//! A host of one version of the ABI. `stage.py` puts the worker's own loader beside this file.

pub mod library;
pub mod services;
pub mod task;
