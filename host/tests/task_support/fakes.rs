//! An engine and a plugin that do what their configuration says, and tell of every call through a datagram socket.
//!
//! They know nothing of the test that runs them but the path of that socket, so the same code can stand in a library.
//! Configuration: `{"name": ..., "socket": ..., "script": {"<call>": "<behaviour>"}}`.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use tcw_abi::engine::*;
use tcw_abi::plugin::*;
use tcw_abi::services::{ArtifactUpload, ContentEncoding, LogLevel, Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

/// What a fake was configured to do.
#[derive(Deserialize)]
struct Script {
    name: String,
    socket: String,
    #[serde(default)]
    script: BTreeMap<String, String>,
    /// Sandboxes at one time; the engine's only.
    capacity: Option<usize>,
    /// Whether to tell of the ends of calls, too, and of what the log was found to be.
    #[serde(default)]
    trace: bool,
}

/// Tells of the end of a call, also of one that panics or is dropped.
struct Ending<'a>(&'a Script, &'a str);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.trace(|| format!("{} ends", self.1));
    }
}

impl Script {
    fn of(configuration: Value) -> Result<Arc<Self>> {
        serde_json::from_value(configuration)
            .map(Arc::new)
            .map_err(|error| Error::fatal(error.to_string()))
    }

    fn tell(&self, what: &str) {
        let socket = UnixDatagram::unbound().expect("a socket");
        let line = format!("{} {what}", self.name);
        // The test may be over already.
        let _ = socket.send_to(line.as_bytes(), &self.socket);
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            self.tell(&what());
        }
    }

    fn behaviour(&self, call: &str) -> &str {
        self.script.get(call).map_or("ok", String::as_str)
    }

    /// Tells of the call and does what is common to all calls. Answers what is left to do.
    async fn play(&self, call: &str, told: &str, task: Option<&Arc<dyn TaskContext>>) -> Result<&str> {
        self.tell(told);
        let _ending = Ending(self, call);
        let behaviour = self.behaviour(call);
        match behaviour {
            "hang" => std::future::pending().await,
            "until-cancelled" => {
                if let Some(task) = task {
                    let reason = task.cancelled().await?;
                    self.tell(&format!("{call} heard {reason:?}"));
                }
            }
            "busy" => {
                if let Some(task) = task {
                    for _ in 0..40 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        task.artifacts().await?;
                    }
                }
            }
            "panic" => panic!("{} panics in {call}", self.name),
            "upload" => {
                if let Some(task) = task {
                    let mut content = tempfile::tempfile()?;
                    std::io::Write::write_all(&mut content, call.as_bytes())?;
                    std::io::Seek::rewind(&mut content)?;
                    let upload = ArtifactUpload {
                        name: format!("public/{}/{call}", self.name),
                        content_type: "text/plain".to_owned(),
                        ..ArtifactUpload::default()
                    };
                    task.upload_artifact(upload, content.into()).await?;
                }
            }
            "upload-log" => {
                if let Some(task) = task {
                    let log = task.closed_log().await?;
                    assert_eq!(log.info.content_encoding, "gzip");
                    let upload = ArtifactUpload {
                        name: format!("public/logs/{}.log", self.name),
                        content_type: "text/plain".to_owned(),
                        content_encoding: ContentEncoding::Gzip,
                        already_encoded: true,
                        expires: None,
                    };
                    task.upload_artifact(upload, log.content).await?;
                }
            }
            other => {
                if let Some(rest) = other.strip_prefix("error:") {
                    let (kind, message) = rest.split_once(':').unwrap_or((rest, "scripted"));
                    let known = ErrorKind::ALL.iter().find(|known| known.name() == kind);
                    return Err(Error::new(*known.expect("a kind"), message));
                }
            }
        }
        Ok(behaviour)
    }
}

fn answer<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "Ok",
        Err(error) => error.kind().name(),
    }
}

/// The fake engine's provider.
pub(crate) struct ScriptedEngineProvider;

#[async_trait]
impl EngineProvider for ScriptedEngineProvider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription::default()
    }

    async fn new_engine(&self, _: Arc<dyn Services>, configuration: Value) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(ScriptedEngine {
            script: Script::of(configuration)?,
            used: Arc::default(),
        }))
    }
}

struct ScriptedEngine {
    script: Arc<Script>,
    used: Arc<AtomicUsize>,
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn description(&self) -> EngineDescription {
        EngineDescription::default()
    }

    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        _: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        self.script
            .play("new_sandbox_builder", "new_sandbox_builder", Some(&task))
            .await?;
        if self
            .script
            .capacity
            .is_some_and(|most| self.used.load(Ordering::SeqCst) >= most)
        {
            self.script.tell("full");
            return Err(Error::new(ErrorKind::MaxConcurrencyExceeded, "full"));
        }
        self.used.fetch_add(1, Ordering::SeqCst);
        self.script.trace(|| "made".to_owned());
        let sandbox = Arc::new(ScriptedSandbox {
            script: Arc::clone(&self.script),
            task: Arc::clone(&task),
            end: watch::channel(None).0,
            used: Arc::clone(&self.used),
        });
        Ok(Arc::new(ScriptedBuilder {
            script: Arc::clone(&self.script),
            task,
            sandbox,
            discarded: watch::channel(false).0,
        }))
    }
}

