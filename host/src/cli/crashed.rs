//! What a crash of the last process means for this one.

use std::path::Path;

use chrono::DateTime;

use super::outcome::Failure;
use super::start::worker_directory;
use crate::config::Config;
use crate::library::Quarantine;
use crate::library::crash::{self, Crash, Culprit};
use crate::queue::format_time;
use crate::worker::crashes::{self, QuarantineRule};
use crate::worker::journal::Journal;

/// Says who crashed the last process with this directory, counts it, and makes ready for a crash of this one. Before any
/// library is loaded.
pub(super) async fn settle(config: &Config, directory: &Path, journal: &Journal) -> Result<(), Failure> {
    match crash::last(directory) {
        Ok(Some(crash)) => count(config, crash, journal).await?,
        Ok(None) => {}
        // It was no crash of ours that wrote it; the next one starts on an empty page.
        Err(error) => {
            tracing::warn!(%error, "what {} holds is no record of a crash", directory.join("crash").display())
        }
    }
    if let Err(error) = crash::arm(directory) {
        tracing::warn!(%error, "if a library crashes the worker, the next start will not know which");
    }
    Ok(())
}

async fn count(config: &Config, crash: Crash, journal: &Journal) -> Result<(), Failure> {
    let at = DateTime::from_timestamp_millis(i64::try_from(crash.at).unwrap_or(0)).unwrap_or_default();
    let what = format!("{crash} at {}", format_time(at));
    let Culprit::Library(library) = crash.culprit else {
        tracing::error!("{what}; this counts against no library");
        return Ok(());
    };
    let quarantine = &config.libraries.quarantine;
    let rule = QuarantineRule {
        crashes: quarantine.crashes,
        within: quarantine.within,
    };
    let name = library.name.clone();
    let verdict = journal.crashed(library, crash.how, at, rule).await?;
    if verdict.quarantined {
        tracing::error!("{what}; it is quarantined until `tcw-host library release {name}`");
    } else if rule.crashes > 0 {
        let (count, most) = (verdict.crashes, rule.crashes);
        tracing::error!("{what}; this is crash {count} of the {most} that lead to its quarantine");
    } else {
        tracing::error!("{what}");
    }
    Ok(())
}

/// The bytes that are not loaded with this state directory: the worker's own verdict, whichever command asks.
pub(super) async fn quarantine(config: &Config) -> Result<Quarantine, Failure> {
    let directory = worker_directory(config);
    let histories = tokio::task::spawn_blocking(move || crashes::crash_histories(&directory))
        .await
        .map_err(Failure::general)??;
    Ok(crashes::quarantine(&histories))
}
