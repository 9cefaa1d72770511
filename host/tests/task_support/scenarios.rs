//! The lifecycle, told as scenarios. Each is the same for an engine and plugins in this process and for libraries.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tcw_host::queue::ExceptionReason;
use tcw_host::task::{Resolution, TaskEvent, TaskState, WorkerEffect};

use super::{FakeQueue, Providers, Setting, Stage};

fn payload() -> Value {
    json!({"command": ["true"], "a": {}})
}

fn only(a: Value) -> Setting {
    Setting {
        plugins: vec![("a", a)],
        ..Setting::default()
    }
}

fn one(who: &str, script: Value) -> Setting {
    match who {
        "engine" => Setting {
            engine: script,
            ..Setting::default()
        },
        _ => only(script),
    }
}

fn exception(reason: ExceptionReason) -> Resolution {
    Resolution::Exception(reason)
}

/// A task that succeeds goes through all states, and each hook is called once.
pub(crate) async fn completes(providers: &Providers) {
    let mut setting = only(json!({"finished": "upload-log", "stopped": "upload"}));
    setting.engine = json!({"wait": "writes"});
    let stage = Stage::set(providers, setting).await;
    let (report, queue) = stage.run(payload()).await;
    assert_eq!(report.resolution, Resolution::Completed);
    assert!(report.reported);
    assert_eq!((report.effect, report.incident), (WorkerEffect::None, None));
    assert_eq!(report.sandbox.unwrap().exit_code, Some(0));
    stage.events.in_order(&[
        r#"a new_task_plugin {"a":{}}"#,
        "a prepare",
        "a build_sandbox",
        "engine start",
        "a started",
        "a stopped",
        "queue stored public/a/stopped",
        "a finished true",
        "queue stored public/logs/a.log",
        "queue completed",
        "a dispose",
        "engine results.dispose",
    ]);
    assert_eq!(stage.events.count("a "), 7);
    assert_eq!(
        stage.events.count("engine discard") + stage.events.count("engine abort"),
        0
    );
    stage.is_clean("completed");
    let log = queue.log();
    let lines: Vec<&str> = log.lines().map(|line| line.split("] ").last().unwrap()).collect();
    assert!(lines[0].starts_with("Task ID: "), "{log}");
    assert_eq!(
        lines[1..4],
        [
            "=== Task Starting ===",
            "out of the sandbox",
            "=== Task Finished ==="
        ]
    );
    assert!(
        lines[4].starts_with("Task Duration: ") && lines[4].ends_with('s'),
        "{log}"
    );
    assert_eq!(lines.len(), 5, "{log}");
}

/// The task fails if its sandbox does, if a plugin says so, or if a library answers `TaskFailed`.
pub(crate) async fn fails(providers: &Providers) {
    for (engine, a) in [
        (json!({"wait": "fails"}), json!({})),
        (json!({}), json!({"stopped": "false"})),
        (json!({}), json!({"stopped": "error:TaskFailed:no artifact"})),
        (json!({}), json!({"finished": "error:TaskFailed:no artifact"})),
        (json!({}), json!({"prepare": "error:TaskFailed:wrong hash"})),
        (
            json!({"wait": "runs"}),
            json!({"started": "error:TaskFailed:gone"}),
        ),
        (json!({"wait": "runs"}), json!({"started": "kill"})),
    ] {
        let what = format!("{engine} {a}");
        let stage = Stage::set(providers, Setting { engine, ..only(a) }).await;
        let (report, _) = stage.run(payload()).await;
        assert_eq!(report.resolution, Resolution::Failed, "{what}");
        assert_eq!(
            (report.effect, report.incident),
            (WorkerEffect::None, None),
            "{what}"
        );
        assert_eq!(stage.events.count("queue failed"), 1, "{what}");
        assert_eq!(stage.events.count("a finished"), 1, "{what}");
        assert_eq!(stage.events.count("a exception"), 0, "{what}");
        stage.is_clean(&what);
    }
}

