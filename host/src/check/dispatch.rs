//! Several cases at one time. This process never opens the library.

use std::fs::{self, DirBuilder};
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tcw_abi::testing::conformance::Drive;
use tokio::process::Command;

use super::job::{Answer, Described, Job, Outcome, Place, Task};
use super::plan::{Entry, Plan, UnknownCase};

/// Somebody wants it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// Why a check cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The loader's words, or how the process that loaded it died.
    #[error("{0}")]
    Unloadable(String),
    /// The check file names a case that there is not.
    #[error("`skip` in the check file: {0}")]
    Skip(UnknownCase),
    /// The check file is for another library.
    #[error("the check file drives {what}, which {} does not have; it provides {provides}", library.display())]
    Provided {
        /// The library.
        library: PathBuf,
        /// What it lacks.
        what: String,
        /// What it has.
        provides: String,
    },
    /// The machine does not let it.
    #[error("the check cannot be run in {}: {error}; another place can be chosen with TMPDIR", place.display())]
    Place {
        /// Where.
        place: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A check of one library: a directory of its own, which is removed in the end, and the processes that run.
pub struct Dispatch {
    scratch: PathBuf,
    library: PathBuf,
    drive: Drive,
    drive_text: Value,
    next: AtomicUsize,
    supervisors: Mutex<Vec<Pid>>,
    stopping: AtomicBool,
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        // What a library made unremovable is left to the next boot.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl Dispatch {
    /// For the library at `library`, driven as its check file says.
    pub fn new(library: &Path, drive: Drive) -> Result<Self, CheckError> {
        let all = std::env::temp_dir();
        let trouble = |error| CheckError::Place {
            place: all.clone(),
            error,
        };
        let drive_text = serde_json::to_value(&drive).map_err(|error| trouble(error.into()))?;
        let scratch = scratch(&all).map_err(trouble)?;
        Ok(Dispatch {
            library: std::path::absolute(library).unwrap_or_else(|_| library.to_owned()),
            scratch,
            drive,
            drive_text,
            next: AtomicUsize::new(0),
            supervisors: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Which cases there are.
    pub async fn plan(&self) -> Result<Plan, CheckError> {
        let described = self.described().await?;
        let engine = described.engine.map(|engine| engine.description);
        let plugins: Vec<String> = described.plugins.into_iter().map(|plugin| plugin.name).collect();
        Plan::new(engine.as_ref(), &plugins, &self.drive).map_err(CheckError::Skip)
    }

    /// Loads the library in another process, and answers what it says about itself.
    pub async fn described(&self) -> Result<Described, CheckError> {
        let trouble = |error| CheckError::Place {
            place: self.scratch.clone(),
            error,
        };
        let (place, outcome) = self.supervised(Task::Describe, 1).await.map_err(trouble)?;
        match (place.read("described"), outcome) {
            (Ok(Answer::Unloadable(text)), _) => Err(CheckError::Unloadable(text)),
            (Ok(Answer::Loaded(described)), Outcome::Passed) => self.fits(described),
            (_, Outcome::Failed(text)) => Err(CheckError::Unloadable(format!(
                "{}: it cannot be loaded: {text}",
                self.library.display()
            ))),
            (Err(error), _) => Err(trouble(error)),
            (Ok(Answer::Loaded(described)), _) => self.fits(described),
        }
    }

    /// A check file with a slip in a plugin's name would drive nothing, and say so nowhere.
    fn fits(&self, described: Described) -> Result<Described, CheckError> {
        let has = |name: &str| described.plugins.iter().any(|plugin| plugin.name == name);
        let unknown = self.drive.plugins.keys().find(|name| !has(name));
        let lacks = match unknown {
            Some(name) => Some(format!("a plugin '{name}'")),
            None if described.engine.is_none() && !self.drive.engine.is_null() => {
                Some("an engine".to_owned())
            }
            None => None,
        };
        let Some(what) = lacks else { return Ok(described) };
        let engine = described.engine.iter().map(|_| "an engine".to_owned());
        let plugins = described
            .plugins
            .iter()
            .map(|plugin| format!("plugin '{}'", plugin.name));
        Err(CheckError::Provided {
            library: self.library.clone(),
            what,
            provides: engine.chain(plugins).collect::<Vec<_>>().join(", "),
        })
    }

    /// Runs the cases, `parallel` at one time, and tells each outcome in the order of the plan. When `interrupt`
    /// returns, everything that runs is ended first.
    pub async fn run(
        &self,
        plan: &Plan,
        parallel: usize,
        mut outcome: impl FnMut(&Entry, &Outcome, Duration),
        interrupt: impl Future,
    ) -> Result<(), Interrupted> {
        let cases = plan.entries.iter().map(|entry| async move {
            let since = Instant::now();
            (entry, self.one(entry).await, since.elapsed())
        });
        let mut running = futures_util::stream::iter(cases).buffered(parallel.max(1));
        let mut interrupt = std::pin::pin!(interrupt);
        loop {
            tokio::select! {
                next = running.next() => match next {
                    Some((entry, result, took)) => outcome(entry, &result, took),
                    None if self.stopping.load(Ordering::Acquire) => return Err(Interrupted),
                    None => return Ok(()),
                },
                _ = &mut interrupt, if !self.stopping.load(Ordering::Acquire) => self.stop(),
            }
            if self.stopping.load(Ordering::Acquire) {
                // Nothing starts any more; what runs ends, and nobody asks how.
                while running.next().await.is_some() {}
                return Err(Interrupted);
            }
        }
    }

    async fn one(&self, entry: &Entry) -> Outcome {
        if let Some(decided) = &entry.decided {
            return decided.clone();
        }
        match self.supervised(entry.task.clone(), entry.stages).await {
            Ok((place, outcome)) => {
                // What cannot be removed is removed with the whole, or not at all.
                let _ = fs::remove_dir_all(place.path());
                outcome
            }
            Err(error) => Outcome::Failed(format!("the case cannot be run: {error}")),
        }
    }

    async fn supervised(&self, task: Task, stages: usize) -> io::Result<(Place, Outcome)> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            task,
            stages,
            library: self.library.clone(),
            state: self.scratch.join("state"),
            drive: self.drive_text.clone(),
            timeout_ms: u64::try_from(self.drive.timeout().as_millis()).unwrap_or(u64::MAX),
            dispatcher: std::process::id(),
        };
        let place = Place::create(self.scratch.join(number.to_string()), &job)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["library", "supervise-case"])
            .arg(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C on the terminal is for this process, which then ends the others in order.
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let remember = || {
            self.supervisors
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        remember().extend(pid);
        let status = child.wait().await;
        remember().retain(|other| Some(*other) != pid);
        let status = status?;
        match place.read("outcome") {
            Ok(outcome) => Ok((place, outcome)),
            Err(_) => {
                let text = format!("the process that supervised it has ended without an outcome: {status}");
                Ok((place, Outcome::Failed(text)))
            }
        }
    }

    /// Ends everything that runs; what waits for it returns then.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let supervisors = self
            .supervisors
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for pid in supervisors.iter() {
            // It may have ended by itself; it is our child and not waited for yet, so the number is its own.
            let _ = kill_process(*pid, Signal::TERM);
        }
    }
}

/// A directory that nobody else has. Its path is short, because sockets in it have names of 107 bytes at most.
fn scratch(all: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let path = all.join(format!("tcw-check-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            // Of an earlier process with the same id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            Err(error) => return Err(error),
            Ok(()) => return Ok(path),
        }
    }
}
