//! Who may write a library's bytes, and reading them once.
//!
//! Whoever can change the file, or put another one in its place, runs code as the worker. So the file and every
//! directory above it must belong to root or to the worker's own user, and nobody else may write there.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::LibraryError;
use super::find::Found;

/// Bytes of one file.
pub(super) struct Content {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// A library's bytes, read once: what is checked is what is stored.
pub(super) struct Files {
    /// The main file first, then its companions by name.
    pub(super) contents: Vec<Content>,
    /// Hex SHA-256 of the main file, or of all names and bytes of a directory.
    pub(super) sha256: String,
}

impl Files {
    pub(super) fn main(&self) -> &Content {
        &self.contents[0]
    }
}

/// More than any sane library; what a mistaken path may lead to is not read into memory.
const LARGEST: u64 = 512 << 20;

/// Checks ownership and permissions, and reads the bytes.
pub(super) fn read(found: &Found) -> Result<Files, LibraryError> {
    let own_directory = found
        .directory
        .as_deref()
        .or(found.main.parent())
        .unwrap_or(Path::new("."));
    check_directories(&found.main, own_directory)?;
    let mut contents = vec![read_file(&found.main)?];
    if let Some(directory) = &found.directory {
        let mut companions: Vec<PathBuf> = fs::read_dir(directory)
            .map_err(|error| {
                LibraryError::new(directory, error.to_string(), "make it readable for the worker")
            })?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| *path != found.main && path.is_file())
            .collect();
        companions.sort();
        for companion in companions {
            contents.push(read_file(&companion)?);
        }
    }
    let sha256 = digest(&contents);
    Ok(Files { contents, sha256 })
}

/// Of one file its plain SHA-256, as `sha256sum` prints it; of several, over their names and lengths too.
pub(super) fn digest(contents: &[Content]) -> String {
    let mut hash = Sha256::new();
    if let [only] = contents {
        hash.update(&only.bytes);
    } else {
        for content in contents {
            hash.update((content.name.len() as u64).to_be_bytes());
            hash.update(&content.name);
            hash.update((content.bytes.len() as u64).to_be_bytes());
            hash.update(&content.bytes);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_file(path: &Path) -> Result<Content, LibraryError> {
    let (mut file, metadata) = open_plain(path)?;
    check_owner(path, &metadata)?;
    Ok(Content {
        name: super::file_name(path),
        bytes: bytes(&mut file, path, &metadata)?,
    })
}

/// Opens a plain file of a sane size: not a link, a pipe or a device, whatever its name is.
pub(super) fn open_plain(path: &Path) -> Result<(File, fs::Metadata), LibraryError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => {
            return Err(LibraryError::new(
                path,
                "it is a symbolic link, which can be turned to another file between check and use",
                "put the file itself there",
            ));
        }
        Err(error) => return Err(unreadable(path, error.into())),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    if !metadata.is_file() {
        return Err(LibraryError::new(
            path,
            "it is not a plain file",
            "give a library's file",
        ));
    }
    if metadata.len() > LARGEST {
        return Err(LibraryError::new(
            path,
            format!("it has {} bytes, and no library is that large", metadata.len()),
            "give a library's file",
        ));
    }
    Ok((file, metadata))
}

/// The bytes of a file that was opened so; what has grown since then is not read.
pub(super) fn bytes(file: &mut File, path: &Path, metadata: &fs::Metadata) -> Result<Vec<u8>, LibraryError> {
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: std::io::Error) -> LibraryError {
    LibraryError::new(path, error.to_string(), "make it readable for the worker")
}

fn check_directories(library: &Path, directory: &Path) -> Result<(), LibraryError> {
    let directory = fs::canonicalize(directory)
        .map_err(|error| LibraryError::new(library, error.to_string(), "check the path"))?;
    for (depth, ancestor) in directory.ancestors().enumerate() {
        let metadata = fs::metadata(ancestor)
            .map_err(|error| LibraryError::new(ancestor, error.to_string(), "check the path"))?;
        // In a sticky directory above (such as /tmp) others may write, but replace only what is theirs. Its owner may
        // replace everything.
        let sticky = depth > 0 && metadata.mode() & 0o1000 != 0;
        check_user(ancestor, &metadata)?;
        if !sticky {
            check_mode(ancestor, &metadata)?;
        }
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), LibraryError> {
    check_user(path, metadata)?;
    check_mode(path, metadata)
}

fn check_user(path: &Path, metadata: &fs::Metadata) -> Result<(), LibraryError> {
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != me {
        return Err(LibraryError::new(
            path,
            format!(
                "it belongs to user {}, who could change what the worker runs",
                metadata.uid()
            ),
            format!("chown it to root or to the worker's user ({me})"),
        ));
    }
    Ok(())
}

fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), LibraryError> {
    // A group that the worker itself runs in is its user's own where every user has one.
    let foreign_group = metadata.gid() != 0 && metadata.gid() != rustix::process::getegid().as_raw();
    let writable = if foreign_group { 0o022 } else { 0o002 };
    if metadata.mode() & writable != 0 {
        return Err(LibraryError::new(
            path,
            format!(
                "others may write it (mode {:04o}), and so change what the worker runs",
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}
