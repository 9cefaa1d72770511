//! Files with several names. A hard link cannot be told from the file that it is a link to, so a task could give out any
//! file of the machine that it can link: one is only given out if all of its names are in the task's directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};

use crate::beneath::{self, Listing, Reason};

/// Directories with more entries are not looked through; files with several names are then left alone.
const MOST_ENTRIES: usize = 1_000_000;

/// Which file it is, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    file: (u64, u64),
    count: u64,
}

impl From<&Stat> for Names {
    fn from(status: &Stat) -> Names {
        Names {
            file: (status.st_dev, status.st_ino),
            count: status.st_nlink,
        }
    }
}

/// How many names there are in the task's directory of each file that has several. They are counted when the first
/// such file is asked for; all processes of the task have ended by then.
#[derive(Debug, Default)]
pub(crate) struct Links(OnceLock<BTreeMap<(u64, u64), u64>>);

impl Links {
    fn lead_out(&self, root: &OwnedFd, names: Names) -> bool {
        let inside = || self.0.get_or_init(|| count(root)).get(&names.file).copied();
        names.count > 1 && inside().unwrap_or(0) < names.count
    }

    /// Refuses a file that has names elsewhere.
    pub(crate) fn all_inside(&self, root: &OwnedFd, names: Names) -> Result<(), Reason> {
        if self.lead_out(root, names) {
            return Err("it is a hard link to a file outside the task directory; copy that file".into());
        }
        Ok(())
    }

    /// Takes files that have names elsewhere from the list of a folder's files.
    pub(crate) fn leave_out(&self, root: &OwnedFd, folder: &OwnedFd, listing: &mut Listing) {
        let Listing { files, left_out } = listing;
        files.retain(|path| {
            // What cannot be looked at says so when it is opened.
            let names = rustix::fs::statat(folder, path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            let inside = names.map_or(true, |status| !self.lead_out(root, Names::from(&status)));
            if !inside {
                left_out.push(format!(
                    "{path} (a hard link to a file outside the task directory)"
                ));
            }
            inside
        });
    }
}

fn count(root: &OwnedFd) -> BTreeMap<(u64, u64), u64> {
    let mut counts = BTreeMap::new();
    let mut entries = 0;
    let mut pending = vec![PathBuf::from(".")];
    while let Some(below) = pending.pop() {
        // A folder that cannot be read has no names for us: files with a name in it are not given out.
        let Some(directory) = open(root, &below) else {
            continue;
        };
        for entry in directory {
            entries += 1;
            if entries > MOST_ENTRIES {
                return counts;
            }
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = below.join(OsStr::from_bytes(name.to_bytes()));
            if entry.file_type() == FileType::Directory {
                pending.push(path);
            } else if let Ok(status) = rustix::fs::statat(root, &path, AtFlags::SYMLINK_NOFOLLOW) {
                match FileType::from_raw_mode(status.st_mode) {
                    FileType::Directory => pending.push(path),
                    FileType::RegularFile if status.st_nlink > 1 => {
                        *counts.entry((status.st_dev, status.st_ino)).or_insert(0) += 1;
                    }
                    _ => {}
                }
            }
        }
    }
    counts
}

fn open(root: &OwnedFd, path: &Path) -> Option<Dir> {
    let located = beneath::locate(root, path, false).ok()?;
    Dir::new(beneath::reopen(&located, OFlags::RDONLY | OFlags::DIRECTORY).ok()?).ok()
}
