//! `tcw-host library check`: the conformance cases against a built library.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tcw_abi::testing::conformance::{Drive, purpose};

use crate::check::{self, CheckError, Dispatch, Entry, Interrupted, Outcome, Plan, Totals, file};
use crate::cli::outcome::{Failure, INVALID, status};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::config::LogConfig;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The library
    #[arg(value_name = "FILE", required_unless_present = "explain")]
    library: Option<PathBuf>,
    /// How it is driven; without it FILE with .check.yml instead of .so, if that is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this case, or this group of cases; can be given several times
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// The cases, what each is about, and which do not apply, without running any
    #[arg(long)]
    list: bool,
    /// For programs: a line of JSON for each case, and one for all
    #[arg(long)]
    json: bool,
    /// Cases at one time
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// What a check file may hold, and what each payload has to do
    #[arg(long)]
    explain: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Some(library) = arguments.library.as_deref().filter(|_| !arguments.explain) else {
        return explain(arguments.json);
    };
    let drive = drive(library, arguments.config.as_deref())?;
    // Before anything is started: who interrupts from now on gets an orderly end.
    let mut signals = Signals::new()?;
    let dispatch = Dispatch::new(library, drive).map_err(failure)?;
    let mut plan = {
        let mut planning = std::pin::pin!(dispatch.plan());
        tokio::select! {
            plan = &mut planning => plan.map_err(failure)?,
            _ = signals.next() => {
                dispatch.stop();
                // What it would have said does not matter any more.
                let _ = planning.await;
                return Ok(interrupted());
            }
        }
    };
    plan.only(&arguments.only).map_err(Failure::usage)?;
    let mut report = Report::new(arguments.json, library);
    if arguments.list {
        return report.list(&plan);
    }
    let parallel = arguments.jobs.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(1, 4)
    });
    let ran = dispatch
        .run(
            &plan,
            parallel,
            |entry, outcome, took| report.case(entry, outcome, took),
            signals.next(),
        )
        .await;
    match ran {
        Err(Interrupted) => Ok(interrupted()),
        Ok(()) => report.end(),
    }
}

fn interrupted() -> ExitCode {
    terminal::say("tcw-host: interrupted; everything that ran is ended");
    status(130)
}

/// The check file that was given, or the one beside the library.
pub(super) fn drive(library: &Path, config: Option<&Path>) -> Result<Drive, Failure> {
    let beside = file::beside(library);
    match config {
        Some(given) => file::read(given).map_err(Failure::usage),
        None if beside.exists() => file::read(&beside).map_err(Failure::usage),
        None => Ok(Drive::default()),
    }
}

/// As the command line shows it.
pub(super) fn failure(error: CheckError) -> Failure {
    match error {
        CheckError::Unloadable(_) => Failure::new(error.to_string(), INVALID),
        CheckError::Skip(_) | CheckError::Provided { .. } => Failure::usage(error),
        CheckError::Place { .. } => Failure::general(error),
    }
}

/// `supervise-case`: for this program itself.
pub(super) async fn supervise(directory: &Path) -> Result<ExitCode, Failure> {
    check::supervise(directory).await.map_err(Failure::general)?;
    Ok(ExitCode::SUCCESS)
}

