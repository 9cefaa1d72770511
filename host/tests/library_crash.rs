//! Libraries that end the process: who is named for it, what becomes of the task, and when it is not loaded any more.

mod crash_support;
mod support;

use crash_support::Scene;
use rustix::process::Signal;
use support::cli::Ended;
use support::library;
use tcw_host::library::crash::Identity;
use tcw_host::worker::crashes::QuarantineRule;
use tcw_host::worker::journal::Journal;

const WHO: &str = "the library 'crashing' 0.1.0 (DIR/plugins/libcrashing_library.so)";

/// Lines of the worker's log with `part` in them, without the time and the level.
fn lines(ended: &Ended, part: &str) -> Vec<String> {
    let err = ended.err();
    let lines = err
        .lines()
        .filter(|line| line.starts_with("TIME") && line.contains(part));
    lines
        .map(|line| line.splitn(3, ' ').last().unwrap_or_default())
        .map(|line| line.trim_start().trim_start_matches("ERROR ").to_owned())
        .collect()
}

/// Every way to crash: what the configuration asks for, the exit status that the shell sees, and how it is called.
const WAYS: [(&str, i32, &str); 4] = [
    ("abort", 134, "SIGABRT"),
    ("null", 139, "SIGSEGV"),
    ("exit", 7, "exit"),
    ("overflow", 139, "SIGSEGV"),
];

#[test]
fn the_next_start_names_the_library_and_the_task_runs_again_without_it() {
    for (how, code, called) in WAYS {
        let scene = Scene::new(&format!("plugins: {{crashing: {{crash: '{how}'}}}}\n"));
        let worker = scene.worker(&[]);
        let task = scene.submit("");
        let crashed = worker.end();
        assert_eq!(crashed.code(), code, "{how}: {}", crashed.stderr);
        let said = format!("tcw-host: crash in {WHO}: {called} in thread tcw-library\n");
        assert_eq!(crashed.said(), said, "{how}");

        std::fs::remove_file(scene.crashing()).unwrap();
        scene.place.file("tcw.yml", "");
        let next = scene.start(&["--number-of-tasks", "1"]).end();
        assert_eq!(
            (next.code(), lines(&next, "crashed")),
            (
                0,
                vec![format!(
                    "{WHO} crashed the worker: {called} in thread 'tcw-library' at TIME; this is crash 1 of the 3 that \
                     lead to its quarantine"
                )]
            ),
            "{how}: {}",
            next.stderr
        );
        assert_eq!(
            scene.runs(&task),
            ["exception (worker-shutdown)", "completed"],
            "{how}"
        );
        let list = scene.place.run(&["library", "list"]);
        assert!(
            list.out()
                .contains(&format!("gone; loadable: crashed once, last at TIME ({called})")),
            "{}",
            list.out()
        );
        let release = scene.place.run(&["library", "release", "crashing"]);
        assert_eq!(release.code(), 1);
        assert!(
            release.err().ends_with(&format!(
                "it crashed once, last at TIME ({called}), and is loaded\n"
            )),
            "{}",
            release.err()
        );
        // It is said once.
        let later = scene.start(&["--idle-timeout", "1 s"]).end();
        assert_eq!((later.code(), lines(&later, "crashed")), (68, vec![]), "{how}");
    }
}

