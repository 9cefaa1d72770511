//! The form of the journal's file: made, recognised, refused.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::error::JournalError;
use super::place::Place;
use crate::fault_point::fault_point;

/// The version of the file's form. A newer file is refused: this host cannot know what it means.
pub(super) const VERSION: i64 = 1;

/// Opens the file in `directory`, and makes of it what this host knows, or refuses it as it is.
pub(super) fn open(directory: &Path, path: &Path, moved: bool) -> Result<Connection, JournalError> {
    let unusable = |error| JournalError::Directory {
        path: directory.to_owned(),
        error,
    };
    refuse_cut_off(path).map_err(unusable)??;
    let empty = fs::metadata(path).is_ok_and(|file| file.len() == 0);
    if empty && directory.join("tmp").exists() {
        tracing::warn!(
            journal = %path.display(),
            "the journal is empty although this state directory was used: what it held is lost. Claims of that time \
             expire at the queue; what is left on this machine is removed by name"
        );
    }
    // It holds credentials: made for this user alone before SQLite opens it.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(unusable)?;
    let failed = |error| JournalError::database(path, error);
    let mut connection = Connection::open(path).map_err(failed)?;
    prepare(&mut connection, path)?;
    Place::of(directory)
        .map_err(unusable)?
        .settle(&connection, directory, moved)
        .map_err(failed)??;
    // The files beside the main one inherit its mode; this is for a file from elsewhere.
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(unusable)?;
    Ok(connection)
}

/// SQLite takes a file of no bytes for a new one, and removes the log that belongs to it.
fn refuse_cut_off(path: &Path) -> io::Result<Result<(), JournalError>> {
    let length = |path: &Path| match fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let log = {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        PathBuf::from(name)
    };
    if length(path)?.unwrap_or(0) == 0 && length(&log)?.unwrap_or(0) > 0 {
        return Ok(Err(JournalError::Damaged {
            path: path.to_owned(),
            found: "it has no bytes, but there is a write-ahead log of it".to_owned(),
        }));
    }
    Ok(Ok(()))
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let failed = |error| JournalError::database(path, error);
    let number = |connection: &Connection, sql: &str| -> Result<i64, rusqlite::Error> {
        connection.query_row(sql, [], |row| row.get(0))
    };
    // Before anything is written: what is not ours, or of a newer host, stays as it is.
    let found = number(connection, "pragma user_version").map_err(failed)?;
    let tables = number(connection, "select count(*) from sqlite_master").map_err(failed)?;
    match found {
        0 if tables > 0 => {
            return Err(JournalError::Damaged {
                path: path.to_owned(),
                found: "it is a database of another program".to_owned(),
            });
        }
        0..=VERSION => {}
        found => {
            return Err(JournalError::Newer {
                path: path.to_owned(),
                found,
            });
        }
    }
    let check: String = connection
        .query_row("pragma quick_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if check != "ok" {
        return Err(JournalError::Damaged {
            path: path.to_owned(),
            // Its last line says most.
            found: check.lines().last().unwrap_or_default().to_owned(),
        });
    }
    fault_point!("journal.prepare.before");
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "normal")
        .map_err(failed)?;
    if found == 0 {
        connection
            .execute_batch(
                "begin;
                 create table claims (
                     task_id text not null, run_id integer not null, root_url text not null, credentials text not null,
                     primary key (task_id, run_id)
                 ) strict;
                 create table leases (
                     id text primary key, library text not null, sha256 text not null,
                     schema_version integer not null, data text not null
                 ) strict;
                 pragma user_version = 1;
                 commit;",
            )
            .map_err(failed)?;
        fault_point!("journal.prepare.made");
    }
    // They came later. An older host goes on without them.
    connection
        .execute_batch(
            "create table if not exists crashes (
                 at integer not null, sha256 text not null, name text not null, version text not null,
                 path text not null, how text not null, primary key (sha256, at)
             ) strict;
             create table if not exists quarantine (sha256 text primary key) strict;
             create table if not exists place (
                 inode integer not null, machine text not null, path text not null
             ) strict;",
        )
        .map_err(failed)?;
    if found == 0 {
        // The log alone would hold the tables otherwise, and without it the file would be like one of another program.
        connection
            .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
            .map_err(failed)?;
        fault_point!("journal.prepare.after");
    }
    Ok(())
}
