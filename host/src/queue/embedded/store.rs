//! What the embedded queue keeps in SQLite: tables, and one function for each statement.
//!
//! The journal is a write-ahead log with `synchronous=NORMAL`: a crash of the process loses nothing, a crash of the
//! machine at most the last moments, and no call waits for a disk to flush. A task's definition never changes and may
//! be large, so it has a table of its own; its runs are one JSON text, since they are read and written together.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::StartError;
use super::record::Task;
use crate::queue::{Priority, Requires};

/// What makes each format of the database out of the one before; the first makes it out of nothing. Every change of a table
/// is a step of its own at the end.
const STEPS: [&str; 2] = [FIRST, SECOND];

const FIRST: &str = "
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

/// Task groups, workers, and which dependencies are still waited for.
const SECOND: &str = "
CREATE INDEX tasks_in_group ON tasks (task_group);
CREATE TABLE task_groups (
    id TEXT PRIMARY KEY, scheduler TEXT NOT NULL, expires INTEGER NOT NULL, sealed INTEGER
) WITHOUT ROWID;
CREATE INDEX task_groups_expiring ON task_groups (expires);
INSERT INTO task_groups SELECT task_group, MIN(scheduler), MAX(expires), NULL FROM tasks GROUP BY task_group;
ALTER TABLE dependencies ADD COLUMN satisfied INTEGER NOT NULL DEFAULT 0;
CREATE INDEX dependencies_open ON dependencies (dependent) WHERE NOT satisfied;
UPDATE dependencies SET satisfied=1 WHERE EXISTS (
    SELECT 1 FROM tasks r, tasks d WHERE r.id=required AND d.id=dependent
    AND (json_extract(r.runs, '$[#-1].state')='completed' OR (d.all_resolved AND NOT r.active))
);
CREATE TABLE task_queues (
    pool TEXT PRIMARY KEY, last_active INTEGER NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX task_queues_expiring ON task_queues (expires);
CREATE TABLE workers (
    pool TEXT NOT NULL, worker_group TEXT NOT NULL, worker TEXT NOT NULL, first_claim INTEGER NOT NULL,
    last_active INTEGER NOT NULL, expires INTEGER NOT NULL, quarantine_until INTEGER NOT NULL,
    quarantine_details TEXT NOT NULL, recent_tasks TEXT NOT NULL, PRIMARY KEY (pool, worker_group, worker)
) WITHOUT ROWID;
CREATE INDEX workers_expiring ON workers (expires);
";

/// The database.
pub(super) struct Store {
    pub(super) db: Connection,
}

pub(super) type Outcome<T> = rusqlite::Result<T>;

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
        let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(StartError::NewerDatabase {
                path: path.to_owned(),
                found,
                known,
            });
        }
        if found < known {
            let missing = STEPS.iter().skip(usize::try_from(found).unwrap_or(0));
            let steps: String = missing.copied().collect();
            db.execute_batch(&format!("BEGIN; {steps} PRAGMA user_version={known}; COMMIT;"))
                .map_err(failed)?;
        }
        Ok(Self { db })
    }

    pub(super) fn begin(&self) -> Outcome<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    pub(super) fn commit(&self) -> Outcome<()> {
        super::fault::point("commit");
        let committed = self.db.prepare_cached("COMMIT")?.execute([]).map(drop);
        super::fault::point("committed");
        committed
    }

    /// Takes back what was not committed; without anything to take back, nothing happens.
    pub(super) fn roll_back(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the embedded queue's database did not roll back");
        }
    }

    /// Writes a new task with what it depends on, and whether that is satisfied already.
    pub(super) fn insert_task(
        &self,
        task: &Task,
        definition: &str,
        dependencies: &[(String, bool)],
    ) -> Outcome<()> {
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
        for (required, satisfied) in dependencies {
            self.db
                .prepare_cached(
                    "INSERT INTO dependencies (required, dependent, satisfied) VALUES (?1,?2,?3)",
                )?
                .execute(params![required, task.id, satisfied])?;
        }
        Ok(())
    }

    pub(super) fn update_task(&self, task: &Task) -> Outcome<()> {
        self.db
            .prepare_cached(
                "UPDATE tasks SET retries_left=?2, position=?3, runs=?4, active=?5, priority=?6 WHERE id=?1",
            )?
            .execute(params![
                task.id,
                task.retries_left,
                task.position,
                runs_text(task),
                !task.state().is_resolved(),
                task.priority as u8,
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
        self.db.query_row(
            "SELECT COALESCE(MAX(position), 0) FROM tasks WHERE active",
            [],
            |row| row.get(0),
        )
    }

    /// Those whose dependency on a task is not satisfied yet.
    pub(super) fn waiting_dependents(&self, required: &str) -> Outcome<Vec<String>> {
        self.db
            .prepare_cached("SELECT dependent FROM dependencies WHERE required=?1 AND NOT satisfied")?
            .query_map([required], |row| row.get(0))?
            .collect()
    }

    /// Up to `limit` tasks that depend on a task, in the order of their ids, after the one called `after`.
    pub(super) fn dependents(&self, required: &str, after: &str, limit: usize) -> Outcome<Vec<Task>> {
        self.db
            .prepare_cached(
                "SELECT tasks.* FROM dependencies JOIN tasks ON tasks.id=dependent
                 WHERE required=?1 AND dependent>?2 ORDER BY dependent LIMIT ?3",
            )?
            .query_map(params![required, after, sql_limit(limit)], read_task)?
            .collect()
    }

    /// Notes that a task has become what a dependent needs it to be; it stays so, whatever becomes of the task later.
    pub(super) fn satisfy(&self, required: &str, dependent: &str) -> Outcome<()> {
        self.db
            .prepare_cached("UPDATE dependencies SET satisfied=1 WHERE required=?1 AND dependent=?2")?
            .execute([required, dependent])
            .map(drop)
    }

    /// Whether a task still waits for another.
    pub(super) fn is_blocked(&self, dependent: &str) -> Outcome<bool> {
        self.db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM dependencies WHERE dependent=?1 AND NOT satisfied)",
            )?
            .query_row([dependent], |row| row.get(0))
    }
}

/// A number of rows as SQLite takes it.
pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn runs_text(task: &Task) -> String {
    serde_json::to_string(&task.runs).unwrap_or_else(|_| unreachable!("runs are plain data"))
}

pub(super) fn read_task(row: &Row<'_>) -> Outcome<Task> {
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

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