#[test]
fn three_crashes_quarantine_a_library_until_it_is_released() {
    let scene = Scene::new("plugins: {crashing: {crash: abort}}\n");
    let worker = scene.worker(&[]);
    let task = scene.submit("");
    assert_eq!(worker.end().code(), 134);
    for crashes in 1..=2 {
        // The queue gives the task out again.
        let again = scene.start(&[]).end();
        assert_eq!(again.code(), 134);
        let count = format!("this is crash {crashes} of the 3 that lead to its quarantine");
        assert_eq!(lines(&again, &count).len(), 1, "{}", again.stderr);
    }
    let without = scene.start(&["--number-of-tasks", "1"]).end();
    let quarantined = "crashing 0.1.0 is quarantined: it crashed 3 times, last at TIME (SIGABRT)";
    assert_eq!(
        (without.code(), lines(&without, "quarantine")),
        (
            0,
            vec![
                format!(
                    "{WHO} crashed the worker: SIGABRT in thread 'tcw-library' at TIME; it is quarantined until \
                     `tcw-host library release crashing`"
                ),
                format!("a library is left out: DIR/plugins/libcrashing_library.so: {quarantined}"),
                "WARN plugin crashing (libcrashing_library.so) is quarantined, because its library crashed the worker: \
                 it is left out"
                    .to_owned(),
            ]
        ),
        "{}",
        without.stderr
    );
    let remedy = "get another version, or try it again after `tcw-host library release crashing`";
    assert!(without.stderr.contains(remedy), "{}", without.stderr);
    assert_eq!(
        scene.runs(&task),
        [
            "exception (worker-shutdown)",
            "exception (worker-shutdown)",
            "exception (worker-shutdown)",
            "completed"
        ]
    );

    let (code, rows) = scene.listed();
    let rows: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(
        (code, rows),
        (
            1,
            vec!["quarantined: crashed 3 times, last at TIME (SIGABRT)", "loadable"]
        )
    );
    let explained = scene.place.run(&scene.command(&["schema", "--explain"]));
    assert!(
        explained
            .out()
            .contains("is quarantined, because its library crashed the worker"),
        "{}",
        explained.out()
    );

    scene.place.run(&["library", "release", "nobody"]).refuses(
        1,
        "tcw-host: no library 'nobody' has crashed the worker with the state directory DIR/state; `tcw-host library \
         list` shows those that have\n",
    );
    let released = scene.place.run(&["library", "release", "crashing"]);
    let (short, rest) = released.stdout.split_once(") ").unwrap();
    assert!(short.starts_with("crashing 0.1.0 ("), "{short}");
    assert_eq!(
        (released.code(), rest),
        (
            0,
            "is loaded again from the next start on; 3 crashes are forgotten\n"
        )
    );
    assert_eq!(scene.state(), "loadable");
    scene.worker(&[]).says("library=\"crashing\" version=\"0.1.0\"");
}

#[test]
fn other_bytes_start_clean_and_what_is_required_stops_the_worker() {
    let scene = Scene::new(
        "libraries: {required: [crashing], quarantine: {crashes: 1, within: 1 h}}\n\
         plugins: {crashing: {crash: abort}}\n",
    );
    let worker = scene.worker(&[]);
    scene.submit("");
    assert_eq!(worker.end().code(), 134);
    let refused = scene.start(&[]).end();
    assert_eq!(
        (refused.code(), refused.said().as_str()),
        (
            73,
            "tcw-host: DIR/plugins/libcrashing_library.so: crashing 0.1.0 is quarantined: it crashed once, last at TIME \
             (SIGABRT)\n  get another version, or try it again after `tcw-host library release crashing`\n"
        )
    );
    // The vendor's next version, of which the tests only change the number.
    let file = scene.crashing();
    let next = scene.place.path("next.so");
    support::patched(&file, &next, b"\"version\":\"0.1.0\"", b"\"version\":\"0.1.1\"");
    std::fs::rename(next, &file).unwrap();
    scene.worker(&[]).says("library=\"crashing\" version=\"0.1.1\"");
    assert_eq!(scene.state(), "loadable");
}

#[test]
fn an_engine_in_quarantine_stops_the_worker() {
    let scene = Scene::new("");
    let engine = library("native_engine");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let journal = Journal::open(&scene.place.path("state/worker")).unwrap();
        let identity = Identity {
            name: "native".into(),
            version: "0.1.0".into(),
            sha256: tcw_host::library::sha256(&engine).unwrap(),
            path: engine.clone(),
        };
        let rule = QuarantineRule {
            crashes: 1,
            ..QuarantineRule::default()
        };
        let now = chrono::Utc::now();
        let verdict = journal
            .crashed(identity, "SIGSEGV".into(), now, rule)
            .await
            .unwrap();
        assert!(verdict.quarantined);
    });
    let refused = scene.start(&[]).end();
    assert_eq!(
        (refused.code(), refused.said().as_str()),
        (
            73,
            "tcw-host: BUILT/libnative_engine.so: native 0.1.0 is quarantined: it crashed once, last at TIME (SIGSEGV)\n  \
             get another version, or try it again after `tcw-host library release native`\n"
        )
    );
    let sha256 = tcw_host::library::sha256(&engine).unwrap();
    assert_eq!(scene.place.run(&["library", "release", &sha256[..8]]).code(), 0);
    scene.worker(&[]);
}

