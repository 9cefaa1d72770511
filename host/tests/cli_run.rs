//! `tcw-host run` with the embedded queue, and `submit`, `cancel`, `status` and `recover` beside it.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::cli::{Ended, Place, Running, flags, processes_with, with};
use support::library;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId};

/// Much less than the 20 s of a poll: who is told to stop does not wait for one to end.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A worker that is ready, with these flags beside the libraries.
fn worker(place: &Place, more: &[&str]) -> Running {
    let worker = place.start(&with(&[&["run"], more].concat(), &place.native()));
    worker.says("waiting for tasks");
    worker
}

/// A task whose only command is a script.
fn script(place: &Place, name: &str, script: &str) -> String {
    place.file(
        &format!("{name}.yml"),
        &format!("payload:\n  maxRunTime: 600\n  command:\n    - [/bin/sh, -c, '{script}']\n"),
    )
}

/// Puts a task into the queue of the worker that runs here; answers its id.
fn submit(place: &Place, task: &str) -> String {
    let submitted = place.run(&["submit", task]);
    assert_eq!(
        (
            submitted.code(),
            submitted.err().as_str(),
            submitted.out().as_str()
        ),
        (0, "", "TASK\n")
    );
    submitted.stdout.trim().to_owned()
}

/// A script that says so when it runs, by making the file `name`, and ends when there is a file `name.go`.
fn until_told(place: &Place, name: &str) -> String {
    let file = place.path(name).display().to_string();
    script(
        place,
        name,
        &format!("touch {file}; while [ ! -e {file}.go ]; do sleep 0.02; done; echo told"),
    )
}

fn wait_for_file(place: &Place, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.path(name).exists() {
        assert!(Instant::now() < deadline, "the task never made {name}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the queue of a worker that has ended says of a task: its runs as `state (reason)`, and its artifacts.
fn afterwards(place: &Place, task: &str) -> (Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let queue = EmbeddedQueue::start(EmbeddedConfig::new(place.path("state/queue")))
            .await
            .unwrap();
        let client =
            QueueClient::new(ClientConfig::new(queue.root_url(), Some(queue.credentials()))).unwrap();
        let task: TaskId = task.parse().unwrap();
        let status = client.status(&task).await.unwrap();
        let runs = status.runs.iter().map(|run| {
            let state = serde_json::to_value(run.state).unwrap();
            let state = state.as_str().unwrap();
            match run.reason_resolved.as_deref() {
                Some(reason) if reason != state => format!("{state} ({reason})"),
                _ => state.to_owned(),
            }
        });
        let artifacts = client
            .list_artifacts(&task, Some(tcw_host::queue::RunId(0)))
            .await
            .unwrap();
        let names = artifacts.into_iter().map(|artifact| artifact.name);
        let answer = (runs.collect(), names.collect());
        queue.stop().await;
        answer
    })
}

const LOGS: [&str; 2] = ["public/logs/live.log", "public/logs/live_backing.log"];

/// The last line of the worker's own log, without the time.
fn last_line(ended: &Ended) -> String {
    let err = ended.err();
    err.lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("TIME")
        .trim()
        .to_owned()
}

#[test]
fn tasks_run_at_the_same_time_and_the_worker_ends_after_as_many_as_it_should() {
    let place = Place::new();
    let worker = worker(&place, &["--capacity", "3", "--number-of-tasks", "3"]);
    let names = ["one", "two", "three"];
    let all = names.map(|name| place.path(name).display().to_string());
    let tasks = names.map(|name| {
        // Each goes on when it sees the two others.
        let mine = place.path(name).display().to_string();
        let wait = format!(
            "touch {mine}; for f in {}; do while [ ! -e $f ]; do sleep 0.02; done; done",
            all.join(" ")
        );
        submit(&place, &script(&place, name, &wait))
    });
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (0, "INFO all tasks that were wanted are done status=0"),
        "{}",
        ended.stderr
    );
    for task in tasks {
        assert_eq!(
            afterwards(&place, &task),
            (vec!["completed".to_owned()], LOGS.map(str::to_owned).to_vec())
        );
    }
}

