//! Commands: output, order, exit codes, environment, and what cannot be started.

use crate::scene::{patiently, scene, scene_with, script};
use serde_json::json;
use tcw_abi::ErrorKind;
use tcw_abi::engine::{EngineProvider, VariableClass};
use tcw_abi::services::LogLevel;
use tcw_abi::testing::{FakeServices, handle_with};

/// The log without times, which differ.
fn steady(log: &str) -> Vec<String> {
    log.lines()
        .map(|line| line.replace("[taskcluster 2026-01-01T00:00:00.000Z] ", "> "))
        .filter(|line| !line.contains(" Time: "))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_order_and_the_first_that_fails_is_the_last() {
    let scene = scene().await;
    let result = scene
        .run(json!({ "command": [
            ["/bin/sh", "-c", "echo one; echo two >&2; printf three"],
            ["sh", "-c", "exit 7"],
            ["echo", "never"],
        ]}))
        .await;
    assert_eq!(
        steady(&scene.task.log_text()),
        [
            "> Executing command 0: /bin/sh -c 'echo one; echo two >&2; printf three'",
            "one",
            "two",
            "three",
            ">                        Exit Code: 0",
            ">                           Result: SUCCEEDED",
            "> Executing command 1: sh -c 'exit 7'",
            ">                        Exit Code: 7",
            ">                           Result: FAILED",
        ]
    );
    let report = result.report();
    assert_eq!(
        (report.success, report.exit_code, report.signal),
        (false, Some(7), None)
    );
    assert!(report.started < report.finished && report.peak_memory > Some(0));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_nothing_succeeds_with_two_messages_in_its_log() {
    let scene = scene().await;
    let result = scene.run(json!({ "command": [["true"]] })).await;
    assert!(result.report().success);
    assert_eq!(scene.task.log_lines().len(), 2);
    result.dispose().await.unwrap();
    result.dispose().await.unwrap();
    assert_eq!(scene.folders(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_executed_is_a_failure_with_the_reason_in_the_log() {
    let cases = [
        (json!(["no-such-program"]), "is in no directory of PATH"),
        (json!(["./missing"]), "./missing does not exist"),
        (json!(["/etc/passwd"]), "is not executable"),
        (json!([""]), "is in no directory of PATH"),
        (
            json!(["./noexec"]),
            "neither a program for this machine nor a script",
        ),
        (json!(["./bad-interpreter"]), "its interpreter"),
    ];
    for (command, reason) in cases {
        let scene = scene().await;
        let builder = scene
            .builder(json!({ "command": [command, ["echo", "never"]] }))
            .await;
        for (name, text) in [
            ("noexec", "\0\0"),
            ("bad-interpreter", "#!/no/such/interpreter\n"),
        ] {
            builder
                .put_file(name.into(), handle_with(text.as_bytes()).unwrap(), 0o755)
                .await
                .unwrap();
        }
        let sandbox = builder.start().await.unwrap();
        let result = patiently(sandbox.wait()).await.unwrap();
        assert!(!result.report().success);
        assert_eq!(result.report().exit_code, None);
        let errors: Vec<_> = scene
            .task
            .log_lines()
            .into_iter()
            .filter(|(level, _)| *level == LogLevel::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{command}");
        assert!(errors[0].1.contains(reason), "{command}: {}", errors[0].1);
        assert!(!scene.task.log_text().contains("never"));
        result.dispose().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_complete_and_nothing_of_the_workers() {
    let scene = scene().await;
    let builder = scene.builder(script("env; pwd")).await;
    for (name, value, class) in [
        ("GREETING", "Hello World", VariableClass::Payload),
        ("TASK_ID", "from the payload", VariableClass::Payload),
        ("TASK_ID", "abc", VariableClass::Forced),
    ] {
        builder
            .set_environment_variable(name.into(), value.into(), class)
            .await
            .unwrap();
    }
    let sandbox = builder.start().await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    let log = scene.task.log_text();
    let mut names: Vec<_> = log
        .lines()
        .filter(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split_once('=')?.0))
        // What the shell adds by itself.
        .filter(|name| !matches!(*name, "PWD" | "SHLVL" | "_" | "OLDPWD"))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "GREETING",
            "HOME",
            "LOGNAME",
            "PATH",
            "TASK_ID",
            "TASK_WORKDIR",
            "USER"
        ]
    );
    assert!(log.contains("GREETING=Hello World\n"));
    assert!(log.contains("TASK_ID=abc\n"));
    let directory = log
        .lines()
        .find_map(|line| line.strip_prefix("TASK_WORKDIR="))
        .unwrap();
    assert!(log.contains(&format!("\nHOME={directory}\n")) && log.contains(&format!("\n{directory}\n")));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_three_descriptors_a_session_of_its_own_and_default_signals() {
    let scene = scene().await;
    // A descriptor that would be inherited.
    let leaky = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let result = scene
        .run(json!({ "command": [
            ["ls", "/proc/self/fd"],
            ["cat", "/proc/self/stat"],
            ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"],
            ["readlink", "/proc/self/fd/0"],
        ]}))
        .await;
    let log = scene.task.log_text();
    let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('[')).collect();
    assert_eq!(
        lines[..4],
        ["0", "1", "2", "3"],
        "the last is that of the listing itself"
    );
    let stat: Vec<&str> = lines[4].split(' ').collect();
    assert_eq!(stat[0], stat[5], "the child leads its session");
    assert_eq!(lines[5], "SigBlk:\t0000000000000000");
    // The C library's own signals, 32 and 33, cannot be reset: whoever started this test may have ignored them.
    let ignored = lines[6].strip_prefix("SigIgn:\t").unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !0x1_8000_0000, 0);
    assert_eq!(lines[7], "/dev/null");
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_at_once_do_not_mix() {
    let services = FakeServices::new();
    let mut running = Vec::new();
    for number in 0..20 {
        let scene = scene_with(services.clone(), json!({})).await;
        running.push(tokio::spawn(async move {
            let result = scene.run(script(&format!("echo task {number} > f; cat f"))).await;
            assert!(result.report().success);
            assert!(scene.task.log_text().contains(&format!("\ntask {number}\n")));
            result.dispose().await.unwrap();
        }));
    }
    for task in running {
        patiently(task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_program_can_be_given_is_malformed() {
    let scene = scene().await;
    for payload in [
        json!({ "command": [["a\0b"]] }),
        json!({ "command": [[]] }),
        json!({ "command": [] }),
        json!({}),
        json!(null),
    ] {
        let error = scene
            .engine
            .new_sandbox_builder(scene.task.context(), payload)
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    }
    assert_eq!(scene.folders(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schemas_are_schemas_and_say_what_they_mean() {
    let scene = scene().await;
    let payload = jsonschema::validator_for(&scene.engine.description().payload_schema).unwrap();
    assert!(payload.is_valid(&json!({ "command": [["true"], ["a", ""]] })));
    for wrong in [
        json!({ "command": [] }),
        json!({ "command": [[]] }),
        json!({ "command": ["true"] }),
        json!({}),
    ] {
        assert!(!payload.is_valid(&wrong), "{wrong}");
    }
    let configuration = native_engine::NativeEngineProvider
        .description()
        .configuration_schema;
    let configuration = jsonschema::validator_for(&configuration).unwrap();
    assert!(configuration.is_valid(&json!({ "isolation": "none", "tasksDirectory": "/tasks" })));
    assert!(!configuration.is_valid(&json!({ "isolation": "user" })));
    assert!(scene.engine.description().has("isolation:none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_starts_once_and_is_deaf_afterwards() {
    let scene = scene().await;
    let builder = scene.builder(script("exit 0")).await;
    let sandbox = builder.start().await.unwrap();
    let late = [
        builder.start().await.err(),
        builder
            .set_environment_variable("A".into(), "b".into(), VariableClass::Payload)
            .await
            .err(),
        builder
            .put_file("a".into(), handle_with(b"").unwrap(), 0o600)
            .await
            .err(),
    ];
    for error in late {
        assert_eq!(error.unwrap().kind(), ErrorKind::ContractViolation);
    }
    builder.discard().await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(result.report().success);
    result.dispose().await.unwrap();

    let builder = scene.builder(script("exit 0")).await;
    builder.discard().await.unwrap();
    builder.discard().await.unwrap();
    assert_eq!(
        builder.start().await.err().unwrap().kind(),
        ErrorKind::ContractViolation
    );
    assert_eq!(scene.folders(), Vec::<String>::new());
}
