//! Where a journal is: whose directory that may be, who uses it, and whether it is a copy of another's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::error::JournalError;

/// Makes the directory if need be; refuses one that others can write to.
pub fn private_directory(path: &Path) -> Result<(), JournalError> {
    let unusable = |error| JournalError::Directory {
        path: path.to_owned(),
        error,
    };
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(path) {
        return Err(match fs::metadata(path) {
            Ok(found) if !found.is_dir() => JournalError::NotADirectory(path.to_owned()),
            _ if error.kind() == io::ErrorKind::NotADirectory => JournalError::NotADirectory(
                // Something above it is in the way.
                path.ancestors()
                    .find(|above| fs::metadata(above).is_ok_and(|found| !found.is_dir()))
                    .unwrap_or(path)
                    .to_owned(),
            ),
            _ => unusable(error),
        });
    }
    let found = fs::metadata(path).map_err(unusable)?;
    let own = rustix::process::geteuid().as_raw();
    let open = |found: String, remedy: String| JournalError::Open {
        path: path.to_owned(),
        found,
        remedy,
    };
    if found.uid() != own && found.uid() != 0 {
        let owner = found.uid();
        return Err(open(
            format!("it belongs to the user {owner}, and this process runs as {own}"),
            format!("run as that user, or `chown -R {own} {}`", path.display()),
        ));
    }
    if found.mode() & 0o022 != 0 {
        return Err(open(
            format!("mode {:04o}", found.mode() & 0o7777),
            format!("`chmod go-w {}`", path.display()),
        ));
    }
    Ok(())
}

/// One worker per directory. The lock goes with the process, however it ends.
pub(super) fn lock(directory: &Path) -> Result<File, JournalError> {
    let unusable = |error| JournalError::Directory {
        path: directory.to_owned(),
        error,
    };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(unusable)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // Who it is helps only the one that is refused; a full disk is said by what has to be written.
            let _ = file
                .set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let said = (&file).take(32).read_to_string(&mut text);
            Err(JournalError::Locked {
                path: directory.to_owned(),
                pid: said.ok().and_then(|_| text.trim().parse().ok()),
            })
        }
        Err(error) => Err(unusable(error.into())),
    }
}

/// What tells a directory from its copies: a copy, or a move to another file system, is another inode. A snapshot has the
/// same one in another file system, and the original is where it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    inode: i64,
    /// Empty if the machine has no id.
    machine: String,
    path: PathBuf,
}

impl Place {
    pub(super) fn of(directory: &Path) -> io::Result<Place> {
        Ok(Place {
            inode: fs::metadata(directory)?.ino().cast_signed(),
            machine: machine(),
            path: fs::canonicalize(directory)?,
        })
    }

    /// Whether both are one directory, renamed perhaps.
    fn is(&self, other: &Place) -> bool {
        let machines = [&self.machine, &other.machine];
        self.inode == other.inode
            && (self.machine == other.machine || machines.iter().any(|machine| machine.is_empty()))
            && !self.has_snapshot(other)
    }

    /// Whether the directory is still here, and the other one has only its inode's number.
    fn has_snapshot(&self, other: &Place) -> bool {
        let found = |place: &Place| {
            fs::metadata(&place.path)
                .ok()
                .map(|found| (found.dev(), found.ino()))
        };
        match (found(self), found(other)) {
            (Some(ours), Some(theirs)) => ours.0 != theirs.0 && ours.1 == theirs.1,
            _ => false,
        }
    }

    /// Writes down that the journal is here; refuses the copy of one in which something is open, unless the other one is
    /// known to be gone: what it names may be another worker's, and at work.
    pub(super) fn settle(
        &self,
        connection: &Connection,
        directory: &Path,
        moved: bool,
    ) -> Result<Result<(), JournalError>, rusqlite::Error> {
        let known = connection
            .query_row("select inode, machine, path from place", [], |row| {
                Ok(Place {
                    inode: row.get(0)?,
                    machine: row.get(1)?,
                    path: PathBuf::from(row.get::<_, String>(2)?),
                })
            })
            .optional()?;
        if known.as_ref() == Some(self) {
            return Ok(Ok(()));
        }
        if let Some(known) = known
            && !known.is(self)
            && !moved
        {
            let count = |table: &str| -> Result<i64, rusqlite::Error> {
                connection.query_row(&format!("select count(*) from {table}"), [], |row| row.get(0))
            };
            let (claims, leases) = (count("claims")?, count("leases")?);
            if claims + leases > 0 {
                return Ok(Err(JournalError::Copy {
                    path: directory.to_owned(),
                    elsewhere: !known.machine.is_empty()
                        && !self.machine.is_empty()
                        && known.machine != self.machine,
                    original: known.path,
                    open: format!("{}, {}", several(claims, "claim"), several(leases, "lease")),
                }));
            }
        }
        connection.execute("delete from place", [])?;
        connection.execute(
            "insert into place (inode, machine, path) values (?, ?, ?)",
            params![self.inode, self.machine, self.path.to_string_lossy()],
        )?;
        Ok(Ok(()))
    }
}

fn several(number: i64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// The machine's id, hashed, since it is not to be passed on.
fn machine() -> String {
    let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|id| id.trim().to_owned())
        .find(|id| !id.is_empty());
    id.map_or_else(String::new, |id| {
        let mut hash = Sha256::new();
        hash.update("tcw journal ");
        hash.update(id);
        hash.finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}