struct ScriptedBuilder {
    script: Arc<Script>,
    task: Arc<dyn TaskContext>,
    sandbox: Arc<ScriptedSandbox>,
    discarded: watch::Sender<bool>,
}

#[async_trait]
impl SandboxBuilder for ScriptedBuilder {
    async fn set_environment_variable(&self, _: String, _: String, _: VariableClass) -> Result<()> {
        Ok(())
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        if self.script.play("start", "start", Some(&self.task)).await? == "until-discarded" {
            let _ = self.discarded.subscribe().wait_for(|discarded| *discarded).await;
        }
        Ok(Arc::clone(&self.sandbox) as _)
    }

    async fn discard(&self) -> Result<()> {
        self.discarded.send_replace(true);
        self.sandbox.used.fetch_sub(1, Ordering::SeqCst);
        self.script.trace(|| "gone".to_owned());
        self.script.play("discard", "discard", None).await?;
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Killed,
    Aborted,
    Itself(bool),
}

struct ScriptedSandbox {
    script: Arc<Script>,
    task: Arc<dyn TaskContext>,
    end: watch::Sender<Option<How>>,
    used: Arc<AtomicUsize>,
}

impl ScriptedSandbox {
    fn end(&self, how: How) -> bool {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(how);
            first
        })
    }
}

#[async_trait]
impl Sandbox for ScriptedSandbox {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        self.script.tell("wait");
        match self.script.behaviour("wait") {
            "runs" => {}
            "fails" => drop(self.end(How::Itself(false))),
            "stuck" => return std::future::pending().await,
            "writes" => {
                let handle = self.task.log_handle().await?;
                let mut pipe = handle.into_file();
                std::io::Write::write_all(&mut pipe, b"out of the sandbox")?;
                self.end(How::Itself(true));
            }
            "ok" => drop(self.end(How::Itself(true))),
            _ => drop(self.script.play("wait", "plays", Some(&self.task)).await?),
        }
        let end = *self
            .end
            .subscribe()
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Error::internal("gone"))?;
        let success = match end {
            Some(How::Aborted) => return Err(Error::new(ErrorKind::SandboxAborted, "aborted")),
            Some(How::Itself(success)) => success,
            _ => false,
        };
        Ok(Arc::new(ScriptedResults {
            script: Arc::clone(&self.script),
            used: Arc::clone(&self.used),
            success,
        }))
    }

    async fn kill(&self, _: String, _: u64) -> Result<()> {
        self.script.tell("kill");
        if self.end(How::Killed) {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::SandboxTerminated, "has ended"))
        }
    }

    async fn abort(&self) -> Result<()> {
        self.script.play("abort", "abort", None).await?;
        if self.end(How::Aborted) {
            self.used.fetch_sub(1, Ordering::SeqCst);
            self.script.trace(|| "gone".to_owned());
            Ok(())
        } else {
            Err(Error::new(ErrorKind::SandboxTerminated, "has ended"))
        }
    }
}

struct ScriptedResults {
    script: Arc<Script>,
    used: Arc<AtomicUsize>,
    success: bool,
}

#[async_trait]
impl ResultSet for ScriptedResults {
    fn report(&self) -> Report {
        Report {
            success: self.success,
            exit_code: Some(i32::from(!self.success)),
            ..Report::default()
        }
    }

    async fn extract_folder(&self, _: String) -> Result<Arc<dyn FolderStream>> {
        Ok(Arc::new(Empty))
    }

    async fn dispose(&self) -> Result<()> {
        self.used.fetch_sub(1, Ordering::SeqCst);
        self.script.trace(|| "gone".to_owned());
        self.script
            .play("results.dispose", "results.dispose", None)
            .await?;
        Ok(())
    }
}

struct Empty;

#[async_trait]
impl FolderStream for Empty {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        Ok(None)
    }
}

/// The fake plugin's provider.
pub(crate) struct ScriptedPluginProvider;

#[async_trait]
impl PluginProvider for ScriptedPluginProvider {
    async fn new_plugin(
        &self,
        _: Arc<dyn Services>,
        _: Arc<dyn EngineHandle>,
        configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(ScriptedPlugin(Script::of(configuration)?)))
    }
}

struct ScriptedPlugin(Arc<Script>);

#[async_trait]
impl Plugin for ScriptedPlugin {
    async fn new_task_plugin(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        let told = format!("new_task_plugin {payload}");
        self.0.play("new_task_plugin", &told, Some(&task)).await?;
        self.0.trace(|| "made".to_owned());
        Ok(Arc::new(ScriptedTask {
            script: Arc::clone(&self.0),
            task,
            kept: Mutex::default(),
        }))
    }
}