/// A payload that does not fit still gets its log published, with every violation.
pub(crate) async fn malformed_payload(providers: &Providers) {
    let stage = Stage::set(providers, only(json!({"exception": "upload-log"}))).await;
    let (report, queue) = stage
        .run(json!({"violations": ["x is missing", "y is wrong"]}))
        .await;
    assert_eq!(report.resolution, exception(ExceptionReason::MalformedPayload));
    assert_eq!((report.effect, report.incident), (WorkerEffect::None, None));
    assert_eq!(
        stage.events.all(),
        [
            "a new_task_plugin null",
            "a exception malformed-payload",
            "queue stored public/logs/a.log",
            "queue exception malformed-payload",
            "a dispose",
        ]
    );
    let log = queue.log();
    assert!(
        log.ends_with("[taskcluster:error] x is missing\n[taskcluster:error] y is wrong\n"),
        "{log}"
    );
    stage.is_clean("malformed");
}

/// What several libraries find wrong with a payload is said at once.
pub(crate) async fn malformed_by_several(providers: &Providers) {
    let setting = Setting {
        plugins: vec![
            (
                "a",
                json!({"prepare": "error:MalformedPayload:from a", "exception": "upload-log"}),
            ),
            ("b", json!({"new_task_plugin": "error:MalformedPayload:from b"})),
        ],
        engine: json!({"new_sandbox_builder": "error:ResourceNotFound:no such image"}),
        ..Setting::default()
    };
    let stage = Stage::set(providers, setting).await;
    let (report, queue) = stage.run(payload()).await;
    assert_eq!(report.resolution, exception(ExceptionReason::MalformedPayload));
    assert_eq!(stage.events.count("queue exception"), 1);
    let log = queue.log();
    for message in ["from a", "from b", "no such image"] {
        assert!(log.contains(&format!("[taskcluster:error] {message}\n")), "{log}");
    }
    assert_eq!(stage.events.count("a dispose"), 1);
    // There is nothing to dispose of.
    assert_eq!(stage.events.count("b dispose"), 0);
}

/// A feature that is missing is the author's mistake only if the payload asked for it.
pub(crate) async fn unsupported_features(providers: &Providers) {
    let script = json!({"build_sandbox": "error:FeatureNotSupported:no volumes"});
    let stage = Stage::set(providers, only(script.clone())).await;
    let (report, _) = stage.run(payload()).await;
    assert_eq!(report.resolution, exception(ExceptionReason::MalformedPayload));

    let stage = Stage::set(providers, only(script)).await;
    let (report, _) = stage.run(json!({"command": []})).await;
    assert_eq!(report.resolution, exception(ExceptionReason::InternalError));
    assert_eq!(report.effect, WorkerEffect::NonFatal);
    stage.events.in_order(&[
        "a exception internal-error",
        "queue exception internal-error",
        "engine discard",
    ]);
    stage.is_clean("unsupported");
}

