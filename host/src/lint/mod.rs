//! What a vendor wants to know about a library before it is shipped: is the file built as it should be, and does it
//! describe itself.
//!
//! ```text
//! elf.rs        what the file is made of
//! file_rules.rs what follows from that, without running any of its code
//! said_rules.rs what follows from what it says about itself, once another process has loaded it
//! ```

mod elf;
mod file_rules;
mod said_rules;

use std::path::Path;

use serde::Serialize;
use tcw_abi::testing::conformance::Drive;

use crate::check::{CheckError, Dispatch};
use crate::library::inspect::Version;
use crate::library::{LibraryError, find, inspect};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It cannot work everywhere, or not safely: do not ship it.
    Error,
    /// It works, and somebody will be sorry.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing about a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// A word for the rule, such as `exports`.
    pub rule: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, rule: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            level,
            rule,
            message: message.into(),
        });
    }
}

/// What the vendor promises.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The oldest GLIBC that it has to run with.
    pub glibc: Option<Version>,
    /// Bytes.
    pub size: Option<u64>,
}

/// Looks at a library's file, then loads it in another process. The findings with the worst first; an error is a file
/// that is no library at all, or a machine that does not let us look.
pub async fn lint(path: &Path, limits: Limits, drive: Drive) -> Result<Vec<Finding>, LintError> {
    let file = path.to_owned();
    let mut findings = tokio::task::spawn_blocking(move || look(&file, limits))
        .await
        .map_err(|error| LintError::Inside(error.to_string()))??;
    let dispatch = Dispatch::new(path, drive)?;
    match dispatch.described().await {
        Ok(described) => said_rules::judge(&described, &mut findings),
        // Its own words say which of the many reasons it is.
        Err(CheckError::Unloadable(text)) => findings.add(Level::Error, "loading", text),
        Err(error) => return Err(error.into()),
    }
    let Findings(mut findings) = findings;
    findings.sort_by_key(|finding| finding.level);
    Ok(findings)
}

fn look(path: &Path, limits: Limits) -> Result<Findings, LintError> {
    let found = find::library(path)?;
    let inspection = inspect::inspect_file(path)?;
    let bytes = std::fs::read(&found.main).map_err(|error| LintError::Inside(error.to_string()))?;
    let facts = elf::facts(&bytes).map_err(LintError::Inside)?;
    let mut findings = Findings::default();
    file_rules::judge(&found, &inspection, &facts, limits, &mut findings);
    Ok(findings)
}

/// Why there are no findings.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It is no library.
    #[error("{0}")]
    Library(#[from] LibraryError),
    /// It cannot be loaded here, for a reason that is not the library's.
    #[error("{0}")]
    Check(#[from] CheckError),
    /// The file cannot be looked at.
    #[error("the file cannot be looked at: {0}")]
    Inside(String),
}
