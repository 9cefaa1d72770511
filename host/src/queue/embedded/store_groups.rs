//! What the database knows about task groups.

use rusqlite::{OptionalExtension as _, params};

use super::record::{Millis, Task};
use super::store::{Outcome, Store, read_task, sql_limit};

/// A task group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) scheduler: String,
    /// When the last of its tasks expires.
    pub(super) expires: Millis,
    /// Since when it takes no more tasks.
    pub(super) sealed: Option<Millis>,
}

impl Store {
    pub(super) fn group(&self, id: &str) -> Outcome<Option<GroupRow>> {
        self.db
            .prepare_cached("SELECT scheduler, expires, sealed FROM task_groups WHERE id=?1")?
            .query_row([id], |row| {
                Ok(GroupRow {
                    scheduler: row.get(0)?,
                    expires: row.get(1)?,
                    sealed: row.get(2)?,
                })
            })
            .optional()
    }

    /// Makes the group that a new task is in, or has it live as long as the task.
    pub(super) fn extend_group(&self, id: &str, scheduler: &str, expires: Millis) -> Outcome<()> {
        self.db
            .prepare_cached(
                "INSERT INTO task_groups VALUES (?1,?2,?3,NULL)
                 ON CONFLICT (id) DO UPDATE SET expires=excluded.expires WHERE expires<excluded.expires",
            )?
            .execute(params![id, scheduler, expires])
            .map(drop)
    }

    /// Seals a group, unless it has been sealed before.
    pub(super) fn seal_group(&self, id: &str, now: Millis) -> Outcome<()> {
        self.db
            .prepare_cached("UPDATE task_groups SET sealed=?2 WHERE id=?1 AND sealed IS NULL")?
            .execute(params![id, now])
            .map(drop)
    }

    /// Up to `limit` tasks of a group, in the order of their ids, after the one called `after`.
    pub(super) fn group_tasks(&self, group: &str, after: &str, limit: usize) -> Outcome<Vec<Task>> {
        self.db
            .prepare_cached("SELECT * FROM tasks WHERE task_group=?1 AND id>?2 ORDER BY id LIMIT ?3")?
            .query_map(params![group, after, sql_limit(limit)], read_task)?
            .collect()
    }

    /// The tasks of a group that have not ended.
    pub(super) fn active_group_tasks(&self, group: &str) -> Outcome<Vec<Task>> {
        self.db
            .prepare_cached("SELECT * FROM tasks WHERE task_group=?1 AND active ORDER BY id")?
            .query_map([group], read_task)?
            .collect()
    }

    pub(super) fn group_size(&self, group: &str) -> Outcome<i64> {
        self.db
            .prepare_cached("SELECT COUNT(*) FROM tasks WHERE task_group=?1")?
            .query_row([group], |row| row.get(0))
    }
}
