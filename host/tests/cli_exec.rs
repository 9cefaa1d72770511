//! `tcw-host exec`: one task, its log on stdout, its outcome as exit status.

mod support;

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use support::cli::{Place, processes_with, with};

fn example(name: &str) -> String {
    let tasks = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/tasks");
    tasks.join(format!("{name}.yml")).display().to_string()
}

/// An argument of `sleep` that no other process has: about a day.
fn unique_time(number: u32) -> String {
    format!("86399.{}{number}", std::process::id())
}

/// A task that says `here` and then sleeps.
fn waiting(time: &str) -> String {
    format!(
        "payload:\n  maxRunTime: 3600\n  command:\n    - [/bin/sh, -c, 'sleep {time} & echo here; wait']\n"
    )
}

/// What `exec` says before anything else with an engine that does not isolate.
const NO_ISOLATION: &str = "TIME  WARN isolation: none. Tasks run as this worker's own user and reach whatever it reaches: \
     run only tasks that you would run yourself engine=\"native\"\n";

/// Everything that it says about a task with `outcome` whose log is all there is.
fn ended(outcome: &str) -> String {
    format!("{NO_ISOLATION}{}", ended_alone(outcome))
}

fn ended_alone(outcome: &str) -> String {
    format!(
        "\ntask TASK: {outcome}\nartifacts (--artifacts DIR puts them there):\n  \
         public/logs/live.log (text/plain; charset=utf-8)\n  \
         public/logs/live_backing.log (text/plain; charset=utf-8)\n"
    )
}

/// The log of a task, between the lines that each has.
fn log(middle: &str) -> String {
    format!(
        "[taskcluster TIME] Task ID: TASK\n[taskcluster TIME] === Task Starting ===\n{middle}\
         [taskcluster TIME] === Task Finished ===\n[taskcluster TIME] Task Duration: 0s\n"
    )
}

/// A command's lines in the log.
fn command(number: usize, words: &str, output: &str, exit_code: i32) -> String {
    let result = if exit_code == 0 { "SUCCEEDED" } else { "FAILED" };
    format!(
        "[taskcluster TIME] Executing command {number}: {words}\n{output}\
         [taskcluster TIME]                        Exit Code: {exit_code}\n\
         [taskcluster TIME]                        User Time: 0s\n\
         [taskcluster TIME]                      Kernel Time: 0s\n\
         [taskcluster TIME]                        Wall Time: 0s\n\
         [taskcluster TIME]                           Result: {result}\n"
    )
}

#[test]
fn a_task_that_succeeds_shows_its_log_and_exits_with_0() {
    let place = Place::new();
    let hello = place.run(&with(&["exec", &example("hello")], &place.native()));
    assert_eq!((hello.code(), hello.err()), (0, ended("completed")));
    let said = command(0, "/bin/bash -c 'echo \"$GREETING\"'", "Hello from a task\n", 0);
    assert_eq!(hello.out(), log(&said));
    assert_eq!(place.exec_directories(), 0);
}

#[test]
fn a_task_that_fails_exits_with_1_after_the_command_that_failed() {
    let place = Place::new();
    let fails = place.run(&with(&["exec", &example("fails")], &place.native()));
    assert_eq!((fails.code(), fails.err()), (1, ended("failed")));
    let first = command(0, "echo 'this is printed'", "this is printed\n", 0);
    let second = command(1, "/bin/bash -c 'exit 3'", "", 3);
    assert_eq!(fails.out(), log(&(first + &second)));
}

#[test]
fn a_payload_that_does_not_fit_is_refused_with_everything_that_is_wrong() {
    let place = Place::new();
    let malformed = place.run(&with(&["exec", &example("malformed")], &place.native()));
    assert_eq!((malformed.code(), malformed.out().as_str()), (2, ""));
    assert_eq!(
        malformed.said(),
        format!(
            "tcw-host: the queue refuses the task {}:\n\
             the payload does not fit its schema:\n  \
             * `maxRunTime` must be a whole number, not a string\n  \
             * `comand` is not a known key; `command` is the nearest\n\
             These are the rules of worker pool local/exec-ID; `tcw-host schema --explain` lists them.\n",
            example("malformed")
        )
    );
}

#[test]
fn artifacts_are_put_into_the_directory_that_is_named() {
    let place = Place::new();
    let kept = place.path("kept").display().to_string();
    let built = place.run(&with(
        &["exec", &example("build-c"), "--artifacts", &kept],
        &place.native(),
    ));
    assert_eq!(
        (built.code(), built.err()),
        (
            0,
            format!(
                "{NO_ISOLATION}\ntask TASK: completed\nartifacts in DIR/kept:\n  \
                 public/build/primes (application/octet-stream)\n  \
                 public/logs/live.log (text/plain; charset=utf-8)\n  \
                 public/logs/live_backing.log (text/plain; charset=utf-8)\n  \
                 public/report.txt (text/plain; charset=utf-8)\n"
            )
        )
    );
    // It was compressed on its way, and is not any more.
    assert_eq!(
        fs::read_to_string(place.path("kept/public/report.txt")).unwrap(),
        "2\n3\n5\n7\n11\n13\n17\n19\n23\n29\n31\n37\n41\n43\n47\n"
    );
    assert_eq!(
        &fs::read(place.path("kept/public/build/primes")).unwrap()[..4],
        b"\x7fELF"
    );
    assert_eq!(
        fs::read_to_string(place.path("kept/public/logs/live_backing.log")).unwrap(),
        built.stdout
    );
}

