//! A sandbox without an engine, for the tests of plugins: it remembers what a plugin did to it and answers what the
//! test put into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;

use super::handle_with;
use crate::engine::{
    EngineDescription, ExtractedFile, FileInfo, FolderStream, Limits, Report, ResultSet, Sandbox,
    SandboxBuilder, SandboxDescription, VariableClass, Volume, VolumeBuilder,
};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Handle;
use crate::plugin::EngineHandle;
use crate::runtime::blocking;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker's engine, as a plugin sees it.
#[derive(Default)]
pub struct FakeEngineHandle(
    /// What it answers.
    pub EngineDescription,
);

#[async_trait]
impl EngineHandle for FakeEngineHandle {
    fn description(&self) -> EngineDescription {
        self.0.clone()
    }

    async fn new_volume(&self, _options: Value) -> Result<Arc<dyn Volume>> {
        Err(Error::unsupported("the fake engine has no volumes"))
    }

    async fn new_volume_builder(&self, _options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        Err(Error::unsupported("the fake engine has no volumes"))
    }
}

/// Takes environment variables, files, volumes and proxies, by the rules; devices and limits without looking.
#[derive(Default)]
pub struct FakeBuilder {
    variables: Mutex<BTreeMap<(String, VariableClass), String>>,
    /// Paths, mount points and proxies that are taken.
    taken: Mutex<BTreeSet<(&'static str, String)>>,
}

impl FakeBuilder {
    /// A new one.
    pub fn new() -> Arc<FakeBuilder> {
        Arc::default()
    }

    fn take(&self, what: &'static str, name: String) -> Result<()> {
        if lock(&self.taken).insert((what, name.clone())) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NamingConflict,
            format!("there is {what} '{name}' already"),
        ))
    }

    /// The variables of one class.
    pub fn variables(&self, class: VariableClass) -> BTreeMap<String, String> {
        lock(&self.variables)
            .iter()
            .filter(|((_, its_class), _)| *its_class == class)
            .map(|((name, _), value)| (name.clone(), value.clone()))
            .collect()
    }
}

#[async_trait]
impl SandboxBuilder for FakeBuilder {
    async fn set_environment_variable(
        &self,
        name: String,
        value: String,
        class: VariableClass,
    ) -> Result<()> {
        if name.is_empty() || name.contains(['=', '\0', ' ']) {
            return Err(Error::malformed(format!(
                "'{name}' cannot be the name of a variable"
            )));
        }
        let mut variables = lock(&self.variables);
        let key = (name, class);
        if variables.contains_key(&key) {
            return Err(Error::new(
                ErrorKind::NamingConflict,
                format!("the variable {} is set already", key.0),
            ));
        }
        variables.insert(key, value);
        Ok(())
    }

    async fn put_file(&self, path: String, content: Handle, _mode: u32) -> Result<()> {
        blocking(move || {
            std::io::copy(&mut content.into_file(), &mut std::io::sink())?;
            Ok(())
        })
        .await?;
        self.take("a file", path)
    }

    async fn attach_volume(&self, mount_point: String, _volume_id: String, _read_only: bool) -> Result<()> {
        self.take("a volume at", mount_point)
    }

    async fn attach_device(&self, _kind: String) -> Result<()> {
        Ok(())
    }

    async fn set_limits(&self, _limits: Limits) -> Result<()> {
        Ok(())
    }

    async fn attach_proxy(&self, name: String, _endpoint: String) -> Result<String> {
        let valid = name.is_empty()
            || ((3..=22).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase()));
        if !valid {
            return Err(Error::malformed(format!(
                "'{name}' cannot be the name of a proxy"
            )));
        }
        let url = format!("http://taskcluster/{name}");
        self.take("a proxy", name)?;
        Ok(url)
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        Err(Error::unsupported("the fake builder does not start"))
    }

    async fn discard(&self) -> Result<()> {
        Ok(())
    }
}

/// Runs until it is killed.
pub struct FakeSandbox {
    killed: watch::Sender<Option<String>>,
}

impl FakeSandbox {
    /// A new one.
    pub fn new() -> Arc<FakeSandbox> {
        Arc::new(FakeSandbox {
            killed: watch::Sender::new(None),
        })
    }

    /// The reason of the first kill so far.
    pub fn killed(&self) -> Option<String> {
        self.killed.borrow().clone()
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        let mut killed = self.killed.subscribe();
        // The sender lives as long as `self`.
        let _ = killed.wait_for(Option::is_some).await;
        Ok(FakeResult::new(Report::default()))
    }

    async fn kill(&self, reason: String, _grace_ms: u64) -> Result<()> {
        let first = self.killed.send_if_modified(|killed| {
            let first = killed.is_none();
            killed.get_or_insert(reason);
            first
        });
        if first {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::SandboxTerminated, "the sandbox has ended"))
        }
    }

    async fn abort(&self) -> Result<()> {
        Err(Error::violation("aborting is the host's"))
    }
}

/// A file of a [`FakeResult`].
#[derive(Clone, Debug)]
pub enum FakeFile {
    /// With these bytes.
    Plain(Vec<u8>),
    /// Extracting it is this error.
    Broken(Error),
}

/// What a sandbox left: a report and files in memory. A folder is what has files beneath it.
#[derive(Default)]
pub struct FakeResult {
    report: Report,
    files: BTreeMap<String, FakeFile>,
}

impl FakeResult {
    /// Without files.
    pub fn new(report: Report) -> Arc<FakeResult> {
        Self::with_files::<String>(report, [])
    }

    /// With files.
    pub fn with_files<P: Into<String>>(
        report: Report,
        files: impl IntoIterator<Item = (P, FakeFile)>,
    ) -> Arc<FakeResult> {
        Arc::new(FakeResult {
            report,
            files: files
                .into_iter()
                .map(|(path, file)| (path.into(), file))
                .collect(),
        })
    }
}

fn extracted(path: &str, file: &FakeFile) -> Result<ExtractedFile> {
    match file {
        FakeFile::Plain(content) => Ok(ExtractedFile {
            content: handle_with(content)?,
            info: FileInfo {
                path: path.to_owned(),
                seekable: true,
                size: Some(content.len() as u64),
                mode: 0o644,
            },
        }),
        FakeFile::Broken(error) => Err(error.clone()),
    }
}

#[async_trait]
impl ResultSet for FakeResult {
    fn report(&self) -> Report {
        self.report.clone()
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        match self.files.get(&path) {
            Some(file) => extracted("", file),
            None => Err(Error::new(
                ErrorKind::ResourceNotFound,
                format!("there is no file '{path}'"),
            )),
        }
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        let prefix = format!("{path}/");
        let files: Vec<_> = self
            .files
            .iter()
            .rev()
            .filter_map(|(name, file)| Some((name.strip_prefix(&prefix)?.to_owned(), file.clone())))
            .collect();
        if files.is_empty() {
            return Err(Error::new(
                ErrorKind::ResourceNotFound,
                format!("there is no folder '{path}'"),
            ));
        }
        Ok(Arc::new(FakeFolder(Mutex::new(files))))
    }

    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

/// The files that are left, the next one last.
struct FakeFolder(Mutex<Vec<(String, FakeFile)>>);

#[async_trait]
impl FolderStream for FakeFolder {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        let next = lock(&self.0).pop();
        next.map(|(path, file)| extracted(&path, &file)).transpose()
    }
}
