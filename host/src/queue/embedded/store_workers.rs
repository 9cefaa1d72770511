//! What the database knows about workers, and about the task queues that they have claimed from.

use rusqlite::{OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::record::Millis;
use super::store::{Outcome, Store, sql_limit};

/// How many milliseconds something has to be out of date before it is written again: workers call all the time.
const ACCURACY: Millis = 60_000;

/// A worker by its full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerName {
    pub(super) pool: String,
    pub(super) group: String,
    pub(super) id: String,
}

/// One change of a worker's quarantine, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuarantineDetail {
    pub(super) client_id: String,
    pub(super) updated_at: String,
    pub(super) quarantine_until: String,
    pub(super) quarantine_info: String,
}

/// One run that a worker has claimed, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecentTask {
    pub(super) task_id: String,
    pub(super) run_id: u32,
}

/// What is known about a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkerRow {
    pub(super) group: String,
    pub(super) id: String,
    pub(super) first_claim: Millis,
    pub(super) last_active: Millis,
    pub(super) expires: Millis,
    pub(super) quarantine_until: Millis,
    pub(super) quarantine_details: Vec<QuarantineDetail>,
    /// The last runs it has claimed, the latest at the end.
    pub(super) recent_tasks: Vec<RecentTask>,
}

/// Which workers a list is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quarantined {
    Only,
    Never,
    Either,
}

/// A task queue, or what all of a provisioner's come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueRow {
    pub(super) name: String,
    pub(super) last_active: Millis,
    pub(super) expires: Millis,
}

impl Store {
    /// Notes that somebody works on a task queue.
    pub(super) fn see_queue(&self, pool: &str, now: Millis, expires: Millis) -> Outcome<()> {
        self.db
            .prepare_cached(
                "INSERT INTO task_queues VALUES (?1,?2,?3) ON CONFLICT (pool) DO UPDATE
                 SET last_active=excluded.last_active, expires=MAX(expires, excluded.expires)
                 WHERE last_active<excluded.last_active-?4 OR expires<excluded.expires-?4",
            )?
            .execute(params![pool, now, expires, ACCURACY])
            .map(drop)
    }

    /// Notes that a worker is there.
    pub(super) fn see_worker(&self, worker: &WorkerName, now: Millis, expires: Millis) -> Outcome<()> {
        self.db
            .prepare_cached(
                "INSERT INTO workers VALUES (?1,?2,?3,?4,?4,?5,0,'[]','[]')
                 ON CONFLICT (pool, worker_group, worker) DO UPDATE
                 SET last_active=excluded.last_active, expires=MAX(expires, excluded.expires)
                 WHERE last_active<excluded.last_active-?6 OR expires<excluded.expires-?6",
            )?
            .execute(params![
                worker.pool,
                worker.group,
                worker.id,
                now,
                expires,
                ACCURACY
            ])
            .map(drop)
    }

    pub(super) fn worker(&self, worker: &WorkerName) -> Outcome<Option<WorkerRow>> {
        self.db
            .prepare_cached("SELECT * FROM workers WHERE pool=?1 AND worker_group=?2 AND worker=?3")?
            .query_row([&worker.pool, &worker.group, &worker.id], read_worker)
            .optional()
    }

    /// Until when a worker gets no tasks, if it has ever been said.
    pub(super) fn quarantined_until(&self, worker: &WorkerName) -> Outcome<Option<Millis>> {
        self.db
            .prepare_cached(
                "SELECT quarantine_until FROM workers WHERE pool=?1 AND worker_group=?2 AND worker=?3",
            )?
            .query_row([&worker.pool, &worker.group, &worker.id], |row| row.get(0))
            .optional()
    }

    /// Writes a worker that is known with its new expiry, quarantine and tasks.
    pub(super) fn update_worker(&self, pool: &str, worker: &WorkerRow) -> Outcome<()> {
        self.db
            .prepare_cached(
                "UPDATE workers SET last_active=?4, expires=?5, quarantine_until=?6, quarantine_details=?7, recent_tasks=?8
                 WHERE pool=?1 AND worker_group=?2 AND worker=?3",
            )?
            .execute(params![
                pool,
                worker.group,
                worker.id,
                worker.last_active,
                worker.expires,
                worker.quarantine_until,
                to_text(&worker.quarantine_details),
                to_text(&worker.recent_tasks),
            ])
            .map(drop)
    }

    /// Up to `limit` workers of a pool that have not expired, in the order of their names, after the one called `after`.
    /// One that is in quarantine does not expire.
    pub(super) fn workers(
        &self,
        pool: &str,
        quarantined: Quarantined,
        after: (&str, &str),
        now: Millis,
        limit: usize,
    ) -> Outcome<Vec<WorkerRow>> {
        let wanted = match quarantined {
            Quarantined::Only => "quarantine_until>=?4",
            Quarantined::Never => "quarantine_until<?4 AND expires>=?4",
            Quarantined::Either => "(quarantine_until>=?4 OR expires>=?4)",
        };
        self.db
            .prepare_cached(&format!(
                "SELECT * FROM workers WHERE pool=?1 AND (worker_group, worker)>(?2, ?3) AND {wanted}
                 ORDER BY worker_group, worker LIMIT ?5"
            ))?
            .query_map(
                params![pool, after.0, after.1, now, sql_limit(limit)],
                read_worker,
            )?
            .collect()
    }

    /// Task queues that have not expired, in the order of their names: up to `limit` from `from` on and before `end`.
    pub(super) fn queues(
        &self,
        from: &str,
        end: Option<&str>,
        now: Millis,
        limit: usize,
    ) -> Outcome<Vec<QueueRow>> {
        self.db
            .prepare_cached(
                "SELECT pool, last_active, expires FROM task_queues
                 WHERE pool>=?1 AND (?2 IS NULL OR pool<?2) AND expires>=?3 ORDER BY pool LIMIT ?4",
            )?
            .query_map(params![from, end, now, sql_limit(limit)], read_queue)?
            .collect()
    }

    /// Provisioners: what comes before the slash in the names of task queues that have not expired.
    pub(super) fn provisioners(&self, after: &str, now: Millis, limit: usize) -> Outcome<Vec<QueueRow>> {
        self.db
            .prepare_cached(
                "SELECT substr(pool, 1, instr(pool, '/')-1) AS provisioner, MAX(last_active), MAX(expires)
                 FROM task_queues WHERE expires>=?2 AND provisioner>?1 GROUP BY provisioner ORDER BY provisioner LIMIT ?3",
            )?
            .query_map(params![after, now, sql_limit(limit)], read_queue)?
            .collect()
    }
}

fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| unreachable!("plain data"))
}

fn from_text<T: for<'de> Deserialize<'de>>(row: &Row<'_>, column: &str) -> Outcome<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn read_worker(row: &Row<'_>) -> Outcome<WorkerRow> {
    Ok(WorkerRow {
        group: row.get("worker_group")?,
        id: row.get("worker")?,
        first_claim: row.get("first_claim")?,
        last_active: row.get("last_active")?,
        expires: row.get("expires")?,
        quarantine_until: row.get("quarantine_until")?,
        quarantine_details: from_text(row, "quarantine_details")?,
        recent_tasks: from_text(row, "recent_tasks")?,
    })
}

fn read_queue(row: &Row<'_>) -> Outcome<QueueRow> {
    Ok(QueueRow {
        name: row.get(0)?,
        last_active: row.get(1)?,
        expires: row.get(2)?,
    })
}
