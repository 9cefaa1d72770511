//! What a task leaves: its report, and the files in its directory until they are disposed of.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::engine::{ExtractedFile, FileInfo, FolderStream, Report, ResultSet};
use tcw_abi::io::Handle;
use tcw_abi::runtime::blocking;
use tcw_abi::services::TaskContext;
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::OnceCell;

use crate::beneath::{self, Found, Listing, Reason};
use crate::directory::TaskDirectory;
use crate::links::Links;

/// As many entries that are left out of a folder are named in the log.
const NAMED: usize = 10;

pub(crate) struct NativeResultSet {
    report: Report,
    directory: Arc<TaskDirectory>,
    task: Arc<dyn TaskContext>,
    links: Arc<Links>,
    disposed: OnceCell<()>,
}

impl NativeResultSet {
    pub(crate) fn new(report: Report, directory: Arc<TaskDirectory>, task: Arc<dyn TaskContext>) -> Self {
        NativeResultSet {
            report,
            directory,
            task,
            links: Arc::default(),
            disposed: OnceCell::new(),
        }
    }

    fn in_use(&self) -> Result<()> {
        if self.disposed.initialized() {
            return Err(Error::violation("the task's files have been disposed of"));
        }
        Ok(())
    }
}

fn not_found(what: &str, path: &str, reason: Reason) -> Error {
    Error::new(
        ErrorKind::ResourceNotFound,
        format!("there is no {what} '{path}': {reason}"),
    )
}

fn extracted(found: Found, path: String) -> ExtractedFile {
    ExtractedFile {
        content: Handle::from(found.file),
        info: FileInfo {
            path,
            seekable: true,
            size: Some(found.size),
            mode: found.mode,
        },
    }
}

#[async_trait]
impl ResultSet for NativeResultSet {
    fn report(&self) -> Report {
        self.report.clone()
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        self.in_use()?;
        let directory = Arc::clone(&self.directory);
        let links = Arc::clone(&self.links);
        blocking(move || {
            beneath::relative(directory.path(), &path)
                .and_then(|below| beneath::open_file(directory.handle(), below, true))
                .and_then(|found| links.all_inside(&directory.handle(), found.names).map(|()| found))
                .map(|found| extracted(found, String::new()))
                .map_err(|reason| not_found("file", &path, reason))
        })
        .await
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        self.in_use()?;
        let directory = Arc::clone(&self.directory);
        let links = Arc::clone(&self.links);
        let asked = path.clone();
        let (folder, Listing { files, left_out }) = blocking(move || {
            let open = || {
                let below = beneath::relative(directory.path(), &asked)?;
                let folder = beneath::open_folder(directory.handle(), below)?;
                let mut listing = beneath::list(&folder)?;
                links.leave_out(&directory.handle(), &folder, &mut listing);
                Ok((folder, listing))
            };
            open().map_err(|reason| not_found("folder", &asked, reason))
        })
        .await?;
        if !left_out.is_empty() {
            let more = left_out.len().saturating_sub(NAMED);
            let mut text = format!(
                "Only plain files are taken from '{path}'. Left out: {}",
                left_out[..left_out.len() - more].join(", ")
            );
            if more > 0 {
                text.push_str(&format!(" and {more} more"));
            }
            self.task.log(text).await?;
        }
        Ok(Arc::new(NativeFolder {
            folder: Arc::new(folder),
            files: Mutex::new(files.into()),
        }))
    }

    async fn dispose(&self) -> Result<()> {
        self.disposed
            .get_or_try_init(|| self.directory.remove())
            .await
            .copied()
    }
}

/// The files of a folder that have not been asked for yet.
struct NativeFolder {
    folder: Arc<OwnedFd>,
    files: Mutex<VecDeque<String>>,
}

#[async_trait]
impl FolderStream for NativeFolder {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        let next = self
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(path) = next else {
            return Ok(None);
        };
        let folder = Arc::clone(&self.folder);
        blocking(
            move || match beneath::open_file(&*folder, Path::new(&path), false) {
                Ok(found) => Ok(Some(extracted(found, path))),
                Err(reason) => Err(not_found("file", &path, reason)),
            },
        )
        .await
    }
}