/// `run-case`: the same.
pub(super) async fn run_case(directory: &Path, stage: usize) -> Result<ExitCode, Failure> {
    crate::cli::logging::start(&LogConfig {
        level: crate::config::LogLevel::Warn,
        format: crate::config::LogFormat::Text,
    });
    check::run(directory, stage).await.map_err(Failure::general)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(json: bool) -> Result<ExitCode, Failure> {
    if json {
        terminal::print_line(file::schema())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::from("KEYS OF A CHECK FILE (--explain --json: its JSON Schema)\n");
    keys(file::schema(), "", &mut text);
    text += "\nPURPOSES: what a payload under `payloads` has to make the task do. A word in braces is chosen by the case\n\
             and replaced in every string of the payload.\n";
    for purpose in purpose::ALL {
        let note = if purpose.script.is_some() {
            ""
        } else {
            " (no script can; a payload is needed)"
        };
        text += &format!("  {}\n      {}{note}\n", purpose.name, purpose.about);
    }
    terminal::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn keys(schema: &Value, place: &str, text: &mut String) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{place}{key}");
        if let Some(about) = inner["description"].as_str() {
            *text += &format!("  {path}\n      {about}\n");
        }
        keys(inner, &format!("{path}."), text);
        keys(&inner["additionalProperties"], &format!("{path}.NAME."), text);
    }
}

/// What is written while the cases run.
struct Report {
    json: bool,
    colours: bool,
    library: String,
    totals: Totals,
    since: Instant,
}

/// As wide as the longest of the words.
const WIDTH: usize = 7;

impl Report {
    fn new(json: bool, library: &Path) -> Self {
        Report {
            json,
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            library: library.display().to_string(),
            totals: Totals::default(),
            since: Instant::now(),
        }
    }

    fn coloured(&self, word: &str, colour: u8) -> String {
        if self.colours {
            format!("\x1b[{colour}m{word:WIDTH$}\x1b[0m")
        } else {
            format!("{word:WIDTH$}")
        }
    }

    fn case(&mut self, entry: &Entry, outcome: &Outcome, took: Duration) {
        self.totals.add(outcome);
        let text = if self.json {
            let mut line = serde_json::to_value(outcome).unwrap_or(Value::Null);
            line["case"] = json!(entry.name);
            line["ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            line.to_string()
        } else {
            self.line(entry, outcome)
        };
        // Who stopped reading does not want the rest.
        let _ = terminal::print_line(text);
    }

    fn line(&self, entry: &Entry, outcome: &Outcome) -> String {
        let name = &entry.name;
        match outcome {
            Outcome::Passed => format!("{} {name}", self.coloured("passed", 32)),
            Outcome::Skipped(why) => format!("{} {name}: {}", self.coloured("skipped", 33), plain(why)),
            Outcome::NotApplicable(why) => format!("{} {name}: {}", self.coloured("n/a", 2), plain(why)),
            Outcome::Failed(why) => {
                let mut text = format!("{} {name}: {}", self.coloured("FAILED", 31), entry.about);
                for line in why.lines() {
                    text += &format!("\n          {}", plain(line));
                }
                text
            }
        }
    }

    fn list(&mut self, plan: &Plan) -> Result<ExitCode, Failure> {
        for entry in &plan.entries {
            let line = match (self.json, &entry.decided) {
                (true, decided) => {
                    let mut line = json!({ "case": entry.name, "about": entry.about });
                    if let (Some(decided), Some(into)) = (decided, line.as_object_mut())
                        && let Ok(Value::Object(decided)) = serde_json::to_value(decided)
                    {
                        into.extend(decided);
                    }
                    line.to_string()
                }
                (false, None) => format!("{}\n    {}", entry.name, entry.about),
                (false, Some(Outcome::NotApplicable(why))) => {
                    format!("{}\n    {}\n    does not apply: {why}", entry.name, entry.about)
                }
                (false, Some(Outcome::Skipped(why))) => {
                    format!("{}\n    {}\n    skipped: {why}", entry.name, entry.about)
                }
                (false, Some(_)) => format!("{}\n    {}", entry.name, entry.about),
            };
            terminal::print_line(line)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn end(&self) -> Result<ExitCode, Failure> {
        let Totals {
            passed,
            failed,
            skipped,
            not_applicable,
        } = self.totals;
        if self.json {
            let mut line = json!({ "library": self.library });
            line["summary"] = serde_json::to_value(self.totals).unwrap_or(Value::Null);
            terminal::print_line(line)?;
        } else {
            terminal::print_line(format_args!(
                "{}: {passed} passed, {failed} failed, {skipped} skipped, {not_applicable} do not apply ({:.1} s)",
                self.library,
                self.since.elapsed().as_secs_f32()
            ))?;
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { status(1) })
    }
}

/// A task's log goes to a terminal: without what would steer it.
fn plain(line: &str) -> String {
    line.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}