/// Whatever the task is waiting for, an event ends it, within a bound, and cleanly.
pub(crate) async fn events_in_every_state(providers: &Providers) {
    let events = [
        (
            TaskEvent::Cancelled,
            Resolution::ResolvedElsewhere,
            "a exception cancelled",
        ),
        (
            TaskEvent::Deadline,
            Resolution::ResolvedElsewhere,
            "a exception cancelled",
        ),
        (
            TaskEvent::ClaimLost,
            Resolution::ResolvedElsewhere,
            "a exception cancelled",
        ),
        (
            TaskEvent::WorkerShutdown,
            exception(ExceptionReason::WorkerShutdown),
            "a exception worker-shutdown",
        ),
    ];
    let waits = [
        (
            "engine",
            "new_sandbox_builder",
            "until-cancelled",
            "engine new_sandbox_builder",
        ),
        (
            "engine",
            "new_sandbox_builder",
            "hang",
            "engine new_sandbox_builder",
        ),
        (
            "a",
            "new_task_plugin",
            "until-cancelled",
            r#"a new_task_plugin {"a":{}}"#,
        ),
        ("a", "prepare", "hang", "a prepare"),
        ("a", "build_sandbox", "hang", "a build_sandbox"),
        ("engine", "start", "until-cancelled", "engine start"),
        ("engine", "start", "hang", "engine start"),
        ("a", "started", "hang", "a started"),
        ("engine", "wait", "runs", "engine wait"),
        ("engine", "wait", "stuck", "engine wait"),
        ("a", "stopped", "hang", "a stopped"),
        ("a", "finished", "hang", "a finished true"),
    ];
    for (event, resolution, told) in events {
        let cases = waits.iter().map(|(who, call, behaviour, reached)| async move {
            let what = format!("{event:?} in {who} {call} ({behaviour})");
            let stage = Stage::set(providers, one(who, json!({ *call: behaviour }))).await;
            let going = stage.begin(payload());
            stage.events.until(reached, 1).await;
            going.control.send(event);
            let report = going.end().await;
            assert_eq!(report.resolution, resolution, "{what}");
            assert_eq!(
                stage.events.count(told),
                stage.events.count("a dispose"),
                "{what}"
            );
            let reports = usize::from(event == TaskEvent::WorkerShutdown);
            assert_eq!(
                stage.events.count("queue "),
                reports,
                "{what}: {:#?}",
                stage.events.all()
            );
            // Hooks may be dropped; what is never dropped and does not return makes its library unhealthy.
            let hung = *who == "engine" && matches!(*behaviour, "hang" | "stuck");
            assert_eq!(
                report.unhealthy.contains("lib-engine"),
                hung,
                "{what}: {report:?}"
            );
            if *behaviour == "runs" {
                assert_eq!(stage.events.count("engine abort"), 1, "{what}");
            }
            stage.is_clean(&what);
        });
        join_all(cases).await;
    }
}

/// When the worker stops, the queue is told before anything is published; otherwise after.
pub(crate) async fn order_of_exceptions(providers: &Providers) {
    let setting = || Setting {
        engine: json!({"wait": "runs"}),
        ..only(json!({"exception": "upload-log"}))
    };
    let stage = Stage::set(providers, setting()).await;
    let going = stage.begin(payload());
    stage.events.until("engine wait", 1).await;
    going.control.send(TaskEvent::WorkerShutdown);
    let queue = Arc::clone(&going.queue);
    let report = going.end().await;
    assert!(report.reported);
    stage.events.in_order(&[
        "queue exception worker-shutdown",
        "engine abort",
        "a exception worker-shutdown",
        "queue stored public/logs/a.log",
        "a dispose",
    ]);
    assert!(
        queue
            .log()
            .contains("[taskcluster:error] The worker is shutting down.")
    );

    let mut other = setting();
    other.plugins[0].1["started"] = json!("error:ResourceUnavailable:no network");
    let stage = Stage::set(providers, other).await;
    let (report, _) = stage.run(payload()).await;
    assert_eq!(report.resolution, exception(ExceptionReason::ResourceUnavailable));
    stage.events.in_order(&[
        "engine abort",
        "a exception resource-unavailable",
        "queue stored public/logs/a.log",
        "queue exception resource-unavailable",
        "a dispose",
    ]);
}

/// A later event of more weight wins; one of less does not.
pub(crate) async fn events_of_more_weight(providers: &Providers) {
    let setting = Setting {
        engine: json!({"wait": "runs"}),
        ..only(json!({}))
    };
    let stage = Stage::set(providers, setting).await;
    let going = stage.begin(payload());
    going.control.reached(TaskState::Running).await;
    going.control.send(TaskEvent::Cancelled);
    going.control.send(TaskEvent::WorkerShutdown);
    let report = going.end().await;
    assert_eq!(
        (report.resolution, report.reported),
        (Resolution::ResolvedElsewhere, false)
    );
    assert_eq!(stage.events.count("queue "), 0);
}

