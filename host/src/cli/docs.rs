//! `tcw-host docs`: the documentation of this worker for the authors of its tasks.

use std::process::ExitCode;

use super::flags::WorkerFlags;
use super::outcome::Failure;
use super::schema::with_assembly;

pub(super) async fn run(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    with_assembly(flags, |assembly| {
        println!("# Tasks for the engine {}\n", assembly.engine.name);
        for (provider, sections) in assembly.documentation() {
            for section in sections {
                println!(
                    "## {}\n\n{}\n\n*{provider}*\n",
                    section.title,
                    section.content.trim()
                );
            }
        }
    })
    .await
}
