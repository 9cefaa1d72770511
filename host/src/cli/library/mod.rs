//! `tcw-host library`: what files say about themselves, and whether they do what they have to.

mod check;
mod lint;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::outcome::{Failure, status};
use crate::cli::terminal;
use crate::library::{Inspection, LibraryError, find, inspect};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// A line for every library in a directory, or for every file given
    List {
        /// Files and directories
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
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
        Commands::List { paths } => blocking(move || list(&paths)).await,
        Commands::Inspect { files, json } => blocking(move || inspect_all(&files, json)).await,
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

fn list(paths: &[PathBuf]) -> Result<ExitCode, Failure> {
    let mut candidates = Vec::new();
    for path in paths {
        if path.is_dir() && find::library(path).is_err() {
            candidates.extend(find::candidates(path)?);
        } else {
            candidates.push(path.clone());
        }
    }
    let mut rows = vec![["NAME", "VERSION", "ABI", "PROVIDES", "STATE", "PATH"].map(str::to_owned)];
    let mut all_good = true;
    for path in candidates {
        let loadable = inspect::inspect_file(&path).and_then(|inspection| {
            inspection.refuse_foreign()?;
            Ok(inspection)
        });
        rows.push(match loadable {
            Ok(Inspection { manifest, .. }) => [
                manifest.name.clone(),
                manifest.version.clone(),
                manifest.abi.version.clone(),
                provides(&manifest),
                "loadable".into(),
                path.display().to_string(),
            ],
            Err(error) => {
                all_good = false;
                [
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    format!("refused: {}", error.found),
                    path.display().to_string(),
                ]
            }
        });
    }
    if rows.len() == 1 {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        terminal::say(format_args!(
            "tcw-host: there are no libraries in {}",
            places.join(", ")
        ));
        return Ok(ExitCode::SUCCESS);
    }
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
    terminal::print(text)?;
    Ok(if all_good { ExitCode::SUCCESS } else { status(1) })
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
