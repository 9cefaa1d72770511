//! Opening files beneath a directory, and nowhere else.
//!
//! A task decides what its directory holds: links to `/etc/shadow`, FIFOs that nobody writes to, devices. So no path
//! is ever joined and opened. The kernel resolves it beneath a directory descriptor (`openat2`), the result is looked
//! at before it is opened for reading, and what is opened then is that very inode.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::links::Names;

/// Deeper folders are not looked into.
const DEEPEST: usize = 100;

/// Folders with more entries are refused.
const MOST_ENTRIES: usize = 500_000;

/// Why there is no such file, for the author of the task. The path is named by the caller.
pub(crate) type Reason = String;

/// A file that was found.
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) names: Names,
}

/// The path as the kernel is to resolve it: relative to the task's directory. An absolute one has to name the
/// directory; whether the rest of it leads out is the kernel's to say.
pub(crate) fn relative<'a>(root: &Path, path: &'a str) -> Result<&'a Path, Reason> {
    if path.contains('\0') {
        return Err("a path cannot contain the character NUL".into());
    }
    let path = Path::new(path);
    let path = if path.is_absolute() {
        path.strip_prefix(root)
            // The directory's own path is the worker's, and this is read by everybody.
            .map_err(|_| "it is outside the task directory; name it relative to that".to_owned())?
    } else {
        path
    };
    Ok(if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    })
}

/// Opens a directory by its own name, which must not be a link.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY,
        Mode::empty(),
    )
}

/// Resolves `path` beneath `root` without opening what is there.
pub(crate) fn locate(root: impl AsFd, path: &Path, follow: bool) -> Result<OwnedFd, Reason> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if !follow {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        // A kernel before 5.6, or a filter around the worker that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path),
        Err(error) => Err(explain(error)),
        Ok(found) => Ok(found),
    }
}

/// The same, one component after another. It follows no link at all.
fn walk(root: impl AsFd, path: &Path) -> Result<OwnedFd, Reason> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(explain)?;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                at = rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(explain)?;
                let kind = status(&at)?;
                if FileType::from_raw_mode(kind.st_mode) == FileType::Symlink {
                    return Err(
                        "it leads through a symbolic link, which this machine's kernel cannot \
                                follow safely"
                            .into(),
                    );
                }
            }
            _ => return Err("it leads out of the task directory".into()),
        }
    }
    Ok(at)
}

pub(crate) fn explain(error: Errno) -> Reason {
    match error {
        Errno::NOENT | Errno::NOTDIR => "it does not exist".into(),
        Errno::XDEV => {
            "it leads out of the task directory, by '..' or through a symbolic link (links have to be \
                        relative)"
                .into()
        }
        Errno::LOOP => "it leads through a loop of links, or a link where none is followed".into(),
        Errno::NAMETOOLONG => "its name is too long".into(),
        Errno::ACCESS => "the worker is not allowed to read it".into(),
        error => error.to_string(),
    }
}

fn status(fd: impl AsFd) -> Result<Stat, Reason> {
    rustix::fs::fstat(fd).map_err(explain)
}

fn kind_of(status: &Stat) -> &'static str {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        FileType::RegularFile => "a plain file",
        FileType::Unknown => "of an unknown sort",
    }
}

/// Opens the inode that was located and looked at. `/proc/self/fd` is the only way to do so without resolving the
/// path once more.
pub(crate) fn reopen(located: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Reason> {
    rustix::fs::open(
        format!("/proc/self/fd/{}", located.as_raw_fd()),
        flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(explain)
}

/// Opens a plain file for reading. `follow`: through symbolic links that stay beneath `root`.
pub(crate) fn open_file(root: impl AsFd, path: &Path, follow: bool) -> Result<Found, Reason> {
    let located = locate(root, path, follow)?;
    let status = status(&located)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(format!("it is {}, not a plain file", kind_of(&status)));
    }
    Ok(Found {
        file: File::from(reopen(&located, OFlags::RDONLY)?),
        size: u64::try_from(status.st_size).unwrap_or(0),
        mode: status.st_mode & 0o7777,
        names: Names::from(&status),
    })
}

/// Opens a folder, to list it and to open files beneath it.
pub(crate) fn open_folder(root: impl AsFd, path: &Path) -> Result<OwnedFd, Reason> {
    let located = locate(root, path, true)?;
    let status = status(&located)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        return Err(format!("it is {}, not a directory", kind_of(&status)));
    }
    reopen(&located, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// What is beneath a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Plain files, sorted, relative to the folder.
    pub(crate) files: Vec<String>,
    /// Entries that are left out, each with the reason.
    pub(crate) left_out: Vec<String>,
}

/// Lists the plain files beneath a folder.
pub(crate) fn list(folder: &OwnedFd) -> Result<Listing, Reason> {
    list_up_to(folder, MOST_ENTRIES)
}

fn list_up_to(folder: &OwnedFd, most: usize) -> Result<Listing, Reason> {
    // Folders too: those that are still to be looked into are remembered like files.
    let mut entries_so_far = 0;
    let mut listing = Listing::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let directory = if below.as_os_str().is_empty() {
            rustix::fs::openat(
                folder,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(explain)
        } else {
            locate(folder, &below, false)
                .and_then(|located| reopen(&located, OFlags::RDONLY | OFlags::DIRECTORY))
        };
        let entries = match directory {
            Ok(directory) => Dir::new(directory).map_err(explain)?,
            Err(reason) => {
                listing.left_out.push(format!("{} ({reason})", below.display()));
                continue;
            }
        };
        for entry in entries {
            let entry = entry.map_err(explain)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            entries_so_far += 1;
            if entries_so_far > most {
                return Err(format!(
                    "it has more than {most} files and folders; put them into an archive"
                ));
            }
            let path = below.join(OsStr::from_bytes(name));
            match entry_type(folder, &path, entry.file_type()) {
                FileType::Directory if path.components().count() >= DEEPEST => {
                    listing.left_out.push(format!("{} (too deep)", path.display()));
                }
                FileType::Directory => pending.push(path),
                FileType::RegularFile => match path.to_str() {
                    Some(path) => listing.files.push(path.to_owned()),
                    None => listing
                        .left_out
                        .push(format!("{} (its name is not UTF-8)", path.display())),
                },
                _ => listing
                    .left_out
                    .push(format!("{} (not a plain file)", path.display())),
            }
        }
    }
    listing.files.sort_unstable();
    listing.left_out.sort_unstable();
    Ok(listing)
}

/// Some file systems do not say in the listing what an entry is.
fn entry_type(folder: &OwnedFd, path: &Path, known: FileType) -> FileType {
    if known != FileType::Unknown {
        return known;
    }
    rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW).map_or(FileType::Unknown, |status| {
        FileType::from_raw_mode(status.st_mode)
    })
}

