//! What every engine and every plugin has to do, as cases that can be run against any of them.
//!
//! `tcw-host library check` runs them against a built library, each in a process of its own. A vendor's own tests can
//! run one without a host: [`run_engine_case`], [`run_plugin_case`].
//!
//! ```text
//! drive.rs     how an engine is driven: the vendor's check file
//! purpose.rs   what a payload can be needed for, each with a script for engines that run a POSIX shell
//! stage.rs     what all cases have: patience, tasks, where they are
//! server.rs    what a proxy leads to
//! together.rs  calls at one time
//! processes.rs what runs below this process
//! bench.rs     an engine and the ways to run a task on it, with the checks that every case makes by the way
//! failure.rs   an expectation that was not met
//! ```
//!
//! The other files are groups of cases. A group is a list of [`Case`]s and a function for each; it is named in
//! [`cases`]. A case says what it needs; where that is not there, it does not apply.

mod abort;
mod artifacts;
mod bench;
mod cancel;
mod concurrency;
mod displays;
mod drive;
mod engine;
mod environment;
mod failure;
mod folders;
mod kill;
mod late;
mod log;
mod paths;
mod plugin_bench;
mod plugins;
mod processes;
mod proxies;
pub mod purpose;
mod put_file;
mod recovery;
mod remains;
mod server;
mod shells;
mod stage;
mod together;
mod volume_builders;
mod volumes;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

pub use bench::{Bench, Built, Ended, Running};
pub use drive::{Drive, PluginDrive, ShellDrive, ShellTexts, Skip};
pub use failure::{Failure, show};
pub use plugin_bench::PluginBench;
pub use purpose::Purpose;
pub use stage::Stage;

use crate::engine::{EngineDescription, EngineProvider};
use crate::plugin::PluginProvider;

/// The body of a case, or of one of its stages.
pub type Run<B> = for<'a> fn(&'a B) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// What a case needs of the engine and of its check file.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A feature that the engine declares.
    Feature(&'static str),
    /// A payload.
    Payload(&'static Purpose),
    /// Tasks that run POSIX scripts: `script` in the check file. For what only a script can be told.
    Scripts,
    /// A shell that runs POSIX scripts: `shells.command` or `script` in the check file.
    ShellScripts,
    /// What to write into the default shell: `shells.hello`, `shells.fail` and `shells.wait`.
    DefaultShell,
}

/// One thing that an engine has to do.
pub struct Case {
    /// `group/name`.
    pub name: &'static str,
    /// One line: what has to happen.
    pub about: &'static str,
    /// Without these it does not apply.
    pub needs: &'static [Need],
    /// Usually one. After each but the last, the process is killed as it stands, and the next stage runs in another
    /// process that has the same directory: for what has to survive.
    pub stages: &'static [Run<Bench>],
}

/// One thing that a plugin has to do.
pub struct PluginCase {
    /// `group/name`.
    pub name: &'static str,
    /// One line: what has to happen.
    pub about: &'static str,
    /// The body.
    pub run: Run<PluginBench>,
}

/// A list of cases: name, what has to happen, what is needed, the function of each stage.
macro_rules! case_list {
    ($($name:literal, $about:literal, [$($need:expr),*], $($stage:path),+;)*) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            name: $name,
            about: $about,
            needs: &[$($need),*],
            stages: &[$(|bench| Box::pin($stage(bench))),+],
        }),*];
    };
}
use case_list;

/// Every case for engines, by groups.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [
        engine::CASES,
        log::CASES,
        environment::CASES,
        put_file::CASES,
        artifacts::CASES,
        shells::CASES,
        kill::CASES,
        abort::CASES,
        cancel::CASES,
        late::CASES,
        concurrency::CASES,
        volumes::CASES,
        volume_builders::CASES,
        proxies::CASES,
        displays::CASES,
        paths::CASES,
        folders::CASES,
        recovery::CASES,
        remains::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Every case for plugins.
pub fn plugin_cases() -> impl Iterator<Item = &'static PluginCase> {
    plugins::CASES.iter()
}

