//! Crashes of libraries in the worker's journal, and which of them are in quarantine.
//!
//! The tables are beside those of claims and leases, and older hosts do not mind them. What is asked or changed from
//! another process goes through SQLite's own locks, so that `tcw-host library` works beside a running worker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::journal::{FILE, Journal, JournalError};
use crate::library::Quarantine;
use crate::library::crash::Identity;
use crate::queue::format_time;

/// Crashes that are older tell nothing any more.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// When a library is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineRule {
    /// After so many crashes; 0 is never.
    pub crashes: u32,
    /// Within this time.
    pub within: Duration,
}

impl Default for QuarantineRule {
    fn default() -> Self {
        QuarantineRule {
            crashes: 3,
            within: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a crash led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Crashes of the same bytes within the rule's time, this one among them.
    pub crashes: u32,
    /// They are not loaded any more.
    pub quarantined: bool,
}

/// What is known of a library that has crashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashHistory {
    /// Who, at the last time.
    pub library: Identity,
    /// How often, of what is remembered.
    pub crashes: u32,
    /// The last time.
    pub last: DateTime<Utc>,
    /// How it crashed then: a signal's name, or `exit`.
    pub how: String,
    /// It is not loaded.
    pub quarantined: bool,
}

impl CrashHistory {
    /// `crashed 2 times, last at 2026-01-25T23:31:13.787Z (SIGSEGV)`.
    pub fn in_words(&self) -> String {
        let times = match self.crashes {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        format!(
            "crashed {times}, last at {} ({})",
            format_time(self.last),
            self.how
        )
    }
}

/// The bytes that are not to be loaded, with the reason.
pub fn quarantine(histories: &[CrashHistory]) -> Quarantine {
    let quarantined = histories.iter().filter(|history| history.quarantined);
    quarantined
        .map(|history| {
            (
                history.library.sha256.clone(),
                format!("it {}", history.in_words()),
            )
        })
        .collect()
}

impl Journal {
    /// Writes the crash of a library down. The same one twice counts once.
    pub async fn crashed(
        &self,
        library: Identity,
        how: String,
        at: DateTime<Utc>,
        rule: QuarantineRule,
    ) -> Result<Verdict, JournalError> {
        self.write("crashed", move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "insert or ignore into crashes (at, sha256, name, version, path, how) values (?, ?, ?, ?, ?, ?)",
                params![
                    at.timestamp_millis(),
                    library.sha256,
                    library.name,
                    library.version,
                    library.path.to_string_lossy(),
                    how
                ],
            )?;
            let since = |time: Duration| at.timestamp_millis().saturating_sub(milliseconds(time));
            transaction.execute("delete from crashes where at < ?", [since(KEPT.max(rule.within))])?;
            let crashes: u32 = transaction.query_row(
                "select count(*) from crashes where sha256 = ? and at > ?",
                params![library.sha256, since(rule.within)],
                |row| row.get(0),
            )?;
            if rule.crashes > 0 && crashes >= rule.crashes {
                transaction.execute("insert or ignore into quarantine (sha256) values (?)", [&library.sha256])?;
            }
            let quarantined = transaction
                .query_row("select 1 from quarantine where sha256 = ?", [&library.sha256], |_| Ok(()))
                .optional()?
                .is_some();
            transaction.commit()?;
            Ok(Verdict { crashes, quarantined })
        })
        .await
    }

    /// Every library that has crashed, as [`crash_histories`].
    pub async fn crash_histories(&self) -> Result<Vec<CrashHistory>, JournalError> {
        self.run(|connection| histories(connection)).await
    }
}

/// Every library that has crashed a worker with this directory, the last one first. Another process may use the journal,
/// or there may be none. Blocking.
pub fn crash_histories(directory: &Path) -> Result<Vec<CrashHistory>, JournalError> {
    with_journal(
        directory,
        OpenFlags::SQLITE_OPEN_READ_ONLY,
        Vec::new(),
        |connection| histories(connection),
    )
}

/// Forgets the crashes of these bytes, so that they are loaded again by the next start. Blocking.
pub fn release(directory: &Path, sha256: &str) -> Result<(), JournalError> {
    with_journal(directory, OpenFlags::SQLITE_OPEN_READ_WRITE, (), |connection| {
        let transaction = connection.transaction()?;
        transaction.execute("delete from quarantine where sha256 = ?", [sha256])?;
        transaction.execute("delete from crashes where sha256 = ?", [sha256])?;
        transaction.commit()
    })
}