#[test]
fn a_folder_is_published_file_by_file() {
    let place = Place::new();
    let task = place.file(
        "folder.yml",
        "payload:
  maxRunTime: 60
  command:
    - [/bin/sh, -c, 'mkdir -p out/deep; echo one > out/one.txt; echo two > out/deep/two.json; gzip -k out/one.txt']
  artifacts:
    - {type: directory, path: out, name: public/out}
",
    );
    let kept = place.path("kept").display().to_string();
    let ended = place.run(&with(&["exec", &task, "--artifacts", &kept], &place.native()));
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr);
    let read = |name: &str| fs::read(place.path("kept/public/out").join(name)).unwrap();
    assert_eq!(
        (read("one.txt"), read("deep/two.json")),
        (b"one\n".to_vec(), b"two\n".to_vec())
    );
    // A file that was compressed by the task is delivered as the task made it.
    assert_eq!(read("one.txt.gz")[..2], [0x1f, 0x8b]);
}

#[test]
fn an_exit_status_that_asks_for_it_is_an_exception_and_tried_again() {
    let place = Place::new();
    let task = place.file(
        "retry.yml",
        "payload:
  maxRunTime: 60
  command:
    - [/bin/sh, -c, exit 17]
  onExitStatus: {retry: [17]}
",
    );
    let retried = place.run(&with(&["exec", &task], &place.native()));
    assert_eq!(
        (retried.code(), retried.err()),
        (2, ended("exception (intermittent-task)"))
    );
}

#[test]
fn a_task_that_runs_for_too_long_is_ended_and_has_failed() {
    let place = Place::new();
    let time = unique_time(1);
    let task = place.file(
        "long.yml",
        &format!("payload:\n  maxRunTime: 1\n  command:\n    - [sleep, '{time}']\n"),
    );
    let long = place.run(&with(&["exec", &task], &place.native()));
    assert_eq!((long.code(), long.err()), (1, ended("failed")));
    assert_eq!(
        long.out(),
        log(&format!(
            "[taskcluster TIME] Executing command 0: sleep {time}\n\
             [taskcluster:error] Task aborted - max run time exceeded\n\
             [taskcluster TIME]                        Exit Code: -1\n\
             [taskcluster TIME]                           Signal: 15\n\
             [taskcluster TIME]                        User Time: 0s\n\
             [taskcluster TIME]                      Kernel Time: 0s\n\
             [taskcluster TIME]                        Wall Time: 0s\n\
             [taskcluster TIME]                           Result: ABORTED\n"
        ))
    );
    assert_eq!(processes_with(&time), []);
}

#[test]
fn a_command_that_is_not_there_fails_with_the_reason() {
    let place = Place::new();
    let task = place.file(
        "missing.yml",
        "payload:\n  maxRunTime: 60\n  command:\n    - [no-such-program, --help]\n",
    );
    let missing = place.run(&with(&["exec", &task], &place.native()));
    assert_eq!((missing.code(), missing.err()), (1, ended("failed")));
    assert_eq!(
        missing.out(),
        log("[taskcluster TIME] Executing command 0: no-such-program --help\n\
             [taskcluster:error] Command 0 could not be started: \"no-such-program\" is in no directory of PATH \
             (/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin)\n")
    );
}

#[test]
fn the_payloads_variables_win_over_the_workers_and_the_tasks_own_over_both() {
    let place = Place::new();
    let task = place.file(
        "env.yml",
        "payload:
  maxRunTime: 60
  env: {LANG: from-the-payload, TASK_ID: from-the-payload}
  command:
    - [/bin/sh, -c, 'echo $LANG; [ \"$TASK_ID\" = from-the-payload ] || echo theirs; echo ${SECRET-no secret}']
",
    );
    let mut command = place.tcw(&with(&["exec", &task], &place.native()));
    command
        .env("LANG", "from-the-worker")
        .env("SECRET", "of the worker");
    let ended = place.start_command(command).end();
    let lines: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| !line.starts_with('['))
        .collect();
    assert_eq!(
        lines,
        ["from-the-payload", "theirs", "no secret"],
        "{}",
        ended.stdout
    );
}

#[test]
fn ctrl_c_cancels_and_leaves_nothing() {
    let place = Place::new();
    let (child, daemon) = (unique_time(2), unique_time(3));
    let task = place.file(
        "wait.yml",
        &format!(
            "payload:
  maxRunTime: 3600
  command:
    - [/bin/sh, -c, 'sleep {child} & setsid sleep {daemon} & echo both; wait']
"
        ),
    );
    let exec = place.start(&with(&["exec", &task], &place.native()));
    exec.prints("both");
    exec.signal(Signal::INT);
    let cancelled = exec.end();
    assert_eq!(
        (cancelled.code(), cancelled.err()),
        (
            2,
            format!(
                "{NO_ISOLATION}tcw-host: cancelling the task; once more to leave at once\n{}",
                ended_alone("exception (canceled)")
            )
        )
    );
    assert_eq!(
        (processes_with(&child), processes_with(&daemon)),
        (vec![], vec![])
    );
    assert_eq!(place.exec_directories(), 0);
}

