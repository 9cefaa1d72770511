//! Where libraries are: a file, a directory with companions, or a directory full of either.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::LibraryError;
use super::inspect;

/// A library's main file, and what lies beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file with the manifest.
    pub main: PathBuf,
    /// The directory that belongs to it as a whole, if it is shipped as one.
    pub directory: Option<PathBuf>,
}

const MISSING: &str = "check the path; engines and plugins of this build are in target/release";

/// The library at `path`: a file, or a directory that holds exactly one file with a manifest.
pub fn library(path: &Path) -> Result<Found, LibraryError> {
    let metadata =
        fs::symlink_metadata(path).map_err(|error| LibraryError::new(path, error.to_string(), MISSING))?;
    if metadata.is_symlink() {
        return Err(LibraryError::new(
            path,
            "it is a symbolic link, which can be turned to another file between check and use",
            "give the path of the file itself",
        ));
    }
    if metadata.is_file() {
        return Ok(Found {
            main: path.to_owned(),
            directory: None,
        });
    }
    if !metadata.is_dir() {
        return Err(LibraryError::new(
            path,
            "it is neither a file nor a directory",
            MISSING,
        ));
    }
    let mut mains: Vec<PathBuf> = shared_objects(path)?
        .into_iter()
        .filter(|file| inspect::has_manifest(file))
        .collect();
    match (mains.pop(), mains.pop()) {
        (Some(main), None) => Ok(Found {
            main,
            directory: Some(path.to_owned()),
        }),
        (None, _) => Err(LibraryError::new(
            path,
            "the directory holds no library with a tcw manifest",
            "give the library's file, or with --plugins a directory of libraries",
        )),
        (Some(_), Some(_)) => Err(LibraryError::new(
            path,
            "the directory holds several libraries, so it is not one library",
            "give the library's file, or use the directory with --plugins",
        )),
    }
}

/// All candidates in a directory of libraries, sorted by name: shared objects, and directories that hold one. Whether
/// they are libraries shows when they are loaded.
pub fn candidates(directory: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let mut found = shared_objects(directory)?;
    for entry in entries(directory)? {
        if entry.is_dir()
            && shared_objects(&entry).is_ok_and(|inner| inner.iter().any(|file| inspect::has_manifest(file)))
        {
            found.push(entry);
        }
    }
    found.sort();
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let listing = fs::read_dir(directory).map_err(|error| {
        LibraryError::new(
            directory,
            error.to_string(),
            "give a directory that exists and that the worker may read",
        )
    })?;
    Ok(listing
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect())
}

fn shared_objects(directory: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let suffix = OsStr::new(std::env::consts::DLL_EXTENSION);
    let mut files: Vec<PathBuf> = entries(directory)?
        .into_iter()
        .filter(|path| path.extension() == Some(suffix) && !path.is_dir())
        .collect();
    files.sort();
    Ok(files)
}