#[test]
fn submit_with_watch_says_how_it_goes_and_prints_the_log() {
    let place = Place::new();
    let _worker = worker(&place, &[]);
    let failing = script(&place, "failing", "echo from the task; exit 4");
    let watched = place.run(&["submit", "--watch", &failing]);
    assert_eq!(watched.code(), 1);
    let (id, log) = watched
        .out()
        .split_once('\n')
        .map(|(id, log)| (id.to_owned(), log.to_owned()))
        .unwrap();
    assert_eq!(id, "TASK");
    assert_eq!(
        log,
        "[taskcluster TIME] Task ID: TASK\n\
         [taskcluster TIME] === Task Starting ===\n\
         [taskcluster TIME] Executing command 0: /bin/sh -c 'echo from the task; exit 4'\n\
         from the task\n\
         [taskcluster TIME]                        Exit Code: 4\n\
         [taskcluster TIME]                        User Time: 0s\n\
         [taskcluster TIME]                      Kernel Time: 0s\n\
         [taskcluster TIME]                        Wall Time: 0s\n\
         [taskcluster TIME]                           Result: FAILED\n\
         [taskcluster TIME] === Task Finished ===\n\
         [taskcluster TIME] Task Duration: 0s\n"
    );
    let err = watched.err();
    let (states, rest) = err.split_once("task TASK: failed\n").expect("it fails");
    assert!(
        states
            .lines()
            .all(|line| matches!(line, "task TASK: pending" | "task TASK: running")),
        "{states}"
    );
    assert_eq!(
        rest,
        "  public/logs/live.log (text/plain; charset=utf-8)\n  \
         public/logs/live_backing.log (text/plain; charset=utf-8)\n"
    );
}

#[test]
fn a_worker_without_tasks_ends_after_its_idle_time_out() {
    let place = Place::new();
    let begun = Instant::now();
    let ended = worker(&place, &["--idle-timeout", "1 s"]).end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (
            68,
            "INFO there was nothing to do for the whole idle time-out status=68"
        )
    );
    assert!(begun.elapsed() < AT_ONCE, "it waited for its poll");
}

#[test]
fn sigint_ends_an_idle_worker_at_once() {
    let place = Place::new();
    let worker = worker(&place, &[]);
    let begun = Instant::now();
    worker.signal(Signal::INT);
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (
            71,
            "INFO stopped after the running tasks: interrupted (SIGINT) status=71"
        )
    );
    assert!(begun.elapsed() < AT_ONCE, "it waited for its poll");
}

#[test]
fn sigint_lets_the_running_task_finish() {
    let place = Place::new();
    let worker = worker(&place, &[]);
    let task = submit(&place, &until_told(&place, "task"));
    wait_for_file(&place, "task");
    worker.signal(Signal::INT);
    worker.says("stopping after the running tasks");
    place.file("task.go", "");
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (
            71,
            "INFO stopped after the running tasks: interrupted (SIGINT) status=71"
        )
    );
    assert_eq!(afterwards(&place, &task).0, ["completed"]);
}

#[test]
fn sigterm_resolves_the_running_task_and_its_log_is_kept() {
    let place = Place::new();
    let worker = worker(&place, &[]);
    let task = submit(&place, &until_told(&place, "task"));
    wait_for_file(&place, "task");
    worker.signal(Signal::TERM);
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (72, "INFO stopped: terminated (SIGTERM) status=72")
    );
    // The queue has put it back for another run.
    assert_eq!(
        afterwards(&place, &task),
        (
            vec!["exception (worker-shutdown)".to_owned(), "pending".to_owned()],
            LOGS.map(str::to_owned).to_vec()
        )
    );
}

#[test]
fn a_second_sigint_does_not_wait_for_the_task() {
    let place = Place::new();
    let worker = worker(&place, &[]);
    let task = submit(&place, &until_told(&place, "task"));
    wait_for_file(&place, "task");
    worker.signal(Signal::INT);
    worker.says("stopping after the running tasks");
    worker.signal(Signal::INT);
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (72, "INFO stopped: a second signal (SIGINT) status=72")
    );
    assert_eq!(
        afterwards(&place, &task).0,
        ["exception (worker-shutdown)", "pending"]
    );
}

#[test]
fn a_signal_after_sigterm_leaves_at_once() {
    let place = Place::new();
    // This engine does not let go of its tasks.
    let plugins = place.plugins([]);
    let worker = place.start(&with(&["run"], &flags(&library("mock_engine"), &plugins)));
    worker.says("waiting for tasks");
    let task = place.file(
        "stuck.yml",
        "taskQueueId: local/mock\npayload: {delay: 0, function: wait, faults: [{at: abort, do: hang}]}\n",
    );
    submit(&place, &task);
    worker.says("claimed");
    let begun = Instant::now();
    worker.signal(Signal::TERM);
    worker.says("stopping now");
    worker.signal(Signal::TERM);
    let ended = worker.end();
    assert_eq!(
        (ended.code(), last_line(&ended).as_str()),
        (
            72,
            "WARN SIGTERM once more: leaving at once; the next start resolves what still runs status=72"
        )
    );
    assert!(begun.elapsed() < AT_ONCE, "it waited for something");
}

/// A task that sleeps when it runs for the first time, and is done with it the second time.
fn second_time_lucky(place: &Place) -> (String, String) {
    let time = format!("86398.{}", std::process::id());
    let file = place.path("first").display().to_string();
    let lines = format!("if [ -e {file} ]; then echo again; else sleep {time} & touch {file}; wait; fi");
    (script(place, "lucky", &lines), time)
}

