//! From a path to a usable provider.
//!
//! Loading is a list, and [`Loader::load`] reads like it:
//!
//! 1. find the file, in a directory of its own or alone ([`find`]);
//! 2. check who owns it and who may write it, up to the root ([`verify`]);
//! 3. read its bytes, once;
//! 4. read the manifest, without running anything ([`inspect`]);
//! 5. check that this host can run it: family, major version, target, GLIBC ([`inspect`]);
//! 6. copy the bytes into the store, under their own hash ([`store`]);
//! 7. if it is new here, open the copy in a process that may be lost ([`probe`]);
//! 8. open the copy ([`open`]);
//! 9. compare the layouts, both ways (`tcw_abi::host`);
//! 10. hand it the host's diagnostics.
//!
//! Configuration and creation of the providers come after that, in [`crate::assembly`].
//!
//! A library is never unloaded, and no two versions of it ever share a path.

mod diagnostics;
mod error;
pub mod find;
pub mod inspect;
mod open;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod pages;
mod probe;
mod store;
mod verify;

use std::path::{Path, PathBuf};

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

/// Loads libraries into the host.
#[derive(Clone, Debug)]
pub struct Loader {
    store: PathBuf,
    diagnostics: Diagnostics,
    probe: Option<Probe>,
}

impl Loader {
    /// `state` is the worker's state directory: the store is its `libraries`.
    pub fn new(state: &Path, diagnostics: Diagnostics) -> Self {
        Loader {
            store: state.join("libraries"),
            diagnostics,
            probe: None,
        }
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
        let stored = store::keep(&self.store, &files)?;
        if let Some(probe) = &self.probe {
            probe.run(&found.main, &stored, &self.store)?;
        }
        let root = open::open(&found.main, &stored, &self.store)?;
        root.initialise(
            self.diagnostics.sink_for(&inspection.manifest.name),
            self.diagnostics.level(),
        );
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        pages::give_back(&stored);
        tracing::info!(
            library = inspection.manifest.name,
            version = inspection.manifest.version,
            abi = inspection.manifest.abi.version,
            sha256 = files.sha256,
            path = %found.main.display(),
            "library loaded"
        );
        Ok(Library {
            manifest: inspection.manifest,
            source: found.main,
            sha256: files.sha256,
            root,
        })
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
