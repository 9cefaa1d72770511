//! `tcw-host library lint`: is a library's file fit to be shipped.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::check::{drive, failure};
use crate::cli::outcome::{Failure, INVALID, status};
use crate::cli::terminal;
use crate::library::inspect::Version;
use crate::lint::{Finding, Level, Limits, LintError, lint};
use crate::schema::units;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The library
    #[arg(value_name = "FILE")]
    library: PathBuf,
    /// For programs: a line of JSON for each finding, and one for all
    #[arg(long)]
    json: bool,
    /// The oldest GLIBC that it has to run with, such as 2.31
    #[arg(long, value_name = "VERSION", value_parser = version)]
    glibc: Option<Version>,
    /// It must not be larger, such as "4 MiB"
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_size: Option<u64>,
    /// The check file: with what configuration it is made; as for `library check`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn version(text: &str) -> Result<Version, String> {
    text.parse()
        .map_err(|()| "write two numbers with a dot, such as 2.31".to_owned())
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let limits = Limits {
        glibc: arguments.glibc,
        size: arguments.max_size,
    };
    let drive = drive(&arguments.library, arguments.config.as_deref())?;
    let findings = lint(&arguments.library, limits, drive)
        .await
        .map_err(|error| match error {
            LintError::Library(error) => Failure::new(error.to_string(), INVALID),
            LintError::Check(error) => failure(error),
            inside @ LintError::Inside(_) => Failure::general(inside),
        })?;
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings, notes) = (count(Level::Error), count(Level::Warning), count(Level::Note));
    let library = arguments.library.display();
    if arguments.json {
        for finding in &findings {
            terminal::print_line(serde_json::to_string(finding).map_err(Failure::general)?)?;
        }
        let summary = json!({ "errors": errors, "warnings": warnings, "notes": notes });
        terminal::print_line(json!({ "library": library.to_string(), "summary": summary }))?;
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        for finding in &findings {
            terminal::print_line(line(finding, colours))?;
        }
        terminal::print_line(format_args!(
            "{library}: {errors} errors, {warnings} warnings, {notes} notes"
        ))?;
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { status(1) })
}

fn line(finding: &Finding, colours: bool) -> String {
    let (word, colour) = match finding.level {
        Level::Error => ("error", 31),
        Level::Warning => ("warning", 33),
        Level::Note => ("note", 2),
    };
    let word = if colours {
        format!("\x1b[{colour}m{word:7}\x1b[0m")
    } else {
        format!("{word:7}")
    };
    // Schemas and names are the library's words; a terminal is not to obey them.
    let message: String = finding
        .message
        .chars()
        .map(|character| match character {
            '\n' => ' ',
            other if other.is_control() => '\u{fffd}',
            other => other,
        })
        .collect();
    format!("{word} {}: {message}", finding.rule)
}
