//! The command line: one file per subcommand.

mod cancel;
mod config;
mod crashed;
mod disk;
mod docs;
mod exec;
mod flags;
mod follow;
mod generations;
mod library;
mod logging;
mod outcome;
mod queue;
mod recover;
mod run;
mod schema;
mod scratch;
mod signals;
mod start;
mod status;
mod submit;
mod task_file;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use outcome::Failure;

use crate::library::crash;
use flags::WorkerFlags;

/// A Taskcluster worker whose engines and plugins are libraries, loaded at run time.
#[derive(Debug, Parser)]
#[command(name = "tcw-host", version, max_term_width = 110, after_help = AFTER_HELP, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,

    #[command(flatten)]
    worker: WorkerFlags,
}

const AFTER_HELP: &str = "\
Exit statuses: `exec`, `submit --watch`: 0 completed, 1 failed, 2 exception. `run`: 0 done, 68 idle, 69 internal \
error or a library that panicked or hung, 71 stopped after its tasks, 72 stopped at once. `queue serve`: 0 told to \
stop, 72 told twice. All: 64 usage or configuration cannot be read, 73 configuration \
does not make sense, 77 others can read its secrets, 1 anything else.

Without a deployment (TASKCLUSTER_ROOT_URL, or `queue: {rootUrl: ...}`) the embedded queue is used.";

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Work until told to stop (the default).
    Run(WorkerFlags),
    /// Run one task here and now: its log on the terminal, its outcome as exit status.
    Exec(exec::Arguments),
    /// Put a task into the queue.
    Submit(submit::Arguments),
    /// Cancel a task.
    Cancel(cancel::Arguments),
    /// The payload schema of this engine and these plugins.
    Schema(schema::Arguments),
    /// The documentation of this worker for the authors of its tasks, in Markdown.
    Docs(WorkerFlags),
    /// Is this configuration right, and what may be in one.
    Config(config::Arguments),
    /// Look at libraries, and release those that were quarantined for crashing the worker.
    Library(library::Arguments),
    /// What a running worker does: tasks, since when, in which state, with which libraries.
    Status(status::Arguments),
    /// Finish what a crash left behind, and say what was done.
    Recover(recover::Arguments),
    /// The embedded queue by itself, for workers on several machines, and who may use it.
    Queue(queue::Arguments),
}

/// Runs the command line and answers the exit status.
pub fn main() -> ExitCode {
    crate::memory::give_back_large_buffers();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors and go to stdout.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed {
                outcome::status(outcome::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let threads = threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("tcw-host")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::say(format_args!(
                "tcw-host: its threads cannot be started: {error}; raise the limits of processes and open files"
            ));
            return ExitCode::FAILURE;
        }
    };
    tcw_abi::runtime::adopt(runtime.handle().clone());
    let outcome = runtime.block_on(dispatch(arguments));
    crash::leaving();
    // Threads of libraries that hang must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            terminal::say(format_args!("tcw-host: {failure}"));
            if failure.is_stuck() {
                crate::library::leave(failure.status());
            }
            outcome::status(failure.status())
        }
    }
}

/// Threads for the worker's own work: as tokio is told elsewhere, or a few.
fn threads() -> usize {
    let told = std::env::var("TOKIO_WORKER_THREADS").ok();
    told.and_then(|number| number.parse::<usize>().ok())
        .filter(|number| (1..=256).contains(number))
        .unwrap_or_else(|| {
            std::thread::available_parallelism()
                .map_or(2, usize::from)
                .clamp(2, 8)
        })
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        None => run::run(&arguments.worker).await,
        Some(Subcommands::Run(flags)) => run::run(&flags).await,
        Some(Subcommands::Exec(arguments)) => exec::run(arguments).await,
        Some(Subcommands::Submit(arguments)) => submit::run(arguments).await,
        Some(Subcommands::Cancel(arguments)) => cancel::run(arguments).await,
        Some(Subcommands::Schema(arguments)) => schema::run(arguments).await,
        Some(Subcommands::Docs(flags)) => docs::run(&flags).await,
        Some(Subcommands::Config(arguments)) => config::run(&arguments),
        Some(Subcommands::Library(arguments)) => library::run(arguments).await,
        Some(Subcommands::Status(arguments)) => status::run(arguments).await,
        Some(Subcommands::Recover(arguments)) => recover::run(&arguments).await,
        Some(Subcommands::Queue(arguments)) => queue::run(arguments).await,
    }
}
