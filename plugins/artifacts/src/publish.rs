//! Publishing what a sandbox left, several files at a time.
//!
//! One after another, files and the entries of folders become jobs; at most [`PARALLEL`] jobs run at a time, so that
//! a folder of any size needs no more handles than that. A file that is not there is a matter between the task and
//! its author; anything else that goes wrong is the run's, and the first such error ends the work.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use tcw_abi::engine::{ExtractedFile, FolderStream, ResultSet};
use tcw_abi::services::{ArtifactPointer, ArtifactUpload, ContentEncoding, LogLevel, TaskContext};
use tcw_abi::{Error, ErrorKind, Handling, Result};

use crate::lines::Lines;
use crate::payload::{Absence, Kind, Plan, Wanted};
use crate::{media, names};

/// Uploads at a time.
const PARALLEL: usize = 8;
/// The queue's bound on what an error artifact says.
const LONGEST_MESSAGE: usize = 4096;

/// Publishes everything in the plan. False: the task has failed for want of an artifact.
pub(crate) async fn publish(
    task: &Arc<dyn TaskContext>,
    result: &Arc<dyn ResultSet>,
    plan: &Plan,
) -> Result<bool> {
    let publisher = Publisher {
        task,
        result,
        plan,
        lines: Lines::default(),
        failed: AtomicBool::new(false),
        halted: AtomicBool::new(false),
        errors: Mutex::default(),
    };
    let work = async {
        stream::unfold(Jobs::new(&publisher), |mut jobs| async {
            jobs.next().await.map(|job| (job, jobs))
        })
        .for_each_concurrent(PARALLEL, |job| publisher.run(job))
        .await;
        publisher.lines.close();
    };
    let ((), written) = join(work, publisher.lines.write(task)).await;
    let mut errors = publisher
        .errors
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    errors.extend(written.err());
    match Error::merge(errors) {
        Some(error) => Err(error),
        None => Ok(!publisher.failed.into_inner()),
    }
}

struct Publisher<'a> {
    task: &'a Arc<dyn TaskContext>,
    result: &'a Arc<dyn ResultSet>,
    plan: &'a Plan,
    lines: Lines,
    /// Something was not there that has to be.
    failed: AtomicBool,
    /// Nothing new is begun.
    halted: AtomicBool,
    errors: Mutex<Vec<Error>>,
}

