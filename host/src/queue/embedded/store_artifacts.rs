//! What the database knows about artifacts, and about their bytes.

use rusqlite::{OptionalExtension as _, Row, params};

use super::record::Millis;
use super::store::{Outcome, Store, sql_limit};

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

impl Store {
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
            .query_map(params![task, run, after, sql_limit(limit)], read_artifact)?
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

pub(super) fn read_object(row: &Row<'_>) -> Outcome<ObjectRow> {
    let length: i64 = row.get(3)?;
    Ok(ObjectRow {
        file: row.get(0)?,
        content_type: row.get(1)?,
        content_encoding: row.get(2)?,
        length: u64::try_from(length).unwrap_or(0),
        stored: row.get(4)?,
    })
}