#[test]
fn a_second_ctrl_c_leaves_at_once_and_the_next_exec_ends_what_was_left() {
    let place = Place::new();
    let time = unique_time(4);
    let task = place.file("wait.yml", &waiting(&time));
    let exec = place.start(&with(&["exec", &task], &place.native()));
    exec.prints("here");
    exec.signal(Signal::INT);
    exec.says("once more to leave at once");
    exec.signal(Signal::INT);
    assert_eq!(exec.end().code(), 130);

    let hello = place.run(&with(&["exec", &example("hello")], &place.native()));
    assert_eq!(hello.code(), 0, "{}", hello.stderr);
    assert_eq!((processes_with(&time), place.exec_directories()), (vec![], 0));
}

#[test]
fn what_a_killed_exec_left_is_ended_by_the_next() {
    let place = Place::new();
    let time = unique_time(5);
    let task = place.file("wait.yml", &waiting(&time));
    let exec = place.start(&with(&["exec", &task], &place.native()));
    exec.prints("here");
    drop(exec);
    assert_eq!(place.exec_directories(), 1);

    let hello = place.run(&with(&["exec", &example("hello")], &place.native()));
    assert_eq!(hello.code(), 0, "{}", hello.stderr);
    assert_eq!((processes_with(&time), place.exec_directories()), (vec![], 0));
}

#[test]
fn recover_ends_what_a_killed_exec_left() {
    let place = Place::new();
    let time = unique_time(6);
    let task = place.file("wait.yml", &waiting(&time));
    let exec = place.start(&with(&["exec", &task], &place.native()));
    exec.prints("here");
    drop(exec);

    let recovered = place.run(&with(&["recover"], &place.native()));
    assert_eq!((recovered.code(), recovered.err().as_str()), (0, ""));
    assert!(
        recovered
            .out()
            .starts_with("ended 2 processes that were left in DIR/state/exec/TASK/tmp/native-"),
        "{}",
        recovered.out()
    );
    assert_eq!((processes_with(&time), place.exec_directories()), (vec![], 0));
}

#[test]
fn paths_that_leave_the_task_are_not_published() {
    let place = Place::new();
    let task = place.file(
        "leak.yml",
        "payload:
  maxRunTime: 60
  command:
    - [/bin/sh, -c, 'ln -s /etc/passwd link; ln -s /etc folder']
  artifacts:
    - {type: file, path: ../../../../../../../../etc/passwd, name: public/dots}
    - {type: file, path: link, name: public/link}
    - {type: file, path: folder/passwd, name: public/through}
",
    );
    let kept = place.path("kept").display().to_string();
    let leak = place.run(&with(&["exec", &task, "--artifacts", &kept], &place.native()));
    assert_eq!(
        (leak.code(), leak.err()),
        (
            1,
            format!(
                "{NO_ISOLATION}\ntask TASK: failed\nartifacts in DIR/kept:\n  \
                 public/dots: not there; the task's log says why\n  \
                 public/link: not there; the task's log says why\n  \
                 public/logs/live.log (text/plain; charset=utf-8)\n  \
                 public/logs/live_backing.log (text/plain; charset=utf-8)\n  \
                 public/through: not there; the task's log says why\n"
            )
        )
    );
    let mut errors: Vec<&str> = leak
        .stdout
        .lines()
        .filter(|line| line.starts_with("[taskcluster:error]"))
        .collect();
    errors.sort_unstable();
    let refused = |name: &str, path: &str| {
        format!(
            "[taskcluster:error] Artifact \"public/{name}\" not found at \"{path}\": there is no file '{path}': it \
             leads out of the task directory, by '..' or through a symbolic link (links have to be relative)"
        )
    };
    assert_eq!(
        errors,
        [
            refused("dots", "../../../../../../../../etc/passwd"),
            refused("link", "link"),
            refused("through", "folder/passwd"),
        ]
    );
    assert!(!place.path("kept/public/dots").exists() && !place.path("kept/public/link").exists());
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_outcome() {
    let place = Place::new();
    let task = place.file(
        "loud.yml",
        "payload:\n  maxRunTime: 60\n  command:\n    - [/bin/sh, -c, 'seq 100000; exit 5']\n",
    );
    let command = format!(
        "{} exec {task} {} 2>err | head -n 1 >out; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_tcw-host"),
        place.native().join(" ")
    );
    let mut shell = std::process::Command::new("/bin/bash");
    shell
        .args(["-c", &command])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TCW_STATE_DIRECTORY", place.path("state"))
        .current_dir(place.path(""));
    let ended = place.start_command(shell).end();
    assert_eq!(ended.out(), "1\n");
    let err = fs::read_to_string(place.path("err")).unwrap();
    assert!(!err.contains("panicked"), "{err}");
}