/// A task that runs too long is killed, keeps its results, and has failed.
pub(crate) async fn max_run_time(providers: &Providers) {
    let setting = Setting {
        engine: json!({"wait": "runs"}),
        ..only(json!({"finished": "upload-log"}))
    };
    let stage = Stage::set(providers, setting).await;
    let going = stage.begin(payload());
    stage.events.until("engine wait", 1).await;
    going.control.send(TaskEvent::MaxRunTime(Duration::from_secs(7)));
    let queue = Arc::clone(&going.queue);
    let report = going.end().await;
    assert_eq!(report.resolution, Resolution::Failed);
    stage
        .events
        .in_order(&["engine kill", "a stopped", "a finished false", "queue failed"]);
    assert!(
        queue.log().contains("Its maximum run time is 7 s."),
        "{}",
        queue.log()
    );
    stage.is_clean("max run time");
}

/// A call that does not return, and for which nobody waits but the deadline.
pub(crate) async fn hangs(providers: &Providers) {
    let calls = [
        ("engine", "start"),
        ("engine", "new_sandbox_builder"),
        ("a", "new_task_plugin"),
        ("a", "prepare"),
        ("a", "started"),
        ("a", "finished"),
    ];
    join_all(calls.map(|(who, call)| async move {
        let mut setting = one(who, json!({call: "hang"}));
        setting.deadlines.call = Duration::from_millis(500);
        let stage = Stage::set(providers, setting).await;
        let (report, _) = stage.run(payload()).await;
        let what = format!("{who} {call}: {report:?}");
        assert_eq!(
            report.resolution,
            exception(ExceptionReason::InternalError),
            "{what}"
        );
        assert_eq!(report.effect, WorkerEffect::NonFatal, "{what}");
        assert!(report.incident.is_some(), "{what}");
        assert_eq!(
            report.unhealthy.into_iter().collect::<Vec<_>>(),
            [format!("lib-{who}")],
            "{call}"
        );
    }))
    .await;
}

/// A library that uses services is not hanging, however long it takes.
pub(crate) async fn busy_is_not_hanging(providers: &Providers) {
    for (who, call) in [("a", "prepare"), ("engine", "start")] {
        let mut setting = one(who, json!({call: "busy"}));
        setting.deadlines.call = Duration::from_millis(400);
        let stage = Stage::set(providers, setting).await;
        let (report, _) = stage.run(payload()).await;
        assert_eq!(report.resolution, Resolution::Completed, "{who}: {report:?}");
    }
}

/// A call that heeds the cancellation that is fired because it takes too long: the task ends, the library is well.
pub(crate) async fn overdue_but_well(providers: &Providers) {
    let mut setting = one("engine", json!({"start": "until-cancelled"}));
    setting.deadlines.call = Duration::from_millis(100);
    let stage = Stage::set(providers, setting).await;
    let (report, _) = stage.run(payload()).await;
    assert_eq!(report.resolution, exception(ExceptionReason::InternalError));
    assert!(report.unhealthy.is_empty(), "{report:?}");
    stage.events.in_order(&[
        "engine start heard InternalError",
        "engine abort",
        "a exception internal-error",
    ]);
    stage.is_clean("overdue");
}

/// `exception` hooks have a bound of their own, and do not keep the report.
pub(crate) async fn exception_is_bounded(providers: &Providers) {
    let mut setting = only(json!({"exception": "hang"}));
    setting.deadlines.exception = Duration::from_millis(50);
    let stage = Stage::set(providers, setting).await;
    let (report, _) = stage.run(json!({"violations": ["no"]})).await;
    assert_eq!(report.resolution, exception(ExceptionReason::MalformedPayload));
    assert!(report.reported);
    stage.is_clean("bounded");
}

