//! The oracle finds what is wrong: a trace as it should be passes, and each way of spoiling it is noticed.

use super::case::{Case, Conduct, Event, Queue, Spot};
use super::model::{Outcome, allowed};
use super::oracle::{Seen, complaints};

fn good() -> Seen {
    let trace = [
        r#"a new_task_plugin {"a":{}}"#,
        "a new_task_plugin ends",
        "a made",
        "engine new_sandbox_builder",
        "engine new_sandbox_builder ends",
        "engine made",
        "a prepare",
        "a prepare ends",
        "a build_sandbox",
        "a build_sandbox ends",
        "engine start",
        "engine start ends",
        "engine wait",
        "a started",
        "a started ends",
        "a log-in-stopped ContractViolation",
        "a stopped",
        "a stopped ends",
        "a log-in-finished Ok",
        "a finished true",
        "a finished ends",
        "queue completed",
        "a dispose",
        "a dispose ends",
        "engine gone",
        "engine results.dispose",
        "engine results.dispose ends",
    ];
    Seen {
        outcome: Outcome::Completed,
        reported: true,
        incident: None,
        effect: 0,
        unhealthy: Vec::new(),
        trace: trace.map(str::to_owned).to_vec(),
        log: None,
    }
}

fn at(seen: &Seen, line: &str) -> usize {
    seen.trace.iter().position(|other| other == line).expect(line)
}

fn moved(line: &str, before: &str) -> Seen {
    let mut seen = good();
    let moved = seen.trace.remove(at(&seen, line));
    let place = at(&seen, before);
    seen.trace.insert(place, moved);
    seen
}

fn more(line: &str) -> Seen {
    let mut seen = good();
    seen.trace.push(line.to_owned());
    seen
}

fn without(line: &str) -> Seen {
    let mut seen = good();
    seen.trace.remove(at(&seen, line));
    seen
}

fn but(line: &str, other: &str) -> Seen {
    let mut seen = good();
    let place = at(&seen, line);
    seen.trace[place] = other.to_owned();
    seen
}

#[test]
fn the_oracle_accepts_what_is_right_and_notices_whatever_is_wrong() {
    let case = Case::plain(1);
    assert_eq!(complaints(&case, &good()), Vec::<String>::new());
    let wrong = [
        ("reported twice", more("queue completed")),
        ("reported otherwise", but("queue completed", "queue failed")),
        ("not reported", without("queue completed")),
        ("disposed of twice", more("a dispose")),
        ("not disposed of", without("a dispose")),
        ("a hook after dispose", moved("a finished true", "engine gone")),
        ("a hook twice", more("a prepare")),
        (
            "prepared too late",
            moved("a prepare ends", "a build_sandbox ends"),
        ),
        (
            "no builder yet",
            moved("engine new_sandbox_builder ends", "engine start"),
        ),
        (
            "built too late",
            moved("a build_sandbox ends", "engine start ends"),
        ),
        ("started too early", moved("a started", "engine start ends")),
        (
            "started returns too late",
            moved("a started ends", "a stopped ends"),
        ),
        ("stopped too early", moved("engine wait", "a stopped ends")),
        (
            "stopped returns too late",
            moved("a stopped ends", "a finished ends"),
        ),
        (
            "the report too early",
            moved("queue completed", "a finished ends"),
        ),
        (
            "disposed of before the report",
            moved("a dispose", "queue completed"),
        ),
        (
            "the engine's before the plugins'",
            moved("engine results.dispose", "a dispose ends"),
        ),
        ("not given back", without("engine gone")),
        ("given back twice", more("engine gone")),
        ("discarded as well", more("engine discard")),
        (
            "the log closed too early",
            but("a log-in-stopped ContractViolation", "a log-in-stopped Ok"),
        ),
        (
            "the log closed too late",
            but("a log-in-finished Ok", "a log-in-finished ContractViolation"),
        ),
        ("the wrong verdict", but("a finished true", "a finished false")),
        ("an exception as well", more("a exception internal-error")),
        ("a skipped hook", without("a build_sandbox")),
        (
            "not reported after all",
            Seen {
                reported: false,
                ..good()
            },
        ),
        (
            "an effect for no reason",
            Seen {
                effect: 1,
                incident: Some("x".to_owned()),
                ..good()
            },
        ),
        (
            "unhealthy for no reason",
            Seen {
                unhealthy: vec!["lib-a".to_owned()],
                ..good()
            },
        ),
        (
            "an incident for no reason",
            Seen {
                incident: Some("x".to_owned()),
                ..good()
            },
        ),
    ];
    for (what, seen) in wrong {
        assert!(!complaints(&case, &seen).is_empty(), "{what} is not noticed");
    }
}

