//! Forgetting what has expired: a piece at a time, so that calls get their turn in between, and by index.

use rusqlite::params;

use super::record::Millis;
use super::store::{Outcome, Store, sql_limit};
use super::store_artifacts::{ObjectRow, read_object};

/// Until when what was kept is expired.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expired {
    /// Tasks, task groups, workers and task queues that ended before this.
    pub(super) before: Millis,
    /// Bytes of artifacts that ended before this.
    pub(super) bytes_before: Millis,
    /// What is known about artifacts that ended before this.
    pub(super) artifacts_before: Millis,
}

/// What one piece of forgetting came to.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Whose files are to be deleted.
    pub(super) objects: Vec<ObjectRow>,
    /// The tasks that are no more.
    pub(super) tasks: Vec<String>,
    /// Whether there may be more to forget.
    pub(super) more: bool,
}

const OBJECT: &str = "file, content_type, content_encoding, length, stored";

impl Store {
    /// Forgets up to `most` things of each kind. A task goes with all that belongs to it; tasks that depend on it still do.
    pub(super) fn forget(&self, expired: Expired, most: usize) -> Outcome<Forgotten> {
        let mut forgotten = Forgotten {
            tasks: self.expired_tasks(expired.before, most)?,
            ..Forgotten::default()
        };
        for task in &forgotten.tasks {
            forgotten.objects.extend(self.take_objects_of_task(task)?);
            for statement in [
                "DELETE FROM artifacts WHERE task=?1",
                "DELETE FROM dependencies WHERE dependent=?1",
                "DELETE FROM definitions WHERE id=?1",
                "DELETE FROM tasks WHERE id=?1",
            ] {
                self.db.prepare_cached(statement)?.execute([task])?;
            }
        }
        let with_bytes = self.expired_bytes(expired.bytes_before, most)?;
        for (task, run, name) in &with_bytes {
            forgotten.objects.extend(self.take_object(task, *run, name)?);
        }
        let artifacts = self.forget_rows(
            "DELETE FROM artifacts WHERE (task, run, name) IN
             (SELECT task, run, name FROM artifacts a WHERE expires<?1 AND NOT EXISTS
              (SELECT 1 FROM objects o WHERE o.task=a.task AND o.run=a.run AND o.name=a.name) LIMIT ?2)",
            expired.artifacts_before,
            most,
        )?;
        // A group outlives its tasks; where the rows of some were left for the next piece, so is the group.
        let groups = self.forget_rows(
            "DELETE FROM task_groups WHERE id IN (SELECT id FROM task_groups WHERE expires<?1 LIMIT ?2)
             AND NOT EXISTS (SELECT 1 FROM tasks WHERE task_group=task_groups.id)",
            expired.before,
            most,
        )?;
        let workers = self.forget_rows(
            "DELETE FROM workers WHERE (pool, worker_group, worker) IN (SELECT pool, worker_group, worker FROM workers
             WHERE expires<?1 AND quarantine_until<?1 LIMIT ?2)",
            expired.before,
            most,
        )?;
        let queues = self.forget_rows(
            "DELETE FROM task_queues WHERE pool IN (SELECT pool FROM task_queues WHERE expires<?1 LIMIT ?2)",
            expired.before,
            most,
        )?;
        forgotten.more = [
            forgotten.tasks.len(),
            with_bytes.len(),
            artifacts,
            groups,
            workers,
            queues,
        ]
        .into_iter()
        .any(|count| count >= most);
        Ok(forgotten)
    }

    fn expired_tasks(&self, before: Millis, most: usize) -> Outcome<Vec<String>> {
        self.db
            .prepare_cached("SELECT id FROM tasks WHERE expires<?1 AND NOT active LIMIT ?2")?
            .query_map(params![before, sql_limit(most)], |row| row.get(0))?
            .collect()
    }

    fn expired_bytes(&self, before: Millis, most: usize) -> Outcome<Vec<(String, u32, String)>> {
        self.db
            .prepare_cached(
                "SELECT task, run, name FROM artifacts a WHERE expires<?1 AND EXISTS
                 (SELECT 1 FROM objects o WHERE o.task=a.task AND o.run=a.run AND o.name=a.name) LIMIT ?2",
            )?
            .query_map(params![before, sql_limit(most)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect()
    }

    fn take_objects_of_task(&self, task: &str) -> Outcome<Vec<ObjectRow>> {
        self.db
            .prepare_cached(&format!("DELETE FROM objects WHERE task=?1 RETURNING {OBJECT}"))?
            .query_map([task], read_object)?
            .collect()
    }

    fn take_object(&self, task: &str, run: u32, name: &str) -> Outcome<Vec<ObjectRow>> {
        self.db
            .prepare_cached(&format!(
                "DELETE FROM objects WHERE task=?1 AND run=?2 AND name=?3 RETURNING {OBJECT}"
            ))?
            .query_map(params![task, run, name], read_object)?
            .collect()
    }

    fn forget_rows(&self, statement: &str, before: Millis, most: usize) -> Outcome<usize> {
        self.db
            .prepare_cached(statement)?
            .execute(params![before, sql_limit(most)])
    }
}