/// Fatal before non-fatal before malformed, whoever answers first.
pub(crate) async fn precedence(providers: &Providers) {
    let errors = [
        (
            "FatalInternal",
            ExceptionReason::InternalError,
            WorkerEffect::Fatal,
        ),
        (
            "NonFatalInternal",
            ExceptionReason::InternalError,
            WorkerEffect::NonFatal,
        ),
        (
            "ResourceUnavailable",
            ExceptionReason::ResourceUnavailable,
            WorkerEffect::None,
        ),
        (
            "MalformedPayload",
            ExceptionReason::MalformedPayload,
            WorkerEffect::None,
        ),
        (
            "IntermittentTask",
            ExceptionReason::IntermittentTask,
            WorkerEffect::None,
        ),
    ];
    for (index, (kind, reason, effect)) in errors.into_iter().enumerate() {
        for (milder, ..) in &errors[index..] {
            let setting = Setting {
                plugins: vec![
                    (
                        "a",
                        json!({"build_sandbox": format!("error:{milder}"), "exception": "upload-log"}),
                    ),
                    ("b", json!({"build_sandbox": format!("error:{kind}")})),
                ],
                ..Setting::default()
            };
            let stage = Stage::set(providers, setting).await;
            let (report, queue) = stage.run(payload()).await;
            let what = format!("{kind} and {milder}: {report:?}");
            assert_eq!(report.resolution, exception(reason), "{what}");
            assert_eq!(report.effect, effect, "{what}");
            if let Some(incident) = report.incident {
                assert!(queue.log().contains(&incident), "{what}");
                assert!(!queue.log().contains("scripted"), "{what}: {}", queue.log());
            }
            stage.is_clean(&what);
        }
    }
}

/// A panic in a library ends that task only, and the library is unhealthy.
pub(crate) async fn panics(providers: &Providers) {
    for (who, call) in [
        ("engine", "new_sandbox_builder"),
        ("engine", "start"),
        ("engine", "results.dispose"),
        ("a", "new_task_plugin"),
        ("a", "prepare"),
        ("a", "build_sandbox"),
        ("a", "started"),
        ("a", "stopped"),
        ("a", "finished"),
        ("a", "dispose"),
    ] {
        let stage = Stage::set(providers, one(who, json!({call: "panic"}))).await;
        let (report, _) = stage.run(payload()).await;
        let what = format!("{who} {call}: {report:?}");
        let after_the_end = call.ends_with("dispose");
        let expected = if after_the_end {
            Resolution::Completed
        } else {
            exception(ExceptionReason::InternalError)
        };
        assert_eq!(report.resolution, expected, "{what}");
        assert_eq!(report.effect, WorkerEffect::NonFatal, "{what}");
        assert!(report.unhealthy.contains(&format!("lib-{who}")), "{what}");
        if call != "new_task_plugin" {
            stage.is_clean(&what);
        }
    }
}

/// A panic of the host's own ends that task only.
pub(crate) async fn host_panics(providers: &Providers) {
    let stage = Stage::set(providers, only(json!({}))).await;
    let (report, _) = stage.run(json!({"panic": true})).await;
    assert_eq!(report.resolution, exception(ExceptionReason::InternalError));
    assert!(report.reported && report.incident.is_some());
    assert_eq!(stage.events.all(), ["queue exception internal-error"]);
    let (report, _) = stage.run(payload()).await;
    assert_eq!(report.resolution, Resolution::Completed);
}