enum Job<'a> {
    /// A file of the plan, still to be taken out of the sandbox.
    File(&'a Wanted),
    /// An entry of a folder.
    Entry {
        wanted: &'a Wanted,
        name: String,
        path: String,
        file: ExtractedFile,
    },
    /// A folder that is not there.
    NoFolder(&'a Wanted, Error),
}

/// What is to be done, in the order of the plan.
struct Jobs<'a> {
    publisher: &'a Publisher<'a>,
    rest: std::slice::Iter<'a, Wanted>,
    folder: Option<(&'a Wanted, Arc<dyn FolderStream>)>,
    /// Where each name comes from, if names can meet: when a folder is not alone.
    sources: Option<BTreeMap<String, String>>,
}

impl<'a> Jobs<'a> {
    fn new(publisher: &'a Publisher<'a>) -> Self {
        let wanted = &publisher.plan.wanted;
        let alone = wanted.len() < 2 || wanted.iter().all(|wanted| wanted.kind == Kind::File);
        let files = || wanted.iter().filter(|wanted| wanted.kind == Kind::File);
        Jobs {
            publisher,
            rest: wanted.iter(),
            folder: None,
            sources: (!alone).then(|| {
                files()
                    .map(|file| (file.name.clone(), names::tidy(&file.path)))
                    .collect()
            }),
        }
    }

    async fn next(&mut self) -> Option<Job<'a>> {
        while !self.publisher.halted.load(Ordering::Relaxed) {
            if let Some((wanted, folder)) = self.folder.take() {
                match folder.next().await {
                    Ok(None) => {}
                    Ok(Some(file)) => {
                        self.folder = Some((wanted, folder));
                        if let Some(job) = self.entry(wanted, file) {
                            return Some(job);
                        }
                    }
                    // What is wrong with a folder's stream does not get better by reading on.
                    Err(error) => return Some(Job::NoFolder(wanted, error)),
                }
                continue;
            }
            let wanted = self.rest.next()?;
            match wanted.kind {
                Kind::File if self.publisher.is_reserved(&wanted.name) => {}
                Kind::File => return Some(Job::File(wanted)),
                Kind::Folder => match self.publisher.result.extract_folder(folder_path(wanted)).await {
                    Ok(folder) => self.folder = Some((wanted, folder)),
                    Err(error) => return Some(Job::NoFolder(wanted, error)),
                },
            }
        }
        if self.folder.is_some() || !self.rest.as_slice().is_empty() {
            let line = "The artifacts that were not uploaded yet are left out, because of an error";
            self.publisher.lines.push(LogLevel::Warning, line);
        }
        None
    }

    /// The job for a file of a folder, unless it cannot be published or is already.
    fn entry(&mut self, wanted: &'a Wanted, file: ExtractedFile) -> Option<Job<'a>> {
        let name = names::beneath(&wanted.name, &file.info.path);
        let path = names::beneath(&folder_path(wanted), &file.info.path);
        if let Some(flaw) = names::flaw(&name) {
            self.publisher.fail(&format!(
                "Artifact {name:?} from file {path:?} cannot be uploaded: {flaw}; rename the file"
            ));
            return None;
        }
        if self.publisher.is_reserved(&name) {
            return None;
        }
        if let Some(sources) = &mut self.sources {
            match sources.entry(name.clone()) {
                Entry::Vacant(free) => drop(free.insert(names::tidy(&path))),
                Entry::Occupied(there) if *there.get() == names::tidy(&path) => return None,
                Entry::Occupied(there) => {
                    let error = Error::malformed(format!(
                        "payload key artifacts: the artifact {name:?} cannot be both {:?} and {path:?}: \
                         give one of them another name",
                        there.get()
                    ));
                    self.publisher.error(error);
                    return None;
                }
            }
        }
        Some(Job::Entry {
            wanted,
            name,
            path,
            file,
        })
    }
}

/// Without the slashes at its end, which engines take for another name.
fn folder_path(wanted: &Wanted) -> String {
    match wanted.path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

impl Publisher<'_> {
    async fn run(&self, job: Job<'_>) {
        let done = match job {
            Job::File(wanted) => match self.result.extract_file(wanted.path.clone()).await {
                Ok(file) => self.upload(wanted, &wanted.name, &wanted.path, file).await,
                Err(error) => self.absent(wanted, error).await,
            },
            Job::Entry {
                wanted,
                name,
                path,
                file,
            } => self.upload(wanted, &name, &path, file).await,
            Job::NoFolder(wanted, error) => self.absent(wanted, error).await,
        };
        if let Err(error) = done {
            self.error(error);
        }
    }

    async fn upload(&self, wanted: &Wanted, name: &str, path: &str, file: ExtractedFile) -> Result<()> {
        let content_type = match &wanted.content_type {
            Some(content_type) => content_type.clone(),
            None => media::content_type(path, name).to_owned(),
        };
        let content_encoding = wanted.content_encoding.unwrap_or_else(|| {
            if media::is_compressed(path) {
                ContentEncoding::Identity
            } else {
                ContentEncoding::Gzip
            }
        });
        let encoding = match content_encoding {
            ContentEncoding::Identity => "identity",
            ContentEncoding::Gzip => "gzip",
        };
        let line = format!(
            "Uploading artifact {name} from file {} with content encoding \"{encoding}\", mime type \"{content_type}\" and expiry {}",
            names::shown(path),
            wanted.expires.as_deref().unwrap_or(&self.plan.expires),
        );
        self.lines.push(LogLevel::Info, &line);
        let upload = ArtifactUpload {
            name: name.to_owned(),
            content_type,
            content_encoding,
            already_encoded: false,
            expires: wanted.expires.clone(),
        };
        match self.task.upload_artifact(upload, file.content).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(format!("artifact {name:?} could not be uploaded"))),
        }
    }

    /// `error` is the engine's answer instead of the file or folder.
    async fn absent(&self, wanted: &Wanted, error: Error) -> Result<()> {
        let path = names::shown(&wanted.path);
        let name = if wanted.name.is_empty() {
            &path
        } else {
            &wanted.name
        };
        if error.kind() != ErrorKind::ResourceNotFound {
            return Err(error.context(format!("artifact {name:?} could not be read from {path:?}")));
        }
        if wanted.absence == Absence::Ignored {
            let message = names::shown(error.message());
            let line = format!("Optional artifact \"{name}\" is left out: {message}");
            self.lines.push(LogLevel::Info, &line);
            return Ok(());
        }
        let (reason, message) = self.why(wanted, &path, &error).await;
        let line = format!("Artifact \"{name}\" not found at \"{path}\": {message}");
        if wanted.absence == Absence::Failure {
            self.fail(&line);
        } else {
            self.lines.push(LogLevel::Warning, &line);
        }
        // A folder that is the task's own directory has no name to publish an error under.
        if wanted.name.is_empty() || self.is_reserved(&wanted.name) {
            return Ok(());
        }
        let pointer = ArtifactPointer::Error {
            name: wanted.name.clone(),
            reason: reason.into(),
            message: cut(message),
            expires: wanted.expires.clone(),
        };
        self.task.create_artifact(pointer).await.map_err(|error| {
            error.context(format!(
                "that artifact {name:?} is missing could not be published"
            ))
        })
    }

    /// Whether there is nothing at all, or something of the other kind.
    async fn why(&self, wanted: &Wanted, path: &str, error: &Error) -> (&'static str, String) {
        let (other, message) = match wanted.kind {
            Kind::File => (
                self.result.extract_folder(folder_path(wanted)).await.is_ok(),
                format!("\"{path}\" is a folder, not a file; its type is `directory`"),
            ),
            Kind::Folder => (
                self.result.extract_file(folder_path(wanted)).await.is_ok(),
                format!("\"{path}\" is a file, not a folder; its type is `file`"),
            ),
        };
        if other {
            ("invalid-resource-on-worker", message)
        } else {
            ("file-missing-on-worker", names::shown(error.message()))
        }
    }

    /// Says so in the task log, too.
    fn is_reserved(&self, name: &str) -> bool {
        let reserved = self.plan.reserved.iter().any(|reserved| reserved == name);
        if reserved {
            let line = format!("Artifact \"{name}\" is not uploaded: that is the name of the task log");
            self.lines.push(LogLevel::Warning, &line);
        }
        reserved
    }

    fn fail(&self, line: &str) {
        self.failed.store(true, Ordering::Relaxed);
        self.lines.push(LogLevel::Error, line);
    }

    fn error(&self, error: Error) {
        // What is the author's to change leaves the other artifacts as useful as they are. Whatever else it is, it
        // would be the same for each of them, after a long wait for each.
        let theirs = matches!(error.kind().handling(), Handling::Malformed | Handling::Failed);
        if !theirs {
            self.halted.store(true, Ordering::Relaxed);
        }
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(error);
    }
}

fn cut(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    }
    message
}
