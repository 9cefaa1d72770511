//! Objects through the mirror and back, within one process.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::wire::{FfiError, Wire};
use crate::engine::*;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Handle;
use crate::services::{Services, TaskContext};

/// Through the mirror once, as over the boundary of a library.
fn mirrored<T: Wire>(object: T) -> T {
    T::from_wire(object.into_wire().unwrap()).unwrap()
}

#[derive(Default)]
struct TestEngine {
    entered: Notify,
    disposed: AtomicBool,
}

#[async_trait]
impl Engine for TestEngine {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: vec!["a".into()],
            payload_schema: json!({"type": "object"}),
            max_concurrency: Some(3),
            ..Default::default()
        }
    }

    async fn health(&self) -> Result<Health> {
        panic!("not well");
    }

    async fn new_sandbox_builder(
        &self,
        _task: Arc<dyn TaskContext>,
        _payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        Err(Error::malformed("no"))
    }

    async fn new_volume(&self, options: Value) -> Result<Arc<dyn Volume>> {
        Err(Error::new(ErrorKind::NamingConflict, "twice").with_detail(options))
    }

    async fn dispose(&self) -> Result<()> {
        self.entered.notify_one();
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.disposed.store(true, Ordering::SeqCst);
        self.entered.notify_one();
        Ok(())
    }
}

#[tokio::test]
async fn constants_cross_with_the_object_and_errors_keep_kind_message_and_detail() {
    let engine: Arc<dyn Engine> = mirrored(Arc::new(TestEngine::default()) as Arc<dyn Engine>);
    assert_eq!(engine.description(), TestEngine::default().description());
    let Err(error) = engine.new_volume(json!({"a": 1})).await else {
        panic!("a volume")
    };
    assert_eq!(
        error,
        Error::new(ErrorKind::NamingConflict, "twice").with_detail(json!({"a": 1}))
    );
    let Err(error) = engine.new_volume_builder(Value::Null).await else {
        panic!("a builder")
    };
    assert_eq!(error.kind(), ErrorKind::FeatureNotSupported);
}

#[tokio::test]
async fn a_panic_is_an_error_of_that_call_only() {
    let engine: Arc<dyn Engine> = mirrored(Arc::new(TestEngine::default()) as Arc<dyn Engine>);
    assert_eq!(
        engine.health().await,
        Err(Error::new(
            ErrorKind::Panicked,
            "Engine.health panicked: not well"
        ))
    );
    assert_eq!(engine.recover(Vec::new()).await, Ok(RecoveryReport::default()));
}

#[tokio::test]
async fn a_detached_call_runs_to_its_end_although_its_caller_is_gone() {
    let original = Arc::new(TestEngine::default());
    let engine: Arc<dyn Engine> = mirrored(original.clone() as Arc<dyn Engine>);
    let call = tokio::spawn(async move { engine.dispose().await });
    original.entered.notified().await;
    call.abort();
    original.entered.notified().await;
    assert!(original.disposed.load(Ordering::SeqCst));
}

/// Says when it is dropped, and on which thread.
struct Folder {
    dropped: mpsc::UnboundedSender<Option<String>>,
    entered: Arc<Notify>,
}

#[async_trait]
impl FolderStream for Folder {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        let _guard = Dropped(self.dropped.clone());
        self.entered.notify_one();
        std::future::pending().await
    }
}

struct Dropped(mpsc::UnboundedSender<Option<String>>);
impl Drop for Dropped {
    fn drop(&mut self) {
        // The receiver may be gone at the end of a test.
        let _ = self.0.send(std::thread::current().name().map(str::to_owned));
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self
            .dropped
            .send(std::thread::current().name().map(str::to_owned));
    }
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_dropped_objects_end_on_their_own_sides_threads() {
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let entered = Arc::new(Notify::new());
    let folder = mirrored(Arc::new(Folder {
        dropped,
        entered: entered.clone(),
    }) as Arc<dyn FolderStream>);
    let caller = Arc::clone(&folder);
    let call = tokio::spawn(async move { caller.next().await.map(|_| ()) });
    entered.notified().await;
    call.abort();
    assert_eq!(
        drops.recv().await,
        Some(Some("tcw-library".to_owned())),
        "the future of the call"
    );
    drop(folder);
    assert_eq!(
        drops.recv().await,
        Some(Some("tcw-library".to_owned())),
        "the object"
    );
}

#[test]
fn a_handle_crosses_with_its_ownership() {
    let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let handle: Handle = mirrored(Handle::from(there));
    handle.into_file().write_all(b"x").unwrap();
    let mut read = Vec::new();
    here.read_to_end(&mut read).unwrap();
    assert_eq!(
        read, b"x",
        "and the other end is closed when the handle is dropped"
    );

    let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(Handle::from(there).into_wire().unwrap());
    assert_eq!(
        here.read(&mut [0; 1]).unwrap(),
        0,
        "a handle that nobody took over is closed"
    );
}

#[test]
fn a_folder_ends_with_null() {
    assert!(mirrored::<Option<ExtractedFile>>(None).is_none());
    let (_here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let info = FileInfo {
        path: "a/b".into(),
        size: Some(3),
        ..Default::default()
    };
    let file = mirrored(Some(ExtractedFile {
        content: there.into(),
        info: info.clone(),
    }));
    assert_eq!(file.map(|file| file.info), Some(info));
}

#[test]
fn what_the_other_side_should_not_have_sent_is_a_contract_violation() {
    let Err(error) = <Vec<Display> as Wire>::from_wire("{]".into()) else {
        panic!("parsed")
    };
    assert_eq!(error.kind(), ErrorKind::ContractViolation);
    let Err(error) = <ExtractedFile as Wire>::from_wire(super::wire::FfiData {
        json: "{}".into(),
        handles: Default::default(),
    }) else {
        panic!("a file without a handle")
    };
    assert_eq!(error.kind(), ErrorKind::ContractViolation);
}

#[test]
fn an_unknown_kind_is_its_fallback_and_an_unknown_fallback_is_ours() {
    let wire = |kind, fallback| FfiError {
        kind,
        fallback,
        message: "m".into(),
        detail: "{]".into(),
    };
    assert_eq!(
        Error::from(wire(900, ErrorKind::ShellAborted.code())),
        Error::new(ErrorKind::ShellAborted, "m")
    );
    assert_eq!(
        Error::from(wire(900, 901)),
        Error::new(ErrorKind::NonFatalInternal, "m")
    );
}

/// The trait objects of services have the same mirror; this only has to compile.
#[expect(dead_code, reason = "checked by the compiler")]
fn services_cross_too(
    services: Arc<dyn Services>,
    task: Arc<dyn TaskContext>,
) -> (Arc<dyn Services>, Arc<dyn TaskContext>) {
    (mirrored(services), mirrored(task))
}
