//! A library built against 1.a runs a task in a host 1.b, older or newer.

use probe::services::Host;
use probe::task;

use crate::{Scene, host_is_next};

/// What happens in a task, whoever is older.
const TASK: [&str; 22] = [
    r#"configuration {"type":"object"}"#,
    r#"at most Some(2), {"properties":{"say":{"type":"string"}}}"#,
    "features FEATURES",
    "healthy true",
    r#"requires ["environment"]"#,
    "log probe has a feature",
    r#"malformed Err(Error { kind: MalformedPayload, message: "there is nothing to say", detail: Object {"said": Number(1)} })"#,
    r#"lease {"folder":"DIR/folder"}"#,
    "log prepare",
    r#"shell ["sh"]"#,
    "log started: too late (SandboxTerminated)",
    "exit code Some(0)",
    "displays Err(FeatureNotSupported)",
    "a panic Err(Panicked)",
    r#"file said.txt "hello""#,
    "log stopped: Some(5) bytes",
    "stopped true",
    "log finished: true",
    "log exception: worker-shutdown",
    "APPENDED",
    "lease released",
    "folder removed",
];

/// `seen_by_library` is what a newer library heard from the host's appended methods, `seen_by_host` the other way.
fn expected(features: &str, seen_by_library: &[&str], seen_by_host: &[&str]) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    for line in TASK {
        match line {
            "APPENDED" => events.extend(seen_by_host.iter().map(|&line| line.to_owned())),
            _ => events.push(line.replace("FEATURES", features)),
        }
        if line == "log probe has a feature" {
            events.extend(seen_by_library.iter().map(|&line| line.to_owned()));
        }
    }
    events
}

async fn run(version: &str) -> Vec<String> {
    let scene = Scene::new();
    let library = scene.load(version).unwrap();
    let host = Host::new(scene.directory.path());
    task::run(&library, &host).await.unwrap();
    assert_eq!(host.output(), "hello with GREETING=Ada (Payload)\n");
    host.events()
}

const OLDER_LIBRARY: [&str; 10] = [
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "since next: default",
    "the appended field: None",
];

#[tokio::test]
async fn a_recorded_library_runs_and_what_it_lacks_is_the_default() {
    let versions = std::env::var("TCW_RECORDED").expect("run.sh sets it");
    for version in versions.split(' ') {
        let seen_by_host: &[&str] = if host_is_next() { &OLDER_LIBRARY } else { &[] };
        assert_eq!(run(version).await, expected("[]", &[], seen_by_host), "the library of {version}");
    }
}

#[tokio::test]
async fn a_library_of_the_next_version_runs_and_calls_what_this_host_has() {
    let expected = if host_is_next() {
        expected(
            r#"["recorded/diagnostics-7"]"#,
            &["log heard from the host's Services, the host's EngineHandle and the host's TaskContext"],
            &[
                "since next: the library's EngineProvider",
                "since next: the library's Engine, which saw the host's Services",
                "since next: the library's SandboxBuilder, which saw the host's TaskContext, \
                 the host's TemporaryFolder and the host's Lease",
                "since next: the library's Sandbox",
                "since next: the library's ResultSet",
                "since next: the library's FolderStream",
                "since next: the library's PluginProvider",
                "since next: the library's Plugin, which saw the host's EngineHandle",
                "since next: the library's TaskPlugin",
                "the appended field: Some(7)",
            ],
        )
    } else {
        expected(
            r#"["recorded/diagnostics-0"]"#,
            &["log heard from default, default and default"],
            &[],
        )
    };
    assert_eq!(run("next").await, expected);
}
