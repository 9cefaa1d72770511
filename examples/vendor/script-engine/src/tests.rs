use std::sync::Arc;

use tcw_abi::engine::{EngineProvider, Sandbox, SandboxBuilder, VariableClass};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::testing::{FakeServices, FakeTask};
use tcw_abi::{ErrorKind, Result};

use crate::ScriptProvider;

struct Bench {
    services: Arc<FakeServices>,
    task: Arc<FakeTask>,
}

impl Bench {
    fn new() -> Self {
        Bench { services: FakeServices::new(), task: FakeTask::new() }
    }

    async fn builder(&self, script: &str) -> Arc<dyn SandboxBuilder> {
        let engine = ScriptProvider.new_engine(self.services.services(), Value::Null).await.unwrap();
        engine.new_sandbox_builder(self.task.context(), json!({ "script": script })).await.unwrap()
    }

    /// A script that runs, as far as the line "ready".
    async fn ready(&self, script: &str) -> Arc<dyn Sandbox> {
        let sandbox = self.builder(script).await.start().await.unwrap();
        self.task.wait_for_log("ready").await;
        sandbox
    }

    fn folders(&self) -> usize {
        std::fs::read_dir(self.services.root()).unwrap().count()
    }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[tokio::test]
async fn the_exit_status_decides() {
    for (script, success, exit_code) in [("echo out; echo err >&2", true, 0), ("exit 3", false, 3)] {
        let bench = Bench::new();
        let sandbox = bench.builder(script).await.start().await.unwrap();
        let results = sandbox.wait().await.unwrap();
        let report = results.report();
        assert_eq!((report.success, report.exit_code), (success, Some(exit_code)), "{script}");
        assert_eq!(bench.task.log_text(), if success { "out\nerr\n" } else { "" });
        assert_eq!(kind(sandbox.kill("too late".into(), 0).await), Some(ErrorKind::SandboxTerminated));
        results.dispose().await.unwrap();
        assert_eq!(bench.folders(), 0);
    }
}

#[tokio::test]
async fn the_higher_class_of_a_variable_wins_whichever_comes_first() {
    let bench = Bench::new();
    let builder = bench.builder("echo $A $B").await;
    let set = |name: &str, value: &str, class| builder.set_environment_variable(name.into(), value.into(), class);
    set("A", "forced", VariableClass::Forced).await.unwrap();
    set("A", "payload", VariableClass::Payload).await.unwrap();
    set("B", "default", VariableClass::Default).await.unwrap();
    set("B", "payload", VariableClass::Payload).await.unwrap();
    assert_eq!(kind(set("B", "again", VariableClass::Payload).await), Some(ErrorKind::NamingConflict));
    assert_eq!(kind(set("A=B", "x", VariableClass::Payload).await), Some(ErrorKind::MalformedPayload));
    builder.start().await.unwrap().wait().await.unwrap();
    assert_eq!(bench.task.log_text(), "forced payload\n");
}

#[tokio::test]
async fn a_kill_asks_then_forces_and_keeps_the_results() {
    let bench = Bench::new();
    let sandbox = bench.ready("trap '' TERM; sleep 600 & echo ready; while :; do wait; done").await;
    sandbox.kill("enough".into(), 50).await.unwrap();
    let report = sandbox.wait().await.unwrap().report();
    assert_eq!((report.success, report.exit_code, report.signal), (false, None, Some(9)));

    let bench = Bench::new();
    let sandbox = bench.ready("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 600 & wait; done").await;
    sandbox.kill("enough".into(), 60_000).await.unwrap();
    let report = sandbox.wait().await.unwrap().report();
    assert_eq!((report.success, report.exit_code), (false, Some(0)), "what was killed is not a success");
    assert_eq!(bench.task.log_text(), "ready\nbye\n");
}

#[tokio::test]
async fn an_abort_leaves_nothing() {
    let bench = Bench::new();
    let sandbox = bench.ready("echo ready; sleep 600").await;
    assert_eq!(bench.folders(), 1);
    sandbox.abort().await.unwrap();
    assert_eq!(kind(sandbox.wait().await), Some(ErrorKind::SandboxAborted));
    assert_eq!(kind(sandbox.abort().await), Some(ErrorKind::SandboxTerminated));
    assert_eq!(bench.folders(), 0);
}

#[tokio::test]
async fn a_builder_is_used_once() {
    let bench = Bench::new();
    let builder = bench.builder("true").await;
    let results = builder.start().await.unwrap().wait().await.unwrap();
    assert_eq!(kind(builder.start().await), Some(ErrorKind::ContractViolation));
    let late = builder.set_environment_variable("A".into(), "late".into(), VariableClass::Payload);
    assert_eq!(kind(late.await), Some(ErrorKind::ContractViolation));
    builder.discard().await.unwrap();
    results.dispose().await.unwrap();

    let builder = bench.builder("true").await;
    builder.discard().await.unwrap();
    assert_eq!(bench.folders(), 0);
    assert_eq!(kind(bench.builder("a\0b").await.start().await), Some(ErrorKind::MalformedPayload));
    assert_eq!(bench.folders(), 0);
}