/// Objects of a stage that is over, and calls that are the host's, answer `ContractViolation`.
pub(crate) async fn late_and_forbidden_calls(providers: &Providers) {
    let misuse = json!({
        "build_sandbox": "misuse", "started": "misuse", "stopped": "misuse", "finished": "misuse", "dispose": "misuse",
    });
    let setting = Setting {
        engine: json!({"wait": "runs"}),
        ..only(misuse)
    };
    let stage = Stage::set(providers, setting).await;
    let (report, _) = stage.run(payload()).await;
    assert_eq!(report.resolution, Resolution::Failed, "it was killed");
    stage.events.until("a late-context=ContractViolation", 1).await;
    stage.events.in_order(&[
        "a start=ContractViolation discard=ContractViolation set=Ok",
        "a wait=ContractViolation abort=ContractViolation late-set=ContractViolation",
        "a late-kill=ContractViolation dispose=ContractViolation open-log=ContractViolation next=Ok",
        "a late-line=ContractViolation late-handle=ContractViolation folder=Ok",
        "a late-folder=ContractViolation late-next=ContractViolation",
    ]);
}

/// The queue has resolved the run before us: that is no error.
pub(crate) async fn conflict_at_the_report(providers: &Providers) {
    let stage = Stage::set(providers, only(json!({}))).await;
    let queue = Arc::new(FakeQueue {
        conflict: true,
        ..FakeQueue::plain(&stage.events)
    });
    let report = stage.begin_with(payload(), queue).end().await;
    assert_eq!(
        (report.resolution, report.reported),
        (Resolution::ResolvedElsewhere, false)
    );
    assert_eq!((report.effect, report.incident), (WorkerEffect::None, None));
    stage.is_clean("conflict");
}

/// A verdict outlives an outage of the queue, whatever the verdict is.
pub(crate) async fn queue_is_away(providers: &Providers) {
    for (engine, payload, told, resolution) in [
        (json!({}), payload(), "completed", Resolution::Completed),
        (json!({"wait": "fails"}), payload(), "failed", Resolution::Failed),
        (
            json!({}),
            json!({"violations": ["no"]}),
            "exception malformed-payload",
            exception(ExceptionReason::MalformedPayload),
        ),
    ] {
        let setting = Setting {
            engine,
            ..only(json!({}))
        };
        let stage = Stage::set(providers, setting).await;
        let queue = Arc::new(FakeQueue {
            away: 3.into(),
            ..FakeQueue::plain(&stage.events)
        });
        let going = stage.begin_with(payload, queue);
        let (control, report) = (going.control.clone(), going.end().await);
        assert_eq!((report.resolution, report.reported), (resolution, true), "{told}");
        assert_eq!(
            (report.effect, report.incident),
            (WorkerEffect::None, None),
            "{told}"
        );
        assert!(control.status().reporting, "{told}");
        let away = format!("queue is away at {told}");
        assert_eq!(stage.events.count(&away), 3, "{:#?}", stage.events.all());
        stage
            .events
            .in_order(&[&away, &format!("queue {told}"), "a dispose"]);
        stage.is_clean(told);
    }
}

/// The worker's shutdown and the claim's end are the bounds for a report that nobody takes.
pub(crate) async fn queue_stays_away(providers: &Providers) {
    for (event, resolution, effect) in [
        (
            TaskEvent::WorkerShutdown,
            Resolution::Completed,
            WorkerEffect::NonFatal,
        ),
        (
            TaskEvent::ClaimLost,
            Resolution::ResolvedElsewhere,
            WorkerEffect::None,
        ),
    ] {
        let mut setting = only(json!({}));
        setting.deadlines.report_at_shutdown = Duration::from_millis(200);
        let stage = Stage::set(providers, setting).await;
        let queue = Arc::new(FakeQueue {
            away: usize::MAX.into(),
            ..FakeQueue::plain(&stage.events)
        });
        let going = stage.begin_with(payload(), queue);
        stage.events.until("queue is away at completed", 2).await;
        going.control.send(event);
        let report = going.end().await;
        assert_eq!((report.resolution, report.reported), (resolution, false));
        assert_eq!(report.effect, effect, "{event:?}");
        stage.is_clean("away");
    }
}

