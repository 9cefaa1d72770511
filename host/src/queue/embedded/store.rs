//! What the embedded queue keeps in SQLite: tables, and one function for each statement.
//!
//! The journal is a write-ahead log with `synchronous=NORMAL`: a crash of the process loses nothing, a crash of the
//! machine at most the last moments, and no call waits for a disk to flush. A task's definition never changes and may
//! be large, so it has a table of its own; its runs are one JSON text, since they are read and written together.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::StartError;
use super::record::{Millis, Task};
use crate::queue::{Priority, Requires};

/// The format of the database. Raise it with every change of a table, and say in [`Store::open`] how to get there.
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, pool TEXT NOT NULL, scheduler TEXT NOT NULL, task_group TEXT NOT NULL, project TEXT NOT NULL,
    priority INTEGER NOT NULL, all_resolved INTEGER NOT NULL, deadline INTEGER NOT NULL, expires INTEGER NOT NULL,
    retries INTEGER NOT NULL, retries_left INTEGER NOT NULL, position INTEGER NOT NULL, runs TEXT NOT NULL,
    active INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX tasks_active ON tasks (active) WHERE active;
CREATE INDEX tasks_expiring ON tasks (expires);
CREATE TABLE definitions (id TEXT PRIMARY KEY, definition TEXT NOT NULL);
CREATE TABLE dependencies (
    required TEXT NOT NULL, dependent TEXT NOT NULL, PRIMARY KEY (required, dependent)
) WITHOUT ROWID;
CREATE INDEX dependencies_of ON dependencies (dependent);
CREATE TABLE artifacts (
    task TEXT NOT NULL, run INTEGER NOT NULL, name TEXT NOT NULL, storage TEXT NOT NULL, content_type TEXT NOT NULL,
    content_length INTEGER, expires INTEGER NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (task, run, name)
) WITHOUT ROWID;
CREATE INDEX artifacts_expiring ON artifacts (expires);
CREATE TABLE objects (
    task TEXT NOT NULL, run INTEGER NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL, content_type TEXT NOT NULL,
    content_encoding TEXT NOT NULL, length INTEGER NOT NULL, stored INTEGER NOT NULL, PRIMARY KEY (task, run, name)
) WITHOUT ROWID;
";

/// One artifact as it was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArtifactRow {
    pub(super) name: String,
    pub(super) storage: String,
    pub(super) content_type: String,
    pub(super) content_length: Option<i64>,
    pub(super) expires: Millis,
    /// The URL of a reference, the target of a link, reason and message of an error (separated by a newline).
    pub(super) detail: String,
}

/// The bytes of one artifact as they were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectRow {
    /// The file's name within the folder of objects.
    pub(super) file: String,
    pub(super) content_type: String,
    pub(super) content_encoding: String,
    pub(super) length: u64,
    pub(super) stored: Millis,
}

/// The database.
pub(super) struct Store {
    db: Connection,
}

