//! `tcw-host status`: what a running worker does.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::flags::WorkerFlags;
use super::outcome::Failure;
use super::{start, terminal};
use crate::worker::status;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    worker: WorkerFlags,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_to_ask()?;
    let directory = start::worker_directory(&config);
    let answer = status::ask(&directory).await.map_err(|error| {
        Failure::general(format!(
            "no worker runs with the state directory {} ({error}); give the one of a running worker with \
             --state-directory",
            config.worker.state_directory.display()
        ))
    })?;
    terminal::print(if arguments.json {
        format!("{answer:#}\n")
    } else {
        in_words(&answer)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut out = format!(
        "worker {}/{} of {}, process {}, since {}\nqueue {}\nengine {}, capacity {}\n",
        text(&answer["workerGroup"]),
        text(&answer["workerId"]),
        text(&answer["workerPool"]),
        answer["pid"],
        text(&answer["since"]),
        text(&answer["rootUrl"]),
        text(&answer["engine"]),
        answer["capacity"],
    );
    out.push_str("libraries\n");
    for library in answer["libraries"].as_array().into_iter().flatten() {
        let sha256 = text(&library["sha256"]);
        out.push_str(&format!(
            "  {} {}  {}  {}\n",
            text(&library["name"]),
            text(&library["version"]),
            sha256.get(..12).unwrap_or(&sha256),
            text(&library["path"]),
        ));
    }
    for reason in answer["claimingPaused"].as_array().into_iter().flatten() {
        out.push_str(&format!("nothing is claimed: {}\n", text(reason)));
    }
    let tasks = answer["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    if tasks.is_empty() {
        out.push_str("no task runs\n");
    } else {
        out.push_str("tasks\n");
    }
    for task in tasks {
        out.push_str(&format!(
            "  {}/{}  {} since {}  {}\n",
            text(&task["taskId"]),
            task["runId"],
            text(&task["state"]),
            text(&task["since"]),
            text(&task["name"]),
        ));
    }
    out
}