#[test]
fn a_crash_of_a_constructor_is_attributed() {
    for (how, code, called) in [("abort", 134, "SIGABRT"), ("exit", 7, "exit")] {
        let scene = Scene::new("");
        let mut command = scene.place.tcw(&scene.command(&["run"]));
        command.env("CRASHING_CONSTRUCTOR", how);
        let crashed = scene.place.start_command(command).end();
        assert_eq!(crashed.code(), code, "{}", crashed.stderr);
        let next = scene.start(&["--idle-timeout", "1 s"]).end();
        let named = lines(&next, &format!("{WHO} crashed the worker: {called} in thread "));
        assert_eq!((next.code(), named.len()), (68, 1), "{}", next.stderr);
    }
}

#[test]
fn a_kill_from_outside_counts_against_nobody() {
    let scene = Scene::new("libraries: {quarantine: {crashes: 1}}\n");
    for signal in [
        Signal::KILL,
        Signal::ABORT,
        Signal::ABORT,
        Signal::ABORT,
        Signal::SEGV,
        Signal::BUS,
    ] {
        let worker = scene.worker(&[]);
        worker.signal(signal);
        let ended = worker.end();
        assert_eq!(
            (ended.code(), ended.said().as_str()),
            (128 + signal.as_raw(), ""),
            "{signal:?}"
        );
        let next = scene.start(&["--idle-timeout", "1 s"]).end();
        assert_eq!(
            (next.code(), lines(&next, "crashed")),
            (68, vec![]),
            "{}",
            next.stderr
        );
    }
    assert_eq!(scene.state(), "loadable");
}

#[test]
fn a_crash_of_exec_is_said_by_the_next_one_and_counts_against_nobody() {
    let scene = Scene::new("libraries: {quarantine: {crashes: 1}}\n");
    let task = scene.task("task", "crash: abort");
    let crashed = scene.place.run(&scene.command(&["exec", &task]));
    assert_eq!(crashed.code(), 134, "{}", crashed.stderr);
    let task = scene.task("task", "");
    let next = scene.place.run(&scene.command(&["exec", &task]));
    assert_eq!(next.code(), 0, "{}", next.stderr);
    assert_eq!(
        lines(&next, "crashed")[0],
        format!("WARN left by an earlier exec: {WHO} crashed the worker: SIGABRT in thread 'tcw-library'")
    );
    assert_eq!(scene.state(), "loadable");
}

#[test]
fn a_child_that_crashes_is_not_the_worker() {
    let scene = Scene::new("");
    let worker = scene.worker(&["--number-of-tasks", "1"]);
    let task = scene.submit("crash: child");
    let ended = worker.end();
    assert_eq!((ended.code(), ended.said().as_str()), (0, ""), "{}", ended.stderr);
    assert_eq!(scene.runs(&task), ["completed"]);
    assert_eq!(scene.state(), "loadable");
}

/// What cannot be seen is not guessed, and the task is looked after all the same.
#[test]
fn a_stack_overflow_on_a_thread_without_a_signal_stack_counts_against_nobody() {
    let scene = Scene::new("");
    let worker = scene.worker(&[]);
    let task = scene.submit("crash: thread");
    let crashed = worker.end();
    assert_eq!((crashed.code(), crashed.said().as_str()), (139, ""));
    std::fs::remove_file(scene.crashing()).unwrap();
    let next = scene.start(&["--number-of-tasks", "1"]).end();
    assert_eq!((next.code(), lines(&next, "crashed")), (0, vec![]));
    assert_eq!(scene.runs(&task)[0], "exception (worker-shutdown)");
}