struct ScriptedTask {
    script: Arc<Script>,
    task: Arc<dyn TaskContext>,
    kept: Mutex<Kept>,
}

/// What the plugin ought not to use any more.
#[derive(Clone, Default)]
struct Kept {
    builder: Option<Arc<dyn SandboxBuilder>>,
    sandbox: Option<Arc<dyn Sandbox>>,
    results: Option<Arc<dyn ResultSet>>,
    folder: Option<Arc<dyn FolderStream>>,
}

impl ScriptedTask {
    async fn play(&self, call: &str, told: &str) -> Result<&str> {
        self.script.play(call, told, Some(&self.task)).await
    }

    /// Tells whether the log can be read, which is to be so as soon as nothing is written any more.
    async fn look_at_log(&self, call: &str) {
        if self.script.trace {
            let log = answer(self.task.closed_log().await);
            self.script.tell(&format!("log-in-{call} {log}"));
        }
    }

    fn kept(&self) -> Kept {
        self.kept.lock().expect("no panic while it is held").clone()
    }

    async fn set(&self, builder: &Arc<dyn SandboxBuilder>) -> Result<()> {
        builder
            .set_environment_variable("A".to_owned(), "1".to_owned(), VariableClass::Default)
            .await
    }
}

#[async_trait]
impl TaskPlugin for ScriptedTask {
    async fn prepare(&self) -> Result<()> {
        self.play("prepare", "prepare").await.map(drop)
    }

    async fn build_sandbox(&self, builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        self.kept.lock().expect("no panic").builder = Some(Arc::clone(&builder));
        if self.play("build_sandbox", "build_sandbox").await? == "misuse" {
            let (start, discard) = (answer(builder.start().await), answer(builder.discard().await));
            let set = answer(self.set(&builder).await);
            self.script
                .tell(&format!("start={start} discard={discard} set={set}"));
        }
        Ok(())
    }

    async fn started(&self, sandbox: Arc<dyn Sandbox>) -> Result<()> {
        self.kept.lock().expect("no panic").sandbox = Some(Arc::clone(&sandbox));
        match self.play("started", "started").await? {
            "misuse" => {
                let (wait, abort) = (answer(sandbox.wait().await), answer(sandbox.abort().await));
                let builder = self.kept().builder.expect("build_sandbox was before");
                let late = answer(self.set(&builder).await);
                self.script
                    .tell(&format!("wait={wait} abort={abort} late-set={late}"));
                sandbox.kill("enough".to_owned(), 0).await?;
            }
            "kill" => sandbox.kill("enough".to_owned(), 0).await?,
            _ => {}
        }
        Ok(())
    }

    async fn stopped(&self, results: Arc<dyn ResultSet>) -> Result<bool> {
        self.kept.lock().expect("no panic").results = Some(Arc::clone(&results));
        self.look_at_log("stopped").await;
        let behaviour = self.play("stopped", "stopped").await?;
        if behaviour == "misuse" {
            let sandbox = self.kept().sandbox.expect("started was before");
            let kill = answer(sandbox.kill("late".to_owned(), 0).await);
            let dispose = answer(results.dispose().await);
            let folder = results.extract_folder("x".to_owned()).await?;
            let log = answer(self.task.closed_log().await);
            let next = answer(folder.next().await);
            self.kept.lock().expect("no panic").folder = Some(folder);
            let told = format!("late-kill={kill} dispose={dispose} open-log={log} next={next}");
            self.script.tell(&told);
        }
        Ok(behaviour != "false")
    }

    async fn finished(&self, success: bool) -> Result<()> {
        self.look_at_log("finished").await;
        if self.play("finished", &format!("finished {success}")).await? == "misuse" {
            let line = answer(self.task.log_line(LogLevel::Info, "late".to_owned()).await);
            let handle = answer(self.task.log_handle().await);
            let results = self.kept().results.expect("stopped was before");
            let folder = answer(results.extract_folder("x".to_owned()).await);
            self.script
                .tell(&format!("late-line={line} late-handle={handle} folder={folder}"));
        }
        Ok(())
    }

    async fn exception(&self, reason: ExceptionReason) -> Result<()> {
        self.look_at_log("exception").await;
        self.play("exception", &format!("exception {}", reason.as_str()))
            .await
            .map(drop)
    }

    async fn dispose(&self) -> Result<()> {
        if self.play("dispose", "dispose").await? == "misuse" {
            let kept = self.kept();
            let results = kept.results.expect("stopped was before");
            let file = answer(results.extract_folder("x".to_owned()).await);
            let next = answer(kept.folder.expect("stopped was before").next().await);
            self.script.tell(&format!("late-folder={file} late-next={next}"));
            let (task, script) = (Arc::clone(&self.task), Arc::clone(&self.script));
            tokio::spawn(async move {
                // Until the host has disposed of the task, which it does after us.
                while task.artifacts().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                script.tell(&format!("late-context={}", answer(task.log_handle().await)));
            });
        }
        Ok(())
    }
}