/// Makes a new file beneath `root`, and the folders above it. Nothing on the way may be a link, and nothing may be
/// there already.
pub(crate) fn create_file(root: &OwnedFd, path: &Path, mode: u32) -> Result<File, CreateError> {
    let mut components: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => components.push(name),
            _ => return Err(CreateError::Path("it leads out of the task directory".into())),
        }
    }
    let Some((name, above)) = components.split_last() else {
        return Err(CreateError::Path("it names the task directory itself".into()));
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let mut at = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(CreateError::from)?;
    for folder in above {
        match rustix::fs::mkdirat(&at, *folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = rustix::fs::openat(&at, *folder, flags, Mode::empty()).map_err(CreateError::from)?;
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at, *name, flags, Mode::RUSR | Mode::WUSR)?;
    // Apart from the creation, because that is subject to the worker's umask.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
    Ok(File::from(file))
}

/// Why a file could not be made.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// There is one of that name.
    Taken,
    /// The path cannot be.
    Path(Reason),
    /// The machine's fault.
    System(Errno),
}

impl From<Errno> for CreateError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EXIST => CreateError::Taken,
            Errno::NOTDIR | Errno::LOOP => {
                CreateError::Path("something on its way is a file or a link, not a directory".into())
            }
            Errno::NAMETOOLONG => CreateError::Path("its name is too long".into()),
            error => CreateError::System(error),
        }
    }
}

/// Folders that are nested deeper than this are moved up before they are emptied, so that neither descriptors nor the
/// stack run out, however deep a task has nested them.
const NEST: usize = 64;

/// Removes everything in the directory, and follows nothing out of it. Folders that do not allow it are made to.
pub(crate) fn empty(directory: &OwnedFd) -> Result<(), String> {
    let mut moved = 0_u64;
    loop {
        let before = moved;
        empty_level(directory, directory, 0, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

fn empty_level(top: &OwnedFd, directory: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), String> {
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        let fail = |error: Errno| format!("'{}' cannot be removed: {error}", name.to_string_lossy());
        if kind != FileType::Directory {
            match remove(directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // It is a directory, which not every file system says in its listing.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        if depth >= NEST {
            *moved += 1;
            let new_name = format!(".moved-{moved}-{}", std::process::id());
            allowing(directory, || {
                rustix::fs::renameat(directory, &name, top, new_name.as_str())
            })
            .map_err(fail)?;
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let below = match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                // Unreadable, or in a directory that cannot be searched; a link here only has its target's mode
                // changed if the task made it after its own end, which it cannot.
                allowing(directory, || {
                    rustix::fs::chmodat(directory, &name, Mode::RWXU, AtFlags::empty())
                })
                .map_err(fail)?;
                rustix::fs::openat(directory, &name, flags, Mode::empty()).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        empty_level(top, &below, depth + 1, moved)?;
        drop(below);
        remove(directory, &name, AtFlags::REMOVEDIR).map_err(fail)?;
    }
    Ok(())
}

fn remove(directory: &OwnedFd, name: &std::ffi::CStr, flags: AtFlags) -> Result<(), Errno> {
    allowing(directory, || rustix::fs::unlinkat(directory, name, flags))
}

/// Tries again after making the directory writable, if that was the trouble.
fn allowing(directory: &OwnedFd, action: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match action() {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(directory, Mode::RWXU)?;
            action()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_count_as_entries_of_a_folder() {
        let root = std::env::temp_dir().join(format!("tcw-beneath-{}", std::process::id()));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(root.join("c")).unwrap();
        let folder = open_root(&root).unwrap();
        let (three, two) = (list_up_to(&folder, 3), list_up_to(&folder, 2));
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(three, Ok(Listing::default()));
        assert!(two.unwrap_err().contains("more than 2 files and folders"));
    }
}