#[test]
fn the_order_of_publishing_and_reporting_depends_on_the_reason() {
    let shutdown = |first: &str, then: &str| Seen {
        outcome: Outcome::Shutdown,
        trace: [
            "a new_task_plugin null",
            "a made",
            first,
            then,
            "a exception ends",
            "a dispose",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..good()
    };
    let case = Case::plain(1);
    let (report, hook) = ("queue exception worker-shutdown", "a exception worker-shutdown");
    assert_eq!(complaints(&case, &shutdown(report, hook)), Vec::<String>::new());
    assert!(!complaints(&case, &shutdown(hook, report)).is_empty());
    // For any other reason it is the other way round.
    let malformed = |lines: [&str; 3]| Seen {
        outcome: Outcome::Malformed,
        trace: [
            "a new_task_plugin null",
            "a made",
            lines[0],
            lines[1],
            lines[2],
            "a dispose",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..good()
    };
    let (report, hook, end) = (
        "queue exception malformed-payload",
        "a exception malformed-payload",
        "a exception ends",
    );
    assert_eq!(
        complaints(&case, &malformed([hook, end, report])),
        Vec::<String>::new()
    );
    assert!(!complaints(&case, &malformed([hook, report, end])).is_empty());
}

#[test]
fn nothing_is_reported_of_a_task_that_was_resolved_elsewhere() {
    let cancelled = |line: &str| {
        let mut seen = but("queue completed", line);
        (seen.outcome, seen.reported) = (Outcome::Elsewhere, false);
        complaints(&Case::plain(1), &seen)
    };
    assert!(cancelled("a line").is_empty());
    assert!(!cancelled("queue completed").is_empty());
}

#[test]
fn a_panic_has_to_be_noticed_and_its_incident_to_be_in_the_log() {
    let mut case = Case::plain(1);
    case.conduct.insert(Spot::plugin(0, "prepare"), Conduct::Panics);
    let trace = [
        "a new_task_plugin {}",
        "a made",
        "a prepare",
        "a log-in-exception Ok",
        "a exception internal-error",
        "a exception ends",
        "queue exception internal-error",
        "a dispose",
    ];
    let right = Seen {
        outcome: Outcome::Internal,
        reported: true,
        incident: Some("Ab12".to_owned()),
        effect: 1,
        unhealthy: vec!["lib-a".to_owned()],
        trace: trace.map(str::to_owned).to_vec(),
        log: Some("Incident Ab12:".to_owned()),
    };
    assert_eq!(complaints(&case, &right), Vec::<String>::new());
    let log = |text: &str| Some(text.to_owned());
    for wrong in [
        Seen {
            unhealthy: Vec::new(),
            ..right.clone()
        },
        Seen {
            effect: 0,
            ..right.clone()
        },
        Seen {
            effect: 2,
            ..right.clone()
        },
        Seen {
            incident: None,
            ..right.clone()
        },
        Seen {
            log: log("Incident zz:"),
            ..right.clone()
        },
        Seen {
            log: log("Incident Ab12: a panics in prepare"),
            ..right.clone()
        },
    ] {
        assert!(!complaints(&case, &wrong).is_empty(), "{wrong:?}");
    }
}

/// The rules themselves, on cases whose answer is in the design.
#[test]
fn the_model_says_what_the_rules_say() {
    use tcw_abi::ErrorKind::*;
    let case = |conduct: &[(Spot, Conduct)], events: &[(Spot, Event)]| {
        let mut case = Case::plain(2);
        case.conduct.extend(conduct.iter().copied());
        for (spot, event) in events {
            case.events.entry(*spot).or_default().push(*event);
        }
        case
    };
    let ends = |case: &Case| allowed(case).into_iter().collect::<Vec<_>>();
    let (a, b) = (|call| Spot::plugin(0, call), |call| Spot::plugin(1, call));
    let wait = Spot::engine("wait");

    assert_eq!(ends(&case(&[], &[])), [Outcome::Completed]);
    assert_eq!(ends(&case(&[(wait, Conduct::Fails)], &[])), [Outcome::Failed]);
    let several = [
        (a("build_sandbox"), Conduct::Answers(MalformedPayload)),
        (b("build_sandbox"), Conduct::Answers(ResourceUnavailable)),
    ];
    assert_eq!(ends(&case(&several, &[])), [Outcome::Unavailable]);
    let ours = [
        (a("build_sandbox"), Conduct::Answers(MalformedPayload)),
        (b("build_sandbox"), Conduct::Panics),
    ];
    assert_eq!(ends(&case(&ours, &[])), [Outcome::Internal]);
    let runs = [(wait, Conduct::Runs)];
    assert_eq!(
        ends(&case(&runs, &[(wait, Event::WorkerShutdown)])),
        [Outcome::Shutdown]
    );
    let cancelled_first = [(wait, Event::Cancelled), (wait, Event::WorkerShutdown)];
    assert_eq!(ends(&case(&runs, &cancelled_first)), [Outcome::Elsewhere]);
    assert_eq!(
        ends(&case(&runs, &[(wait, Event::MaxRunTime)])),
        [Outcome::Failed]
    );
    assert_eq!(
        ends(&case(&[(wait, Conduct::Answers(SandboxAborted))], &[])),
        [Outcome::Internal]
    );
    assert_eq!(
        ends(&case(&[(a("prepare"), Conduct::Answers(TaskFailed))], &[])),
        [Outcome::Failed]
    );
    let mut conflict = case(&[], &[]);
    conflict.queue = Queue::Conflicts;
    assert_eq!(ends(&conflict), [Outcome::Elsewhere]);
}
