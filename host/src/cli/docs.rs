//! `tcw-host docs`: the documentation of this worker for the authors of its tasks.

use std::process::ExitCode;

use super::flags::WorkerFlags;
use super::outcome::Failure;
use super::schema::with_assembly;

pub(super) async fn run(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    with_assembly(flags, |assembly| {
        let mut text = format!("# Tasks for the engine {}\n", assembly.engine.name);
        for (provider, sections) in assembly.documentation() {
            for section in sections {
                let content = section.content.trim();
                text += &format!("\n## {}\n\n{content}\n\n*{provider}*\n", section.title);
            }
        }
        text
    })
    .await
}
