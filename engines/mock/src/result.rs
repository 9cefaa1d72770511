//! What a task leaves: files in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tcw_abi::engine::{ExtractedFile, FileInfo, FolderStream, Report, ResultSet, feature};
use tcw_abi::io::Handle;
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::engine::{Shared, Slot};
use crate::faults::Place;
use crate::files::{Files, MemoryFile, check_name, handle_with};
use crate::payload::Payload;

pub(crate) struct MockResultSet {
    shared: Arc<Shared>,
    payload: Arc<Payload>,
    /// `None`: it was killed.
    exit_code: Option<i32>,
    files: Files,
    wall: Duration,
    /// Given back by `dispose`; then the files are gone, too.
    slot: Mutex<Option<Slot>>,
}

impl MockResultSet {
    pub(crate) fn new(
        shared: Arc<Shared>,
        payload: Arc<Payload>,
        exit_code: Option<i32>,
        files: Files,
        wall: Duration,
        slot: Option<Slot>,
    ) -> MockResultSet {
        MockResultSet {
            shared,
            payload,
            exit_code,
            files,
            wall,
            slot: Mutex::new(slot),
        }
    }

    fn in_use(&self) -> Result<()> {
        match *self.slot.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Ok(()),
            None => Err(Error::violation("the results have been disposed of")),
        }
    }
}

fn not_found(what: &str, path: &str) -> Error {
    Error::new(
        ErrorKind::ResourceNotFound,
        format!("there is no {what} '{path}'"),
    )
}

fn extracted(path: String, file: &MemoryFile) -> Result<ExtractedFile> {
    Ok(ExtractedFile {
        content: handle_with(&file.content)?,
        info: FileInfo {
            path,
            seekable: true,
            size: Some(file.content.len() as u64),
            mode: file.mode,
        },
    })
}

#[async_trait]
impl ResultSet for MockResultSet {
    fn report(&self) -> Report {
        Report {
            success: self.exit_code == Some(0),
            exit_code: self.exit_code,
            wall_ms: u64::try_from(self.wall.as_millis()).ok(),
            ..Report::default()
        }
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        self.shared.require(feature::ARTIFACTS)?;
        self.payload.faults.at(Place::ExtractFile).await?;
        self.in_use()?;
        check_name("a path", &path)?;
        match self.files.get(&path) {
            Some(file) => extracted(String::new(), file),
            None => Err(not_found("file", &path)),
        }
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        self.shared.require(feature::ARTIFACTS)?;
        self.payload.faults.at(Place::ExtractFolder).await?;
        self.in_use()?;
        check_name("a path", &path)?;
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let mut files: Vec<(String, MemoryFile)> = self
            .files
            .iter()
            .filter_map(|(name, file)| Some((name.strip_prefix(&prefix)?.to_owned(), file.clone())))
            .collect();
        if files.is_empty() {
            return Err(not_found("folder", &path));
        }
        files.reverse();
        Ok(Arc::new(MockFolder {
            payload: Arc::clone(&self.payload),
            files: Mutex::new(files),
        }))
    }

    async fn archive(&self) -> Result<Handle> {
        self.shared.require(feature::ARCHIVE)?;
        let files: BTreeMap<&str, &[u8]> = self
            .files
            .iter()
            .map(|(path, file)| (path.as_str(), file.content.as_slice()))
            .collect();
        let text = serde_json::to_vec(&files).map_err(|error| Error::internal(error.to_string()))?;
        handle_with(&text)
    }

    async fn dispose(&self) -> Result<()> {
        self.payload.faults.at(Place::Dispose).await?;
        drop(self.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }
}

/// The files that are left, the next one last.
struct MockFolder {
    payload: Arc<Payload>,
    files: Mutex<Vec<(String, MemoryFile)>>,
}

#[async_trait]
impl FolderStream for MockFolder {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        self.payload.faults.at(Place::NextFile).await?;
        let next = self.files.lock().unwrap_or_else(PoisonError::into_inner).pop();
        next.map(|(path, file)| extracted(path, &file)).transpose()
    }
}