fn with_journal<T>(
    directory: &Path,
    flags: OpenFlags,
    none: T,
    work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
) -> Result<T, JournalError> {
    let path = directory.join(FILE);
    if !path.exists() {
        return Ok(none);
    }
    let work = |connection: &mut Connection| {
        let there = "select 1 from sqlite_master where type = 'table' and name = 'quarantine'";
        // An older host has made the file.
        if connection.query_row(there, [], |_| Ok(())).optional()?.is_none() {
            return Ok(none);
        }
        work(connection)
    };
    Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|mut connection| work(&mut connection))
        .map_err(|error| JournalError::database(&path, error))
}

fn histories(connection: &Connection) -> Result<Vec<CrashHistory>, rusqlite::Error> {
    // In SQLite the other columns of a `max` are those of its row.
    connection
        .prepare(
            "select max(at), count(*), sha256, name, version, path, how,
                 exists (select 1 from quarantine where quarantine.sha256 = crashes.sha256)
             from crashes group by sha256 order by max(at) desc",
        )?
        .query_map([], |row| {
            Ok(CrashHistory {
                last: DateTime::from_timestamp_millis(row.get(0)?).unwrap_or_default(),
                crashes: row.get(1)?,
                library: Identity {
                    sha256: row.get(2)?,
                    name: row.get(3)?,
                    version: row.get(4)?,
                    path: PathBuf::from(row.get::<_, String>(5)?),
                },
                how: row.get(6)?,
                quarantined: row.get(7)?,
            })
        })?
        .collect()
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(sha256: &str) -> Identity {
        Identity {
            name: "a".into(),
            version: "1".into(),
            sha256: sha256.into(),
            path: "/a.so".into(),
        }
    }

    fn hour(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(hour * 3600, 0).unwrap()
    }

    #[tokio::test]
    async fn three_crashes_of_the_same_bytes_within_a_day_are_a_quarantine_until_the_release() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            crash_histories(directory.path()).unwrap(),
            [],
            "there is no journal"
        );
        let journal = Journal::open(directory.path()).unwrap();
        let crash = async |sha256: &str, at: i64| {
            let rule = QuarantineRule::default();
            let verdict = journal
                .crashed(library(sha256), "SIGSEGV".into(), hour(at), rule)
                .await
                .unwrap();
            (verdict.crashes, verdict.quarantined)
        };
        assert_eq!(crash("one", 0).await, (1, false));
        assert_eq!(crash("one", 20).await, (2, false));
        assert_eq!(crash("one", 20).await, (2, false), "the same crash");
        assert_eq!(crash("two", 21).await, (1, false), "other bytes");
        assert_eq!(
            crash("one", 30).await,
            (2, false),
            "the first is more than a day ago"
        );
        assert_eq!(
            quarantine(&journal.crash_histories().await.unwrap()),
            Quarantine::new()
        );
        assert_eq!(crash("one", 40).await, (3, true));

        // Beside the worker that has the journal open.
        let known = crash_histories(directory.path()).unwrap();
        assert_eq!(known, journal.crash_histories().await.unwrap());
        let known: Vec<_> = known
            .iter()
            .map(|history| {
                (
                    history.library.sha256.as_str(),
                    history.in_words(),
                    history.quarantined,
                )
            })
            .collect();
        assert_eq!(
            known,
            [
                (
                    "one",
                    "crashed 4 times, last at 1970-01-02T16:00:00.000Z (SIGSEGV)".to_owned(),
                    true
                ),
                (
                    "two",
                    "crashed once, last at 1970-01-01T21:00:00.000Z (SIGSEGV)".to_owned(),
                    false
                ),
            ]
        );
        release(directory.path(), "one").unwrap();
        assert_eq!(
            quarantine(&journal.crash_histories().await.unwrap()),
            Quarantine::new()
        );
        assert_eq!(crash("one", 41).await, (1, false));

        let never = QuarantineRule {
            crashes: 0,
            ..QuarantineRule::default()
        };
        for at in 42..50 {
            let verdict = journal
                .crashed(library("one"), "exit".into(), hour(at), never)
                .await
                .unwrap();
            assert!(!verdict.quarantined);
        }
    }
}
