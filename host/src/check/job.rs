//! What one case is told and what it answers: files in a directory of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything was as expected.
    Passed,
    /// What was expected and what was seen.
    Failed(String),
    /// The vendor's reason.
    Skipped(String),
    /// What it would need and is not there.
    NotApplicable(String),
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Task {
    /// Load the library and say what it is.
    Describe,
    /// A case for engines.
    Engine { case: String },
    /// A case for plugins.
    Plugin { case: String, plugin: String },
}

/// A case, for the processes that supervise and run it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) task: Task,
    /// How many stages it has.
    pub(super) stages: usize,
    pub(super) library: PathBuf,
    /// Where loaded libraries are stored, for all cases of one check.
    pub(super) state: PathBuf,
    /// The check file.
    pub(super) drive: Value,
    /// Of each stage.
    pub(super) timeout_ms: u64,
    /// The process that dispatches: its end is everybody's.
    pub(super) dispatcher: u32,
}

/// What a library says about itself once it is loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Described {
    /// The library's name.
    pub name: String,
    /// `None` for a library without one.
    pub engine: Option<EngineSaid>,
    /// By the order of the manifest.
    pub plugins: Vec<PluginSaid>,
}

/// What an engine says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineSaid {
    /// `null`: it takes none.
    pub configuration_schema: Value,
    /// Its description, or why it could not be made.
    pub description: Result<Value, String>,
}

/// What a plugin says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginSaid {
    /// Its name.
    pub name: String,
    /// The provider's description.
    pub provider: Value,
    /// The plugin's own, or why it could not be made.
    pub description: Result<Value, String>,
}

/// What the process that describes a library writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The loader's words.
    Unloadable(String),
    Loaded(Described),
}

/// The directory of one case.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(directory: PathBuf) -> Self {
        Place(directory)
    }

    /// Makes it, with its job in it.
    pub(super) fn create(directory: PathBuf, job: &Job) -> io::Result<Place> {
        fs::create_dir(&directory)?;
        let place = Place(directory);
        place.write("job", job)?;
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn job(&self) -> io::Result<Job> {
        self.read("job")
    }

    /// Folders and leases of the case.
    pub(super) fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// Temporary files of the case's process.
    pub(super) fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// What the case's process writes on its streams.
    pub(super) fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// The step that has begun last.
    pub(super) fn step(&self) -> PathBuf {
        self.0.join("step")
    }

    pub(super) fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        // Whole or not at all: the reader may come when the writer has just been killed.
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(new, self.0.join(name))
    }

    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> io::Result<T> {
        Ok(serde_json::from_slice(&fs::read(self.0.join(name))?)?)
    }
}
