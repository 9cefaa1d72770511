//! Every version of a library in a host of this version. `tests/abi-history/run.sh` builds the libraries and says
//! where they are in `TCW_HISTORY`.

mod combinations;
mod drafts;
mod images;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};

use probe::library::{Diagnostics, Library, LibraryError, Loader};
use tempfile::TempDir;

/// Whether this host is the one with what was appended.
fn host_is_next() -> bool {
    std::env::var("TCW_HOST").expect("run.sh sets it") == "next"
}

/// The library that was built against `version`.
fn built(version: &str) -> PathBuf {
    let history = std::env::var_os("TCW_HISTORY").expect("run tests/abi-history/run.sh, which sets TCW_HISTORY");
    Path::new(&history).join(version).join("librecorded_library.so")
}

/// A place with the operator's libraries, and a worker's state.
struct Scene {
    directory: TempDir,
    loader: Loader,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let loader = Loader::new(&directory.path().join("state"), Diagnostics::start());
        Scene { directory, loader }
    }

    /// Installs a library under a name of its own.
    fn installed(&self, version: &str) -> PathBuf {
        let path = self.path(&format!("lib{version}.so"));
        fs::copy(built(version), &path).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self, version: &str) -> Result<Library, LibraryError> {
        self.loader.load(&self.installed(version))
    }
}