/// A queue that does not answer keeps nothing of the task running when the worker shuts down.
pub(crate) async fn shutdown_with_a_silent_queue(providers: &Providers) {
    let setting = Setting {
        engine: json!({"wait": "runs"}),
        ..only(json!({}))
    };
    let stage = Stage::set(providers, setting).await;
    let queue = Arc::new(FakeQueue {
        silent: true,
        ..FakeQueue::plain(&stage.events)
    });
    let going = stage.begin_with(payload(), queue);
    stage.events.until("engine wait", 1).await;
    going.control.send(TaskEvent::WorkerShutdown);
    // The report is under way for much longer than this waits.
    stage.events.until("engine abort", 1).await;
    assert_eq!(
        stage.events.count("a exception"),
        0,
        "publishing is after the report"
    );
    going.control.send(TaskEvent::ClaimLost);
    let report = going.end().await;
    assert_eq!(
        (report.resolution, report.reported),
        (Resolution::ResolvedElsewhere, false)
    );
    stage.events.in_order(&[
        "queue is silent about exception worker-shutdown",
        "engine abort",
        "a exception worker-shutdown",
        "a dispose",
    ]);
    stage.is_clean("silent queue");
}

/// A task that the engine has no room for waits; the queue does not hear of it.
pub(crate) async fn waits_for_a_slot(providers: &Providers) {
    let setting = Setting {
        engine: json!({"wait": "runs"}),
        capacity: Some(1),
        ..only(json!({}))
    };
    let stage = Stage::set(providers, setting).await;
    let first = stage.begin(payload());
    stage.events.until("engine wait", 1).await;
    let second = stage.begin(payload());
    stage.events.until("engine full", 1).await;
    let third = stage.begin(payload());
    stage.events.until("engine full", 2).await;
    // Waiting does not keep a task from being cancelled.
    third.control.send(TaskEvent::Cancelled);
    assert_eq!(third.end().await.resolution, Resolution::ResolvedElsewhere);
    first.control.send(TaskEvent::MaxRunTime(Duration::ZERO));
    assert_eq!(first.end().await.resolution, Resolution::Failed);
    stage.events.until("engine wait", 2).await;
    second.control.send(TaskEvent::MaxRunTime(Duration::ZERO));
    assert_eq!(second.end().await.resolution, Resolution::Failed);
    assert_eq!(stage.events.count("queue failed"), 2);
    assert_eq!(stage.events.count("queue "), 2);
    assert_eq!(stage.env.engine.in_use(), 0);
}

/// A sandbox that comes into being after its task was given up is aborted.
pub(crate) async fn late_sandbox(providers: &Providers) {
    let setting = Setting {
        engine: json!({"start": "until-discarded"}),
        ..only(json!({}))
    };
    let stage = Stage::set(providers, setting).await;
    let going = stage.begin(payload());
    stage.events.until("engine start", 1).await;
    going.control.send(TaskEvent::Cancelled);
    let report = going.end().await;
    assert!(report.unhealthy.contains("lib-engine"));
    stage.events.until("engine abort", 1).await;
    stage.is_clean("late sandbox");
}

/// The slot is free when the task is resolved; cleaning up goes on without it.
pub(crate) async fn slot_is_free_before_cleaning_up(providers: &Providers) {
    let mut setting = only(json!({"dispose": "hang"}));
    setting.deadlines.call = Duration::from_millis(300);
    let stage = Stage::set(providers, setting).await;
    let going = stage.begin(payload());
    let early = going.control.resolved().await.unwrap();
    assert_eq!(early.resolution, Resolution::Completed);
    assert!(early.unhealthy.is_empty());
    let last = going.end().await;
    assert_eq!(last.resolution, Resolution::Completed);
    assert!(last.unhealthy.contains("lib-a"));
    stage
        .events
        .in_order(&["queue completed", "a dispose", "engine results.dispose"]);
}
