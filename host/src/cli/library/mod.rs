//! `tcw-host library`: what files say about themselves, whether they do what they have to, and which have crashed.

mod check;
mod lint;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::flags::WorkerFlags;
use crate::cli::outcome::{Failure, status};
use crate::cli::{start, terminal};
use crate::config::Config;
use crate::library::{self, Inspection, LibraryError, find, inspect, open_here};
use crate::worker::crashes::{self, CrashHistory, crash_histories};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// A line for every library: in a directory, of a file, or of the worker, with its crashes
    List {
        /// Files and directories; without any, the libraries of the configuration, and those that have crashed
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        worker: Box<WorkerFlags>,
    },
    /// Load a library again that was quarantined for crashing the worker, from the next start on
    Release {
        /// The library's name, or the beginning of its SHA-256
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        worker: Box<WorkerFlags>,
    },
    /// Everything that a file says about itself, and whether this host can load it
    Inspect {
        /// Files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Opens a stored library and says so: what a worker has another process do first
    #[command(hide = true)]
    Probe {
        /// The copy in the store
        file: PathBuf,
    },
    /// Run the cases that every engine and every plugin has to pass, each in a process of its own
    Check(check::Arguments),
    /// Is the file fit to be shipped: exports, panics, size, what it needs, schemas, documentation
    Lint(lint::Arguments),
    /// For this program itself: supervises one case
    #[command(hide = true)]
    SuperviseCase { directory: PathBuf },
    /// For this program itself: runs one case
    #[command(hide = true)]
    RunCase {
        directory: PathBuf,
        #[arg(long)]
        stage: usize,
    },
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        // Reading files of many megabytes is nothing for the threads that poll.
        Commands::List { paths, worker } => blocking(move || list(&paths, &worker)).await,
        Commands::Release { name, worker } => blocking(move || release(&name, &worker.load_quietly()?)).await,
        Commands::Inspect { files, json } => blocking(move || inspect_all(&files, json)).await,
        Commands::Probe { file } => {
            blocking(move || {
                open_here(&file).map_err(Failure::general)?;
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        Commands::Check(arguments) => check::run(arguments).await,
        Commands::Lint(arguments) => lint::run(arguments).await,
        Commands::SuperviseCase { directory } => check::supervise(&directory).await,
        Commands::RunCase { directory, stage } => check::run_case(&directory, stage).await,
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<ExitCode, Failure> + Send + 'static,
) -> Result<ExitCode, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::general)?
}

type Row = [String; 6];

fn list(paths: &[PathBuf], flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    // Files can be looked at without any worker.
    let config = match flags.load_quietly() {
        Err(failure) if paths.is_empty() || flags.name_a_state() => return Err(failure),
        config => config.ok(),
    };
    let crashed = match &config {
        Some(config) => crash_histories(&start::worker_directory(config))?,
        None => Vec::new(),
    };
    let of_worker = config.filter(|_| paths.is_empty()).map(|config| {
        let libraries = config.libraries;
        libraries
            .engine
            .into_iter()
            .chain(libraries.directories)
            .collect()
    });
    let whole = of_worker.is_some();
    let paths: Vec<PathBuf> = of_worker.unwrap_or_else(|| paths.to_vec());

    let mut candidates = Vec::new();
    for path in &paths {
        if path.is_dir() && find::library(path).is_err() {
            candidates.extend(find::candidates(path)?);
        } else {
            candidates.push(path.clone());
        }
    }
    let mut rows: Vec<Row> = vec![["NAME", "VERSION", "ABI", "PROVIDES", "STATE", "PATH"].map(str::to_owned)];
    let mut all_good = true;
    let mut shown = Vec::new();
    for path in candidates {
        let (row, good) = row(&path, &crashed, &mut shown);
        rows.push(row);
        all_good &= good;
    }
    if whole {
        // Bytes that are not where they were any more.
        let gone = crashed
            .iter()
            .filter(|history| !shown.contains(&history.library.sha256));
        rows.extend(gone.map(|history| {
            let library = &history.library;
            [
                library.name.clone(),
                library.version.clone(),
                "-".into(),
                "-".into(),
                format!("gone; {}", crashes_in_words(history)),
                library.path.display().to_string(),
            ]
        }));
    }
    if rows.len() == 1 {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        terminal::say(if places.is_empty() {
            "tcw-host: the configuration names no libraries; give files or directories".to_owned()
        } else {
            format!("tcw-host: there are no libraries in {}", places.join(", "))
        });
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print(table(&rows))?;
    Ok(if all_good { ExitCode::SUCCESS } else { status(1) })
}

/// The line of a file, and whether the worker would load it. Adds its hash to `shown` if it has crashed.
fn row(path: &Path, crashed: &[CrashHistory], shown: &mut Vec<String>) -> (Row, bool) {
    let loadable = inspect::inspect_file(path).and_then(|inspection| {
        inspection.refuse_foreign()?;
        Ok(inspection)
    });
    let manifest = match loadable {
        Ok(Inspection { manifest, .. }) => manifest,
        Err(error) => {
            let refused = format!("refused: {}", error.found);
            let row = ["-", "-", "-", "-", &refused, &path.display().to_string()];
            return (row.map(str::to_owned), false);
        }
    };
    // Most have never crashed, and need not be hashed.
    let sha256 = if crashed.is_empty() {
        None
    } else {
        library::sha256(path)
    };
    let history = crashed
        .iter()
        .find(|history| Some(&history.library.sha256) == sha256.as_ref());
    let good = history.is_none_or(|history| !history.quarantined);
    shown.extend(sha256);
    let row = [
        manifest.name.clone(),
        manifest.version.clone(),
        manifest.abi.version.clone(),
        provides(&manifest),
        history.map_or_else(|| "loadable".into(), crashes_in_words),
        path.display().to_string(),
    ];
    (row, good)
}

fn crashes_in_words(history: &CrashHistory) -> String {
    let state = if history.quarantined {
        "quarantined"
    } else {
        "loadable"
    };
    format!("{state}: {}", history.in_words())
}

/// So many digits of a hash are meant as one.
const SHORTEST_PREFIX: usize = 6;

fn release(name: &str, config: &Config) -> Result<ExitCode, Failure> {
    let directory = start::worker_directory(config);
    let state = config.worker.state_directory.display();
    let histories = crash_histories(&directory)?;
    let is_meant = |history: &&CrashHistory| {
        let library = &history.library;
        library.name == name || (name.len() >= SHORTEST_PREFIX && library.sha256.starts_with(name))
    };
    let meant: Vec<&CrashHistory> = histories.iter().filter(is_meant).collect();
    let Some(last) = meant.first() else {
        return Err(Failure::general(format!(
            "no library '{name}' has crashed the worker with the state directory {state}; `tcw-host library list` shows \
             those that have"
        )));
    };
    let quarantined: Vec<_> = meant.iter().filter(|history| history.quarantined).collect();
    if quarantined.is_empty() {
        return Err(Failure::general(format!(
            "the library {} is not quarantined with the state directory {state}: it {}, and is loaded",
            last.library,
            last.in_words()
        )));
    }
    for history in quarantined {
        crashes::release(&directory, &history.library.sha256)?;
        let short = history
            .library
            .sha256
            .get(..12)
            .unwrap_or(&history.library.sha256);
        let library = &history.library;
        terminal::print_line(format_args!(
            "{} {} ({short}) is loaded again from the next start on; {} crashes are forgotten",
            library.name, library.version, history.crashes
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let widths: Vec<usize> = (0..6)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn provides(manifest: &tcw_abi::manifest::Manifest) -> String {
    let engine = manifest.engine.then(|| format!("engine {}", manifest.name));
    let plugins = manifest.plugins.iter().map(|name| format!("plugin {name}"));
    engine.into_iter().chain(plugins).collect::<Vec<_>>().join(", ")
}

fn inspect_all(files: &[PathBuf], json: bool) -> Result<ExitCode, Failure> {
    let mut all_good = true;
    for file in files {
        let inspection = inspect::inspect_file(file);
        let refusal = match &inspection {
            Ok(inspection) => inspection.refuse_foreign().err(),
            Err(error) => Some(error.clone()),
        };
        all_good &= refusal.is_none();
        let inspection = inspection.as_ref().ok();
        if json {
            terminal::print_line(as_json(inspection, refusal.as_ref()))?;
        } else {
            terminal::print(as_text(inspection, refusal.as_ref()))?;
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { status(1) })
}

fn as_json(inspection: Option<&Inspection>, refusal: Option<&LibraryError>) -> serde_json::Value {
    json!({
        "manifest": inspection.map(|inspection| &inspection.manifest),
        "format": inspection.map(|inspection| &inspection.format),
        "size": inspection.map(|inspection| inspection.size),
        "glibc": inspection.and_then(|inspection| inspection.glibc).map(|version| version.to_string()),
        "needed": inspection.map(|inspection| &inspection.needed),
        "path": inspection.map(|inspection| &inspection.path),
        "refused": refusal.map(|error| json!({ "path": error.path, "found": error.found, "remedy": error.remedy })),
    })
}

fn as_text(inspection: Option<&Inspection>, refusal: Option<&LibraryError>) -> String {
    let mut text = String::new();
    if let Some(inspection) = inspection {
        let manifest = &inspection.manifest;
        text += &format!("{} {}\n", manifest.name, manifest.version);
        let glibc = inspection
            .glibc
            .map_or_else(|| "none by name".to_owned(), |version| version.to_string());
        let rows = [
            ("path", inspection.path.display().to_string()),
            ("provides", provides(manifest)),
            ("vendor", manifest.vendor.clone()),
            ("licence", manifest.license.clone()),
            ("ABI", format!("{} {}", manifest.abi.family, manifest.abi.version)),
            ("SDK", manifest.sdk.clone()),
            ("compiler", manifest.rustc.clone()),
            ("target", format!("{} ({})", manifest.target, inspection.format)),
            ("GLIBC", glibc),
            ("needs", inspection.needed.join(", ")),
            ("size", format!("{} bytes", inspection.size)),
        ];
        for (name, value) in rows {
            text += &format!("  {name:9} {value}\n");
        }
    }
    match refusal {
        Some(error) => text += &format!("  refused: {error}\n"),
        None => text += "  this host can load it\n",
    }
    text
}