#[test]
fn what_a_killed_worker_ran_is_resolved_by_the_next_start_and_runs_again() {
    let place = Place::new();
    let killed = worker(&place, &[]);
    let (task, time) = second_time_lucky(&place);
    let task = submit(&place, &task);
    wait_for_file(&place, "first");
    drop(killed);

    let next = worker(&place, &["--number-of-tasks", "1"]);
    let ended = next.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let err = ended.err();
    let recovered: Vec<&str> = err
        .lines()
        .filter(|line| line.contains("left by an earlier process"))
        .collect();
    assert_eq!(recovered.len(), 2, "{err}");
    assert_eq!(
        recovered[1],
        "TIME  WARN left by an earlier process: task TASK run 0: resolved as worker-shutdown"
    );
    assert_eq!(
        afterwards(&place, &task).0,
        ["exception (worker-shutdown)", "completed"]
    );
    assert_eq!(processes_with(&time), Vec::<u32>::new());
}

#[test]
fn recover_does_the_same_without_claiming_anything() {
    let place = Place::new();
    let killed = worker(&place, &[]);
    let task = submit(&place, &until_told(&place, "task"));
    wait_for_file(&place, "task");
    drop(killed);

    let recovered = place.run(&with(&["recover"], &place.native()));
    let out = recovered.out();
    let (first, second) = out.trim_end().split_once('\n').unwrap_or((&out, ""));
    assert_eq!(
        (recovered.code(), recovered.err().as_str(), second),
        (0, "", "task TASK run 0: resolved as worker-shutdown")
    );
    // The task's processes first: the queue may give it to somebody at once.
    assert!(
        first.starts_with("ended ") && first.contains(" DIR/state/worker/"),
        "{first}"
    );
    let again = place.run(&with(&["recover"], &place.native()));
    assert_eq!((again.code(), again.out().as_str()), (0, "nothing was left\n"));
    assert_eq!(
        afterwards(&place, &task).0,
        ["exception (worker-shutdown)", "pending"]
    );
}

#[test]
fn two_workers_do_not_share_a_state_directory() {
    let place = Place::new();
    let worker = worker(&place, &[]);
    place.run(&with(&["run"], &place.native())).refuses(
        73,
        &format!(
            "tcw-host: the state directory DIR/state/worker is in use by another worker (process {}); stop that one, or \
             give this one a directory of its own with --state-directory\n",
            worker.id()
        ),
    );
}

#[test]
fn a_task_that_is_cancelled_is_ended() {
    let place = Place::new();
    let config = place.file("tcw.yml", "worker:\n  cancellationInterval: 1\n");
    let worker = worker(&place, &["--config", &config, "--number-of-tasks", "1"]);
    let task = submit(&place, &until_told(&place, "task"));
    wait_for_file(&place, "task");
    let status = place.run(&["status"]);
    assert!(
        status.out().contains("  TASK/0  running since TIME  task\n"),
        "{}",
        status.out()
    );

    let cancelled = place.run(&["cancel", &task]);
    assert_eq!(
        (
            cancelled.code(),
            cancelled.out().as_str(),
            cancelled.err().as_str()
        ),
        (0, "task TASK: exception (canceled)\n", "")
    );
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(
        afterwards(&place, &task),
        (
            vec!["exception (canceled)".to_owned()],
            LOGS.map(str::to_owned).to_vec()
        )
    );
}

#[test]
fn exec_beside_a_worker_uses_its_queue() {
    let place = Place::new();
    let _worker = worker(&place, &[]);
    let task = script(&place, "beside", "echo beside it");
    let exec = place.run(&with(&["exec", &task], &place.native()));
    assert_eq!(exec.code(), 0, "{}", exec.stderr);
    assert!(exec.stdout.contains("\nbeside it\n"), "{}", exec.stdout);
}

/// A claim is renewed before it expires, however short it is, with the credentials that each renewal brings.
#[test]
fn a_task_that_runs_for_longer_than_a_claim_is_not_lost() {
    let place = Place::new();
    let config = place.file("short.yml", "queue:\n  embedded:\n    claimTimeout: 3 s\n");
    let worker = worker(&place, &["--config", &config, "--number-of-tasks", "1"]);
    let task = submit(&place, &script(&place, "long", "sleep 8"));
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.err());
    assert!(
        ended.err().contains("resolution=Completed reported=true"),
        "{}",
        ended.err()
    );
    let again = place.run(&with(&["run", "--idle-timeout", "1 s"], &place.native()));
    assert_eq!(
        again.code(),
        68,
        "the one run of {task} was enough: {}",
        again.err()
    );
}
