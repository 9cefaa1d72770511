//! The mock engine through its public objects: every feature, every knob.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mock_engine::MockEngineProvider;
use serde_json::{Value, json};
use tcw_abi::engine::{
    Engine, EngineProvider, ResultSet, Sandbox, SandboxBuilder, ShellRequest, ShellStreams, VariableClass,
};
use tcw_abi::io::Handle;
use tcw_abi::services::StopMode;
use tcw_abi::testing::{FakeServices, FakeTask, handle_with};
use tcw_abi::{ErrorKind, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

struct Scene {
    services: Arc<FakeServices>,
    engine: Arc<dyn Engine>,
    task: Arc<FakeTask>,
}

async fn scene_with(configuration: Value) -> Scene {
    let services = FakeServices::new();
    let engine = MockEngineProvider
        .new_engine(services.services(), configuration)
        .await
        .unwrap();
    Scene {
        services,
        engine,
        task: FakeTask::new(),
    }
}

async fn scene() -> Scene {
    scene_with(json!({})).await
}

impl Scene {
    async fn builder(&self, payload: Value) -> Arc<dyn SandboxBuilder> {
        self.try_builder(payload).await.unwrap()
    }

    async fn try_builder(&self, payload: Value) -> Result<Arc<dyn SandboxBuilder>> {
        self.engine
            .new_sandbox_builder(self.task.context(), payload)
            .await
    }

    async fn start(&self, payload: Value) -> Arc<dyn Sandbox> {
        self.builder(payload).await.start().await.unwrap()
    }

    async fn run(&self, payload: Value) -> Arc<dyn ResultSet> {
        finish(&self.builder(payload).await).await
    }
}

async fn finish(builder: &Arc<dyn SandboxBuilder>) -> Arc<dyn ResultSet> {
    patiently(builder.start().await.unwrap().wait()).await.unwrap()
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("nothing has happened for a minute")
}

fn text(handle: Handle) -> String {
    let mut text = String::new();
    handle.into_file().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_is_what_was_asked_for() {
    let scene = scene().await;
    for (payload, code) in [
        (json!({}), 0),
        (json!({ "function": "true" }), 0),
        (json!({ "function": "false" }), 1),
        (json!({ "function": "true", "exitCode": 7 }), 7),
        (json!({ "function": "false", "exitCode": 0 }), 0),
        (json!({ "function": "print-env-var", "argument": "NONE" }), 1),
    ] {
        let report = scene.run(payload.clone()).await.report();
        assert_eq!(
            (report.exit_code, report.success),
            (Some(code), code == 0),
            "{payload}"
        );
    }
    for (function, kind) in [
        ("malformed-payload-after-start", ErrorKind::MalformedPayload),
        ("fatal-internal-error", ErrorKind::FatalInternal),
        ("nonfatal-internal-error", ErrorKind::NonFatalInternal),
    ] {
        let sandbox = scene.start(json!({ "function": function })).await;
        for _ in 0..2 {
            assert_eq!(sandbox.wait().await.err().unwrap().kind(), kind);
        }
    }
    let initial = scene
        .try_builder(json!({ "function": "malformed-payload-initial", "delay": 1 }))
        .await;
    assert_eq!(initial.err().unwrap().kind(), ErrorKind::MalformedPayload);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_to_the_log() {
    let scene = scene().await;
    for (function, success) in [
        ("write-log", true),
        ("write-error-log", false),
        ("write-log-sleep", true),
    ] {
        let result = scene
            .run(json!({ "function": function, "argument": function }))
            .await;
        assert_eq!(result.report().success, success);
        assert!(scene.task.log_text().ends_with(&format!("{function}\n")));
    }
    let before = scene.task.log_text().len();
    scene
        .run(json!({ "function": "flood-log", "argument": "1000000" }))
        .await;
    assert_eq!(scene.task.log_text().len() - before, 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_have_classes_and_names_have_rules() {
    let scene = scene().await;
    let builder = scene
        .builder(json!({ "function": "print-env-var", "argument": "GREETING" }))
        .await;
    let set =
        |name: &str, value: &str, class| builder.set_environment_variable(name.into(), value.into(), class);
    set("GREETING", "forced", VariableClass::Forced).await.unwrap();
    set("GREETING", "payload", VariableClass::Payload).await.unwrap();
    for (name, kind) in [
        ("GREETING", ErrorKind::NamingConflict),
        ("with space", ErrorKind::MalformedPayload),
        ("", ErrorKind::MalformedPayload),
    ] {
        let error = set(name, "", VariableClass::Payload).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}");
    }
    assert!(finish(&builder).await.report().success);
    assert_eq!(scene.task.log_text(), "forced\n");
    let late = set("LATE", "", VariableClass::Payload).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::ContractViolation);
    assert_eq!(
        builder.start().await.err().unwrap().kind(),
        ErrorKind::ContractViolation
    );
    builder.discard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_put_written_and_extracted() {
    let scene = scene().await;
    let builder = scene
        .builder(json!({ "function": "write-files", "argument": "out/a out/b/c hello" }))
        .await;
    builder
        .put_file("in".into(), handle_with(b"given").unwrap(), 0o600)
        .await
        .unwrap();
    let result = finish(&builder).await;
    for (path, expected) in [
        ("hello", "Hello World"),
        ("in", "given"),
        ("hello", "Hello World"),
    ] {
        let file = result.extract_file(path.into()).await.unwrap();
        assert_eq!(file.info.size, Some(expected.len() as u64));
        assert_eq!(text(file.content), expected);
    }
    let folder = result.extract_folder("out/".into()).await.unwrap();
    let mut paths = Vec::new();
    while let Some(file) = folder.next().await.unwrap() {
        paths.push(file.info.path);
    }
    assert_eq!(paths, ["a", "b/c"]);
    for (error, kind) in [
        (
            result.extract_file("none".into()).await.err(),
            ErrorKind::ResourceNotFound,
        ),
        (
            result.extract_folder("none".into()).await.err(),
            ErrorKind::ResourceNotFound,
        ),
        (
            result.extract_file("a b".into()).await.err(),
            ErrorKind::MalformedPayload,
        ),
    ] {
        assert_eq!(error.unwrap().kind(), kind);
    }
    let archive: Value = serde_json::from_str(&text(result.archive().await.unwrap())).unwrap();
    assert_eq!(archive["in"], json!(b"given"));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_keep_what_is_written_unless_they_are_read_only() {
    let scene = scene().await;
    let use_volume = async |function: &str, id: &str, read_only: bool| {
        let builder = scene
            .builder(json!({ "function": function, "argument": "/mnt" }))
            .await;
        builder
            .attach_volume("/mnt".into(), id.into(), read_only)
            .await
            .unwrap();
        let taken = builder.attach_volume("/mnt".into(), id.into(), read_only).await;
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::NamingConflict);
        finish(&builder).await.report().success
    };
    let volume = scene.engine.new_volume(json!({})).await.unwrap();
    let id = volume.description().id;
    assert!(!use_volume("read-volume", &id, false).await);
    assert!(!use_volume("write-volume", &id, true).await);
    assert!(!use_volume("read-volume", &id, false).await);
    assert!(use_volume("write-volume", &id, false).await);
    assert!(use_volume("read-volume", &id, true).await);
    assert!(volume.size().await.unwrap() > 0);
    volume.dispose().await.unwrap();
    let builder = scene.builder(json!({})).await;
    let gone = builder.attach_volume("/mnt".into(), id, false).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::ContractViolation);
    builder.discard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_can_be_filled_before_it_is_mounted() {
    let scene = scene().await;
    let builder = scene.engine.new_volume_builder(json!({})).await.unwrap();
    builder.write_folder("folder".into()).await.unwrap();
    for (path, content) in [("folder/a", "one"), ("folder/written-by-mock", "three")] {
        let handle = builder.write_file(path.into(), 0o644).await.unwrap();
        handle.into_file().write_all(content.as_bytes()).unwrap();
    }
    let volume = patiently(builder.build()).await.unwrap();
    assert_eq!(volume.size().await.unwrap(), 8);
    assert_eq!(
        builder.build().await.err().unwrap().kind(),
        ErrorKind::ContractViolation
    );
    builder.discard().await.unwrap();
}

/// Answers every request on a unix socket with `status` and a body, and hands on the first lines.
async fn serve(path: std::path::PathBuf, status: u16) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap() > 2 {
                if first.is_empty() {
                    first = line.trim().to_owned();
                }
                line.clear();
            }
            sender.send(first).unwrap();
            let answer = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 9\r\n\r\nsecret=42");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_and_their_answer_decides() {
    let scene = scene().await;
    for (name, status, seen) in [
        ("pinger", 200, "GET /v1/ping HTTP/1.1"),
        ("pinger", 404, "GET /v1/ping HTTP/1.1"),
        ("", 200, "GET /v1/ping HTTP/1.1"),
    ] {
        let socket = scene.services.root().join(format!("proxy-{name}-{status}"));
        let mut requests = serve(socket.clone(), status).await;
        let url = match name {
            "" => "http://taskcluster/v1/ping".to_owned(),
            name => format!("http://taskcluster/{name}/v1/ping"),
        };
        let builder = scene
            .builder(json!({ "function": "ping-proxy", "argument": url }))
            .await;
        let base = builder
            .attach_proxy(name.into(), socket.display().to_string())
            .await
            .unwrap();
        assert_eq!(format!("{base}/v1/ping"), url);
        assert_eq!(finish(&builder).await.report().success, status == 200);
        assert_eq!(requests.recv().await.unwrap(), seen);
        assert!(scene.task.log_text().ends_with("Pinging\nsecret=42\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_know_their_commands_and_end_with_the_sandbox() {
    let scene = scene().await;
    let sandbox = scene.start(json!({ "function": "wait" })).await;
    let open = async |command: &str| {
        let open = sandbox.new_shell(ShellRequest::default()).await.unwrap();
        let ShellStreams::Pipes {
            stdin,
            stdout,
            stderr,
        } = open.streams
        else {
            panic!("no terminal was asked for")
        };
        stdin.into_file().write_all(command.as_bytes()).unwrap();
        (open.shell, stdout, stderr)
    };
    let (shell, stdout, stderr) = open("print-hello").await;
    assert_eq!(patiently(shell.wait()).await, Ok(true));
    assert_eq!(
        (text(stdout).as_str(), text(stderr).as_str()),
        ("Hello World", "No error!")
    );
    assert_eq!(
        shell.abort().await.unwrap_err().kind(),
        ErrorKind::ShellTerminated
    );
    let (shell, ..) = open("exit-false").await;
    assert_eq!(patiently(shell.wait()).await, Ok(false));
    let (shell, stdout, _stderr) = open("sleep").await;
    shell.abort().await.unwrap();
    assert_eq!(
        patiently(shell.wait()).await.unwrap_err().kind(),
        ErrorKind::ShellAborted
    );
    assert_eq!(text(stdout), "");
    let (shell, ..) = open("sleep").await;
    patiently(sandbox.kill("a test".into(), 0)).await.unwrap();
    assert_eq!(
        patiently(shell.wait()).await.unwrap_err().kind(),
        ErrorKind::ShellAborted
    );
    let late = sandbox.new_shell(ShellRequest::default()).await.err().unwrap();
    assert_eq!(late.kind(), ErrorKind::SandboxTerminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_display_speaks_rfb_until_the_sandbox_ends() {
    let scene = scene().await;
    let sandbox = scene.start(json!({ "function": "wait" })).await;
    let displays = sandbox.list_displays().await.unwrap();
    assert_eq!(displays, sandbox.description().displays);
    let none = sandbox.open_display("None".into()).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NoSuchDisplay);
    let stream = sandbox.open_display(displays[0].name.clone()).await.unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let client = tokio::task::spawn_blocking(move || {
        let mut stream = stream.into_file();
        let mut exact = |send: &[u8], length: usize| {
            stream.write_all(send).unwrap();
            let mut bytes = vec![0_u8; length];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(exact(b"", 12), b"RFB 003.008\n");
        assert_eq!(exact(b"RFB 003.008\n", 2), [1, 1]);
        assert_eq!(exact(&[1], 4), [0, 0, 0, 0]);
        let init = exact(&[1], 24 + 11);
        assert_eq!(&init[..4], &[1, 224, 2, 128], "480 by 640");
        assert_eq!(&init[24..], b"MockDisplay");
        // An incremental request, which has no answer, then one for the whole picture.
        let picture = exact(
            &[3, 1, 0, 0, 0, 0, 1, 224, 2, 128, 3, 0, 0, 0, 0, 0, 1, 224, 2, 128],
            16 + 480 * 640 * 4,
        );
        assert_eq!(&picture[..4], &[0, 0, 0, 1]);
        sender.send(()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, Vec::<u8>::new());
    });
    patiently(receiver).await.unwrap();
    patiently(sandbox.kill("a test".into(), 0)).await.unwrap();
    patiently(client).await.unwrap();
    assert_eq!(
        sandbox.list_displays().await.unwrap_err().kind(),
        ErrorKind::SandboxTerminated
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_keeps_results_and_aborting_does_not() {
    let scene = scene().await;
    let sandbox = scene.start(json!({ "function": "stop-now-sleep" })).await;
    patiently(async {
        while scene.services.stops().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(scene.services.stops()[0].0, StopMode::Now);
    patiently(sandbox.kill("a test".into(), 0)).await.unwrap();
    let report = patiently(sandbox.wait()).await.unwrap().report();
    assert_eq!((report.success, report.exit_code), (false, None));

    let sandbox = scene.start(json!({ "delay": 300_000 })).await;
    patiently(sandbox.abort()).await.unwrap();
    assert_eq!(
        sandbox.wait().await.err().unwrap().kind(),
        ErrorKind::SandboxAborted
    );
    for error in [sandbox.abort().await, sandbox.kill(String::new(), 0).await] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::SandboxTerminated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_bounded_until_results_are_disposed_of() {
    let scene = scene_with(json!({ "maxConcurrency": 1 })).await;
    assert_eq!(scene.engine.description().max_concurrency, Some(1));
    let refused = async || scene.try_builder(json!({})).await.err().map(|error| error.kind());
    let full = Some(ErrorKind::MaxConcurrencyExceeded);
    let result = scene.run(json!({})).await;
    assert_eq!(refused().await, full);
    result.dispose().await.unwrap();
    let builder = scene.builder(json!({})).await;
    assert_eq!(refused().await, full);
    builder.discard().await.unwrap();
    let sandbox = scene.start(json!({ "function": "wait" })).await;
    assert_eq!(refused().await, full);
    patiently(sandbox.abort()).await.unwrap();
    assert_eq!(refused().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_declared_is_not_there() {
    let scene = scene_with(json!({ "features": ["kill"], "unhealthyReason": "a test" })).await;
    assert_eq!(scene.engine.description().features, ["kill"]);
    let health = scene.engine.health().await.unwrap();
    assert_eq!((health.healthy, health.reason.as_str()), (false, "a test"));
    let builder = scene.builder(json!({ "function": "wait" })).await;
    let errors = [
        builder
            .set_environment_variable("A".into(), String::new(), VariableClass::Default)
            .await
            .err(),
        builder.attach_proxy("abc".into(), String::new()).await.err(),
        scene.engine.new_volume(json!({})).await.err(),
    ];
    let sandbox = builder.start().await.unwrap();
    assert_eq!(sandbox.description().displays, []);
    let more = [
        sandbox.new_shell(ShellRequest::default()).await.err(),
        sandbox.list_displays().await.err(),
        sandbox.resource_usage().await.err(),
    ];
    for error in errors.into_iter().chain(more) {
        assert_eq!(error.unwrap().kind(), ErrorKind::FeatureNotSupported);
    }
    patiently(sandbox.abort()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_hit_the_calls_that_they_name() {
    let scene = scene().await;
    let fault = |at: &str| json!({ "faults": [{ "at": at, "do": "error", "kind": "ResourceUnavailable", "times": 1 }] });
    let unavailable = |error: Option<tcw_abi::Error>| {
        assert_eq!(error.unwrap().kind(), ErrorKind::ResourceUnavailable);
    };
    unavailable(scene.try_builder(fault("new-sandbox-builder")).await.err());
    unavailable(scene.builder(fault("start")).await.start().await.err());
    unavailable(scene.builder(fault("discard")).await.discard().await.err());
    let sandbox = scene.start(fault("wait")).await;
    unavailable(sandbox.wait().await.err());
    let result = patiently(sandbox.wait()).await.unwrap();
    result.dispose().await.unwrap();
    let result = scene.run(fault("dispose")).await;
    unavailable(result.dispose().await.err());
    result.dispose().await.unwrap();
    let result = scene.run(fault("extract-file")).await;
    unavailable(result.extract_file("a".into()).await.err());

    let sandbox = scene
        .start(json!({ "function": "wait", "faults": [{ "at": "kill", "do": "panic" }, { "at": "wait", "do": "hang" }] }))
        .await;
    let panicking = tokio::spawn({
        let sandbox = Arc::clone(&sandbox);
        async move { sandbox.kill(String::new(), 0).await }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert!(
        tokio::time::timeout(Duration::from_millis(50), sandbox.wait())
            .await
            .is_err()
    );
    patiently(sandbox.abort()).await.unwrap();

    let broken = MockEngineProvider
        .new_engine(
            scene.services.services(),
            json!({ "faults": [{ "at": "new-engine", "do": "error", "kind": "FatalInternal" }] }),
        )
        .await;
    assert_eq!(broken.err().unwrap().kind(), ErrorKind::FatalInternal);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schemas_admit_what_the_engine_reads() {
    let scene = scene().await;
    let payload = jsonschema::validator_for(&scene.engine.description().payload_schema).unwrap();
    assert!(payload.is_valid(&json!({})));
    assert!(payload.is_valid(&json!({
        "delay": 10, "function": "false", "argument": "a", "exitCode": 3,
        "faults": [{ "at": "wait", "do": "error", "kind": "ResourceUnavailable", "times": 1 }]
    })));
    for wrong in [
        json!({ "function": "unknown" }),
        json!({ "delay": -1 }),
        json!({ "faults": [{ "at": "health", "do": "error" }] }),
        json!({ "faults": [{ "at": "wait", "do": "error", "kind": "Unknown" }] }),
    ] {
        assert!(!payload.is_valid(&wrong), "{wrong}");
    }
    let configuration = MockEngineProvider.description().configuration_schema;
    let configuration = jsonschema::validator_for(&configuration).unwrap();
    assert!(configuration.is_valid(&json!({ "features": ["kill"], "maxConcurrency": 2, "faults": [] })));
    assert!(!configuration.is_valid(&json!({ "maxConcurrency": 0 })));
}
