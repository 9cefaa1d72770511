//! From a path to a usable provider.
//!
//! Loading is a list, and [`Loader::load`] reads like it:
//!
//! 1. find the file, in a directory of its own or alone ([`find`]);
//! 2. check who owns it and who may write it, up to the root ([`verify`]);
//! 3. read its bytes, once;
//! 4. read the manifest, without running anything ([`inspect`]);
//! 5. check that this host can run it: family, major version, target, GLIBC ([`inspect`]);
//! 6. refuse bytes that have crashed the worker too often;
//! 7. copy the bytes into the store, under their own hash ([`store`]);
//! 8. if they are new here, open the copy in a process that may be lost ([`probe`]);
//! 9. open the copy ([`open`]), under the eyes of [`crash`];
//! 10. compare the layouts, both ways (`tcw_abi::host`);
//! 11. hand it the host's diagnostics.
//!
//! Configuration and creation of the providers come after that, in [`crate::assembly`].
//!
//! A library is never unloaded, and no two versions of it ever share a path. What is to be loaded afresh, code and
//! statics, is copied once more: a later *generation*.

pub mod crash;
mod diagnostics;
mod error;
pub(crate) mod fault_point;
pub mod find;
pub mod inspect;
mod open;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod pages;
mod probe;
mod store;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crash::{Identity, Loading};
pub use error::LibraryError;
pub use inspect::Inspection;
use tcw_abi::host::Root;
use tcw_abi::manifest::Manifest;

pub use diagnostics::Diagnostics;
pub use open::leave;
pub use probe::{Probe, open_here};

/// A library that was loaded.
#[derive(Clone)]
pub struct Library {
    /// Who it is.
    pub manifest: Manifest,
    /// Where the operator put it.
    pub source: PathBuf,
    /// Hex SHA-256 of its bytes (of a directory: of all its files).
    pub sha256: String,
    /// Its functions.
    pub root: Root,
}

impl Library {
    /// The file's name, as people know it.
    pub fn file_name(&self) -> String {
        file_name(&self.source)
    }
}

/// Bytes that are not loaded, by their SHA-256, and why: "it crashed the worker 3 times, ...".
pub type Quarantine = BTreeMap<String, String>;

/// Loads libraries into the host.
#[derive(Clone, Debug)]
pub struct Loader {
    store: PathBuf,
    diagnostics: Diagnostics,
    quarantine: Arc<Quarantine>,
    generation: u32,
    probe: Option<Probe>,
}

impl Loader {
    /// `state` is the worker's state directory: the store is its `libraries`.
    pub fn new(state: &Path, diagnostics: Diagnostics) -> Self {
        Loader {
            store: state.join("libraries"),
            diagnostics,
            quarantine: Arc::default(),
            generation: 0,
            probe: None,
        }
    }

    /// The same, but for the bytes that are in quarantine.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Quarantine) -> Self {
        self.quarantine = Arc::new(quarantine);
        self
    }

    /// A loader of fresh copies: what it loads shares neither code nor statics with anything that was loaded before.
    #[must_use]
    pub fn next_generation(&self) -> Self {
        Loader {
            generation: self.generation + 1,
            ..self.clone()
        }
    }

    /// How often the process has begun anew; 0 at its start.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Removes what later generations of processes that are gone have left in the store. For the worker that has the
    /// state directory to itself.
    pub fn sweep(&self) {
        store::sweep(&self.store);
    }

    /// Tries libraries that are new here in a process of their own first.
    #[must_use]
    pub fn probing(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Loads one library, from a file or from a directory. Blocking; no code of the library runs but its
    /// constructors and the start of its diagnostics.
    pub fn load(&self, path: &Path) -> Result<Library, LibraryError> {
        let found = find::library(path)?;
        let files = verify::read(&found)?;
        let inspection = inspect::inspect(&found.main, &files.main().bytes)?;
        inspection.refuse_foreign()?;
        self.refuse_quarantined(&found.main, &inspection.manifest, &files.sha256)?;
        let stored = store::keep(&self.store, &files, self.generation)?;
        if let Some(probe) = &self.probe {
            probe.run(&found.main, &stored, &self.store)?;
        }
        self.open_stored(found.main, &stored, inspection.manifest, files.sha256)
    }

    /// The last steps of loading: `stored` is the copy of `source`.
    fn open_stored(
        &self,
        source: PathBuf,
        stored: &Path,
        manifest: Manifest,
        sha256: String,
    ) -> Result<Library, LibraryError> {
        let identity = Identity {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            sha256: sha256.clone(),
            path: readable(&source),
        };
        let loading = Loading::begin(identity, stored);
        let root = open::open(&source, stored, &self.store)?;
        root.initialise(
            self.diagnostics.sink_for(&manifest.name),
            self.diagnostics.level(),
        );
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        pages::give_back(stored);
        drop(loading);
        tracing::info!(
            library = manifest.name,
            version = manifest.version,
            abi = manifest.abi.version,
            sha256,
            path = %source.display(),
            "library loaded"
        );
        Ok(Library {
            manifest,
            source,
            sha256,
            root,
        })
    }

    /// Where the store has the library with these bytes, if it has.
    pub fn stored(&self, sha256: &str) -> PathBuf {
        self.store.join(sha256)
    }

    /// Loads a library from the store, where a process that is gone has put it: to undo what it did. Blocking.
    pub fn load_stored(&self, sha256: &str) -> Result<Library, LibraryError> {
        let place = self.stored(sha256);
        let refused = |found: &str| {
            LibraryError::new(
                &place,
                found,
                "load a version of the same library, which may understand what the other one left",
            )
        };
        // It becomes a part of a path.
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused("this is not the hash of a library"));
        }
        if !place.exists() {
            return Err(refused("the library is not in the store any more"));
        }
        let found = find::library(&place)?;
        let files = verify::read(&found)?;
        if files.sha256 != sha256 {
            return Err(refused("the stored library does not match its hash"));
        }
        let main = found.main;
        let inspection = inspect::inspect(&main, &files.main().bytes)?;
        inspection.refuse_foreign()?;
        self.refuse_quarantined(&main, &inspection.manifest, sha256)?;
        let stored = main.clone();
        self.open_stored(main, &stored, inspection.manifest, files.sha256)
    }

    fn refuse_quarantined(&self, path: &Path, manifest: &Manifest, sha256: &str) -> Result<(), LibraryError> {
        let Some(why) = self.quarantine.get(sha256) else {
            return Ok(());
        };
        let name = &manifest.name;
        Err(LibraryError {
            quarantined: Some(Box::new(manifest.clone())),
            ..LibraryError::new(
                path,
                format!("{name} {} is quarantined: {why}", manifest.version),
                format!("get another version, or try it again after `tcw-host library release {name}`"),
            )
        })
    }
}

/// A path for a record: whoever reads that may stand elsewhere, and it is text.
fn readable(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    PathBuf::from(path.to_string_lossy().into_owned())
}

/// The SHA-256 of the library at `path`, as [`Library::sha256`]; `None` if it would be refused.
pub fn sha256(path: &Path) -> Option<String> {
    let files = verify::read(&find::library(path).ok()?).ok()?;
    Some(files.sha256)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