type Outcome<T> = rusqlite::Result<T>;

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Database {
            path: PathBuf::from(path),
            source,
        };
        let db = Connection::open(path).map_err(failed)?;
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16000;",
        )
        .map_err(failed)?;
        db.set_prepared_statement_cache_capacity(64);
        let found: i64 = db
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed)?;
        if found > FORMAT {
            return Err(StartError::NewerDatabase {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        if found == 0 {
            db.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;"))
                .map_err(failed)?;
        }
        Ok(Self { db })
    }

    pub(super) fn begin(&self) -> Outcome<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    pub(super) fn commit(&self) -> Outcome<()> {
        self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    /// Takes back what was not committed; without anything to take back, nothing happens.
    pub(super) fn roll_back(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the embedded queue's database did not roll back");
        }
    }

    pub(super) fn insert_task(&self, task: &Task, definition: &str, dependencies: &[String]) -> Outcome<()> {
        self.db
            .prepare_cached("INSERT INTO tasks VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)")?
            .execute(params![
                task.id,
                task.pool,
                task.scheduler,
                task.group,
                task.project,
                task.priority as u8,
                task.requires == Requires::AllResolved,
                task.deadline,
                task.expires,
                task.retries,
                task.retries_left,
                task.position,
                runs_text(task),
                !task.state().is_resolved(),
            ])?;
        self.db
            .prepare_cached("INSERT INTO definitions VALUES (?1,?2)")?
            .execute(params![task.id, definition])?;
        for required in dependencies {
            self.db
                .prepare_cached("INSERT INTO dependencies VALUES (?1,?2)")?
                .execute(params![required, task.id])?;
        }
        Ok(())
    }

    pub(super) fn update_task(&self, task: &Task) -> Outcome<()> {
        self.db
            .prepare_cached("UPDATE tasks SET retries_left=?2, position=?3, runs=?4, active=?5 WHERE id=?1")?
            .execute(params![
                task.id,
                task.retries_left,
                task.position,
                runs_text(task),
                !task.state().is_resolved()
            ])
            .map(drop)
    }

    pub(super) fn task(&self, id: &str) -> Outcome<Option<Task>> {
        self.db
            .prepare_cached("SELECT * FROM tasks WHERE id=?1")?
            .query_row([id], read_task)
            .optional()
    }

    pub(super) fn definition(&self, id: &str) -> Outcome<Option<String>> {
        self.db
            .prepare_cached("SELECT definition FROM definitions WHERE id=?1")?
            .query_row([id], |row| row.get(0))
            .optional()
    }

    /// All tasks that have not ended.
    pub(super) fn active_tasks(&self) -> Outcome<Vec<Task>> {
        self.db
            .prepare("SELECT * FROM tasks WHERE active")?
            .query_map([], read_task)?
            .collect()
    }

    pub(super) fn last_position(&self) -> Outcome<i64> {
        self.db
            .query_row("SELECT COALESCE(MAX(position), 0) FROM tasks", [], |row| {
                row.get(0)
            })
    }

    pub(super) fn dependents(&self, required: &str) -> Outcome<Vec<String>> {
        self.db
            .prepare_cached("SELECT dependent FROM dependencies WHERE required=?1")?
            .query_map([required], |row| row.get(0))?
            .collect()
    }

    pub(super) fn dependencies(&self, dependent: &str) -> Outcome<Vec<String>> {
        self.db
            .prepare_cached("SELECT required FROM dependencies WHERE dependent=?1")?
            .query_map([dependent], |row| row.get(0))?
            .collect()
    }

    pub(super) fn artifact(&self, task: &str, run: u32, name: &str) -> Outcome<Option<ArtifactRow>> {
        self.db
            .prepare_cached(
                "SELECT name, storage, content_type, content_length, expires, detail FROM artifacts
                 WHERE task=?1 AND run=?2 AND name=?3",
            )?
            .query_row(params![task, run, name], read_artifact)
            .optional()
    }

    /// Up to `limit` artifacts of a run, in the order of their names, after the one called `after`.
    pub(super) fn artifacts(
        &self,
        task: &str,
        run: u32,
        after: &str,
        limit: usize,
    ) -> Outcome<Vec<ArtifactRow>> {
        self.db
            .prepare_cached(
                "SELECT name, storage, content_type, content_length, expires, detail FROM artifacts
                 WHERE task=?1 AND run=?2 AND name>?3 ORDER BY name LIMIT ?4",
            )?
            .query_map(
                params![task, run, after, i64::try_from(limit).unwrap_or(i64::MAX)],
                read_artifact,
            )?
            .collect()
    }

    pub(super) fn put_artifact(&self, task: &str, run: u32, artifact: &ArtifactRow) -> Outcome<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO artifacts VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?
            .execute(params![
                task,
                run,
                artifact.name,
                artifact.storage,
                artifact.content_type,
                artifact.content_length,
                artifact.expires,
                artifact.detail,
            ])
            .map(drop)
    }

    pub(super) fn object(&self, task: &str, run: u32, name: &str) -> Outcome<Option<ObjectRow>> {
        self.db
            .prepare_cached(
                "SELECT file, content_type, content_encoding, length, stored FROM objects
                 WHERE task=?1 AND run=?2 AND name=?3",
            )?
            .query_row(params![task, run, name], read_object)
            .optional()
    }

    pub(super) fn put_object(&self, task: &str, run: u32, name: &str, object: &ObjectRow) -> Outcome<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?
            .execute(params![
                task,
                run,
                name,
                object.file,
                object.content_type,
                object.content_encoding,
                i64::try_from(object.length).unwrap_or(i64::MAX),
                object.stored,
            ])
            .map(drop)
    }

    /// How many bytes all objects have.
    pub(super) fn stored_bytes(&self) -> Outcome<u64> {
        let sum: i64 = self
            .db
            .query_row("SELECT COALESCE(SUM(length), 0) FROM objects", [], |row| {
                row.get(0)
            })?;
        Ok(u64::try_from(sum).unwrap_or(0))
    }

    /// Whether a file belongs to an object.
    pub(super) fn object_files(&self) -> Outcome<std::collections::HashSet<String>> {
        self.db
            .prepare("SELECT file FROM objects")?
            .query_map([], |row| row.get(0))?
            .collect()
    }

    /// Forgets tasks that expired before `now` and artifacts that expired before `artifacts_before`, and answers the
    /// objects whose files are to be deleted.
    pub(super) fn forget(&self, now: Millis, artifacts_before: Millis) -> Outcome<Vec<ObjectRow>> {
        self.db
            .execute("DELETE FROM artifacts WHERE expires<?1", [artifacts_before])?;
        for table in ["definitions", "tasks"] {
            self.db.execute(
                &format!("DELETE FROM {table} WHERE id IN (SELECT id FROM tasks WHERE expires<?1)"),
                [now],
            )?;
        }
        self.db.execute(
            "DELETE FROM dependencies WHERE dependent NOT IN (SELECT id FROM tasks)",
            [],
        )?;
        self.db.execute(
            "DELETE FROM artifacts WHERE task NOT IN (SELECT id FROM tasks)",
            [],
        )?;
        const ORPHANS: &str =
            "NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.task=objects.task AND a.run=objects.run
             AND a.name=objects.name AND a.storage='s3')";
        let orphans = self
            .db
            .prepare(&format!(
                "SELECT file, content_type, content_encoding, length, stored FROM objects WHERE {ORPHANS}"
            ))?
            .query_map([], read_object)?
            .collect::<Outcome<Vec<_>>>()?;
        self.db
            .execute(&format!("DELETE FROM objects WHERE {ORPHANS}"), [])?;
        Ok(orphans)
    }
}

