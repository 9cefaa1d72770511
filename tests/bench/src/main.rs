//! Figures beside their yardsticks: one JSON line each. Started by `run.sh`, which builds what is measured.
//!
//! Machines are noisy, so every ratio is the median of nine pairs, figure and yardstick taken in turns.

mod boundary;
mod content;
mod many;
mod pairs;
mod queue;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use pairs::Figure;

/// What is measured, and where it was built.
pub(crate) struct Build {
    /// The host's binary.
    pub(crate) host: PathBuf,
    /// The native engine's library.
    pub(crate) engine: PathBuf,
    /// The mock engine's.
    pub(crate) mock: PathBuf,
    /// A directory with every plugin.
    pub(crate) plugins: PathBuf,
    /// The library of a plugin that does nothing.
    pub(crate) nothing: PathBuf,
    /// How many pairs; an odd number.
    pub(crate) pairs: usize,
}

type Measure = fn(&Build) -> Figure;

/// Every figure: its name, and how it is measured.
const FIGURES: &[(&str, Measure)] = &[
    ("hook-round-trip", boundary::back_to_back),
    ("hook-round-trip-idle", boundary::after_idling),
    ("library-load", boundary::load),
    ("plugin-per-task", many::per_task),
    ("libraries-threads", many::threads),
    ("libraries-memory", many::memory),
    ("task-overhead", worker::overhead),
    ("tasks-per-second", worker::throughput),
    ("mock-tasks-per-second", worker::mock_throughput),
    ("log-uploaded", content::log_uploaded),
    ("log-alone", content::log_alone),
    ("artifact-1-gib", content::large_artifact),
    ("artifacts-1000-small", content::small_artifacts),
    ("host-memory-idle", worker::memory),
    ("host-memory-per-task", worker::memory_per_task),
    ("start-to-first-claim", worker::first_claim),
    ("queue-claims", queue::claims_per_second),
    ("queue-creates", queue::creates_per_second),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(built), Some(plugins)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: tcw-bench BUILD_DIR PLUGINS_DIR [NAME...]; use tests/bench/run.sh");
        return ExitCode::from(64);
    };
    let only: Vec<String> = arguments.collect();
    let built = PathBuf::from(built);
    let build = Build {
        host: built.join("tcw-host"),
        engine: built.join("libnative_engine.so"),
        mock: built.join("libmock_engine.so"),
        plugins: plugins.into(),
        nothing: built.join("libnothing_plugin.so"),
        pairs: std::env::var("TCW_BENCH_PAIRS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(9),
    };
    let mut known = true;
    for name in &only {
        if !FIGURES.iter().any(|(figure, _)| figure == name) {
            eprintln!("tcw-bench: there is no figure '{name}'");
            known = false;
        }
    }
    if !known {
        return ExitCode::from(64);
    }
    for (name, measure) in FIGURES {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            println!("{}", measure(&build).line(name));
        }
    }
    ExitCode::SUCCESS
}