impl Case {
    /// What it needs and does not find, as the end of a sentence that begins with "it does not apply:".
    pub fn lacks(&self, engine: &EngineDescription, drive: &Drive) -> Option<String> {
        self.needs.iter().find_map(|need| match need {
            Need::Feature(name) => (!engine.has(name)).then(|| format!("the engine has no feature '{name}'")),
            Need::Payload(purpose) => {
                (!drive.has(purpose)).then(|| format!("the check file has no payload for '{}'", purpose.name))
            }
            Need::Scripts => drive
                .script
                .is_none()
                .then(|| "the check file has no `script`".to_owned()),
            Need::ShellScripts => drive
                .shell_command("")
                .is_none()
                .then(|| "the check file has no `shells.command`".to_owned()),
            Need::DefaultShell => drive
                .shell_texts()
                .is_none()
                .then(|| "the check file has no texts for the default shell".to_owned()),
        })
    }
}

/// Answers what is wrong with a value by a JSON Schema; the SDK has no validator of its own.
pub type Validate = Arc<dyn Fn(&Value, &Value) -> Result<(), String> + Send + Sync>;

/// Is told what went wrong.
pub type OnFailure = Box<dyn Fn(&Failure) + Send + Sync>;

/// What a case is run with.
pub struct Setting {
    /// The vendor's check file.
    pub drive: Drive,
    /// Folders and leases; the stages of one case share it.
    pub directory: PathBuf,
    /// Called with the name of each step as it begins, so that it is known where a case hangs.
    pub on_step: Box<dyn Fn(&str) + Send + Sync>,
    /// Called with what went wrong before anything is cleaned up, which may hang.
    pub on_failure: OnFailure,
    /// Checks payloads and configurations by their schemas; `None`: they are not checked.
    pub validate: Option<Validate>,
}

impl Setting {
    /// A setting without steps and schemas, for tests inside a process.
    pub fn new(drive: Drive, directory: PathBuf) -> Self {
        Setting {
            drive,
            directory,
            on_step: Box::new(|_| {}),
            on_failure: Box::new(|_| {}),
            validate: None,
        }
    }
}

/// Runs one stage of a case against the engine that `provider` makes. Answers what was expected and not met, with
/// the end of the log of each task of the case.
pub async fn run_engine_case(
    case: &Case,
    stage: usize,
    provider: Arc<dyn EngineProvider>,
    setting: Setting,
) -> Result<(), Failure> {
    let Some(run) = case.stages.get(stage) else {
        return Err(Failure::new(format!("{} has no stage {stage}", case.name)));
    };
    let (bench, on_failure) = Bench::new(provider, setting).await?;
    let outcome = run(&bench).await.map_err(|failure| bench.explain(failure));
    if let Err(failure) = &outcome {
        on_failure(failure);
    } else if stage + 1 < case.stages.len() {
        // The process is killed as it stands: nothing may be cleaned up, not by destructors either.
        std::mem::forget(bench);
        return Ok(());
    }
    let torn_down = bench.tear_down().await;
    // What went wrong first is what matters; what was torn down in the middle may complain.
    outcome.and(torn_down.map_err(|failure| bench.explain(failure)))
}

/// The same for a plugin. `name` is the plugin's.
pub async fn run_plugin_case(
    case: &PluginCase,
    name: &str,
    provider: Arc<dyn PluginProvider>,
    setting: Setting,
) -> Result<(), Failure> {
    let (bench, on_failure) = PluginBench::new(name, provider, setting).await?;
    let outcome = (case.run)(&bench).await.map_err(|failure| bench.explain(failure));
    if let Err(failure) = &outcome {
        on_failure(failure);
    }
    let torn_down = bench.tear_down().await;
    outcome.and(torn_down.map_err(|failure| bench.explain(failure)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_in_a_group_and_says_what_it_is_about() {
        let names: Vec<&str> = cases()
            .map(|case| case.name)
            .chain(plugin_cases().map(|case| case.name))
            .collect();
        let distinct: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        for name in names {
            assert_eq!(name.split('/').count(), 2, "{name}");
        }
        assert!(cases().all(|case| !case.about.is_empty() && !case.stages.is_empty()));
    }
}