fn runs_text(task: &Task) -> String {
    serde_json::to_string(&task.runs).unwrap_or_else(|_| unreachable!("runs are plain data"))
}

fn read_task(row: &Row<'_>) -> Outcome<Task> {
    let runs: String = row.get("runs")?;
    let runs = serde_json::from_str(&runs).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let priority: u8 = row.get("priority")?;
    let all_resolved: bool = row.get("all_resolved")?;
    Ok(Task {
        id: row.get("id")?,
        pool: row.get("pool")?,
        scheduler: row.get("scheduler")?,
        group: row.get("task_group")?,
        project: row.get("project")?,
        priority: Priority::ALL
            .get(usize::from(priority))
            .copied()
            .unwrap_or_default(),
        requires: if all_resolved {
            Requires::AllResolved
        } else {
            Requires::AllCompleted
        },
        deadline: row.get("deadline")?,
        expires: row.get("expires")?,
        retries: row.get("retries")?,
        retries_left: row.get("retries_left")?,
        position: row.get("position")?,
        runs,
    })
}

fn read_artifact(row: &Row<'_>) -> Outcome<ArtifactRow> {
    Ok(ArtifactRow {
        name: row.get(0)?,
        storage: row.get(1)?,
        content_type: row.get(2)?,
        content_length: row.get(3)?,
        expires: row.get(4)?,
        detail: row.get(5)?,
    })
}

fn read_object(row: &Row<'_>) -> Outcome<ObjectRow> {
    let length: i64 = row.get(3)?;
    Ok(ObjectRow {
        file: row.get(0)?,
        content_type: row.get(1)?,
        content_encoding: row.get(2)?,
        length: u64::try_from(length).unwrap_or(0),
        stored: row.get(4)?,
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
