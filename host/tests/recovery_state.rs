//! State directories that are not as a worker left them: each is refused with a sentence that says what, where and what to
//! do, and nothing in it is changed; or it is gone on with, and that is said too.

mod recovery_support;
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use recovery_support::{Mount, Scene, libraries, names_in, with_engine};
use rusqlite::Connection;
use support::cli::{Ended, Running, processes_with};
use support::{library, patched};
use tcw_host::queue::{Credentials, RunId, TaskId};
use tcw_host::worker::journal::{ClaimRecord, Journal, JournalError};

const LONG: Duration = Duration::from_secs(1200);

/// A task runs, or ran, here.
fn with_a_running_task() -> (Scene, Running) {
    let scene = Scene::new(Some(LONG));
    scene.submit_until_told();
    let worker = scene.start(&["run", "--number-of-tasks", "1"], None);
    scene.wait_until_it_runs();
    (scene, worker)
}

/// A worker was killed here while a task ran.
fn with_a_killed_worker() -> Scene {
    let (scene, worker) = with_a_running_task();
    drop(worker);
    scene
}

fn journal(scene: &Scene) -> PathBuf {
    scene.place.path("state/worker/journal.sqlite")
}

/// Every file below, with its bytes.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(everything(&path));
        } else if kind.is_file() {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// `run` and `recover` refuse the directory with this sentence, and leave what is in it as it is.
#[track_caller]
fn refused(scene: &Scene, said: &str) {
    let before = everything(&scene.place.path("state/worker"));
    for command in ["run", "recover"] {
        scene
            .run(&[command], None)
            .refuses(73, &format!("tcw-host: {said}\n"));
    }
    let after = everything(&scene.place.path("state/worker"));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    // The lock names the process that holds it, or held it last.
    let apart_from_lock = |files: Vec<(PathBuf, Vec<u8>)>| {
        files
            .into_iter()
            .filter(|(path, _)| !path.ends_with("lock"))
            .collect::<Vec<_>>()
    };
    let (before, after) = (apart_from_lock(before), apart_from_lock(after));
    assert_eq!(names(&before), names(&after));
    assert!(before == after, "a file was changed: {:?}", names(&before));
}

#[test]
fn a_directory_in_use_is_refused_and_the_other_process_named() {
    let (scene, worker) = with_a_running_task();
    for command in ["run", "recover"] {
        scene.run(&[command], None).refuses(
            73,
            &format!(
                "tcw-host: the state directory DIR/state/worker is in use by another worker (process {}); stop that one, \
                 or give this one a directory of its own with --state-directory\n",
                worker.id()
            ),
        );
    }
    scene.place.file("go", "");
    assert_eq!(worker.end().code(), 0);
    assert_eq!(scene.runs(), ["completed"]);
}

#[test]
fn a_copy_is_refused_while_something_is_open_in_it() {
    let (scene, worker) = with_a_running_task();
    let copy = scene.place.path("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&scene.place.path("state"), &copy])
        .status()
        .unwrap();
    assert!(copied.success());
    let at_the_copy = |arguments: &[&str]| {
        let mut command = scene.command(arguments, &libraries());
        command.env("TCW_STATE_DIRECTORY", &copy);
        scene.place.start_command(command).end()
    };
    for command in ["run", "recover"] {
        at_the_copy(&[command]).refuses(
            73,
            "tcw-host: the state directory DIR/copy/worker is a copy of DIR/state/worker, and its journal holds tasks and \
             resources of the worker there (1 claim, 1 lease); if that worker is to go on, use an empty state directory \
             here; if it is gone for good, run `tcw-host recover --moved` here once\n",
        );
    }
    assert_eq!(
        processes_with(&scene.mark).len(),
        1,
        "the other worker's task goes on"
    );
    assert_eq!(scene.runs(), ["running"]);

    drop(worker);
    let recovered = at_the_copy(&["recover", "--moved"]);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert!(
        recovered
            .out()
            .ends_with("task TASK run 0: resolved as worker-shutdown\n"),
        "{}",
        recovered.out()
    );
    assert_eq!(processes_with(&scene.mark), Vec::<u32>::new());
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    let again = at_the_copy(&["recover"]);
    assert_eq!((again.code(), again.out().as_str()), (0, "nothing was left\n"));
    // The original has the same claim, which is over, and its own files.
    let original = scene.run(&["recover"], None);
    assert_eq!(original.code(), 0, "{}", original.stderr);
    assert!(
        original
            .out()
            .contains("removed the task directory DIR/state/worker/tmp/"),
        "{}",
        original.out()
    );
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    scene.assert_nothing_left("both are recovered");
}

/// As the snapshots of some file systems are: the number of the inode is the same, the file system is another.
#[tokio::test]
async fn a_snapshot_is_a_copy_as_long_as_the_original_is_there() {
    let place = tempfile::tempdir().unwrap();
    let (original, snapshot) = (place.path().join("original"), place.path().join("snapshot"));
    let (Some(mounted), Some(_other)) = (Mount::small(&original, "4m"), Mount::small(&snapshot, "4m")) else {
        return;
    };
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    assert_eq!(inode(&original), inode(&snapshot), "roots have one number");
    let claim = ClaimRecord {
        task_id: TaskId::random(),
        run_id: RunId(0),
        queue: "http://localhost".to_owned(),
        credentials: Credentials::new("c", "secret"),
    };
    let journal = Journal::open(&original).unwrap();
    journal.claimed(vec![claim.clone()]).await.unwrap();
    drop(journal);
    std::fs::copy(original.join("journal.sqlite"), snapshot.join("journal.sqlite")).unwrap();
    let refused = Journal::open(&snapshot).map(drop);
    assert!(matches!(refused, Err(JournalError::Copy { .. })), "{refused:?}");
    // Renamed, or the file system mounted elsewhere.
    drop(mounted);
    let journal = Journal::open(&snapshot).unwrap();
    assert_eq!(journal.open_claims().await.unwrap(), [claim]);
}

#[test]
fn a_copy_with_nothing_open_in_it_is_a_directory_like_any_other() {
    let scene = Scene::new(Some(LONG));
    scene.submit();
    assert_eq!(scene.run(&["run", "--number-of-tasks", "1"], None).code(), 0);
    let old = scene.place.path("old");
    fs::rename(scene.place.path("state"), &old).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .args([&old, &scene.place.path("state")])
        .status();
    assert!(copied.unwrap().success());
    let ended = scene.run(&["recover"], None);
    assert_eq!(
        (ended.code(), ended.out().as_str()),
        (0, "nothing was left\n"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_directory_that_was_renamed_is_still_the_same() {
    let scene = with_a_killed_worker();
    let renamed = scene.place.path("renamed");
    fs::rename(scene.place.path("state"), &renamed).unwrap();
    let mut command = scene.command(&["recover"], &libraries());
    command.env("TCW_STATE_DIRECTORY", &renamed);
    let recovered = scene.place.start_command(command).end();
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    assert_eq!(processes_with(&scene.mark), Vec::<u32>::new());
    assert_eq!(names_in(&renamed.join("worker/tmp")), Vec::<String>::new());
}

#[test]
fn a_damaged_journal_is_refused_and_left_as_it_is() {
    const REMEDY: &str = "and is left as it is; restore it, or move it away together with \
                          DIR/state/worker/journal.sqlite-wal: what it held is then forgotten, claims of that time expire \
                          at the queue, and what is left on this machine is removed by name";
    let scene = with_a_killed_worker();
    let path = journal(&scene);
    let log = path.with_extension("sqlite-wal");
    // What was committed is in the log alone until then.
    Connection::open(&path)
        .unwrap()
        .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let damaged =
        |found: &str| format!("the journal DIR/state/worker/journal.sqlite is damaged ({found}), {REMEDY}");

    fs::write(
        &path,
        "this is no database, and never was, although it is long enough to be looked at",
    )
    .unwrap();
    refused(&scene, &damaged("file is not a database"));
    fs::write(&path, &whole[..whole.len() / 2 + 100]).unwrap();
    refused(&scene, &damaged("database disk image is malformed"));
    let mut garbled = whole.clone();
    garbled[4096..8192].fill(0x5a);
    fs::write(&path, &garbled).unwrap();
    refused(
        &scene,
        &damaged("Tree 2 page 2: btreeInitPage() returns error code 11"),
    );
    fs::write(&path, "").unwrap();
    fs::write(&log, &whole).unwrap();
    refused(
        &scene,
        &damaged("it has no bytes, but there is a write-ahead log of it"),
    );
    fs::remove_file(&log).unwrap();

    fs::remove_file(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("create table notes (text)")
        .unwrap();
    refused(&scene, &damaged("it is a database of another program"));

    // Restored, it is what it was.
    fs::write(&path, &whole).unwrap();
    let recovered = scene.run(&["recover"], None);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    scene.assert_nothing_left("restored and recovered");
}

#[test]
fn a_journal_of_a_newer_host_is_refused() {
    let scene = with_a_killed_worker();
    let connection = Connection::open(journal(&scene)).unwrap();
    connection.pragma_update(None, "user_version", 7).unwrap();
    drop(connection);
    refused(
        &scene,
        "the journal DIR/state/worker/journal.sqlite was written by a newer tcw-host (form 7, this one knows 1); use that \
         version again, or another state directory",
    );
    assert_eq!(
        processes_with(&scene.mark).len(),
        1,
        "what it may know about is left alone"
    );
}

#[test]
fn what_is_no_directory_of_this_user_alone_is_refused() {
    let scene = Scene::new(Some(LONG));
    let state = scene.place.path("state");
    fs::remove_dir_all(&state).unwrap();

    scene.place.file("state", "a file");
    refused(
        &scene,
        "the state directory DIR/state is not a directory; move away what is there, or choose another one with \
         --state-directory",
    );
    let mut command = scene.command(&["run"], &libraries());
    command.env("TCW_STATE_DIRECTORY", state.join("below"));
    scene.place.start_command(command).end().refuses(
        73,
        "tcw-host: the state directory DIR/state is not a directory; move away what is there, or choose another one with \
         --state-directory\n",
    );
    fs::remove_file(&state).unwrap();

    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).unwrap();
    refused(
        &scene,
        "others can write to the state directory DIR/state (mode 0777): they could change what the worker runs; `chmod \
         go-w DIR/state`, or choose another one with --state-directory",
    );
    fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&state, Some(12345), None).unwrap();
        refused(
            &scene,
            "others can write to the state directory DIR/state (it belongs to the user 12345, and this process runs as \
             0): they could change what the worker runs; run as that user, or `chown -R 0 DIR/state`, or choose another \
             one with --state-directory",
        );
        std::os::unix::fs::chown(&state, Some(0), None).unwrap();
    }
    fs::create_dir_all(state.join("worker/journal.sqlite")).unwrap();
    refused(
        &scene,
        "the state directory DIR/state/worker cannot be used: Is a directory (os error 21); make it writable for the \
         worker, or choose another one with --state-directory",
    );
}

#[test]
fn a_link_and_a_missing_parent_are_fine_and_an_empty_journal_is_said() {
    let scene = Scene::new(Some(LONG));
    let (state, real) = (scene.place.path("state"), scene.place.path("a/b/real"));
    let libraries = state.join("libraries");
    let mut command = scene.command(&["recover"], &recovery_support::libraries());
    command.env("TCW_STATE_DIRECTORY", &real);
    let made = scene.place.start_command(command).end();
    assert_eq!(
        (made.code(), made.out().as_str()),
        (0, "nothing was left\n"),
        "{}",
        made.stderr
    );
    fs::rename(libraries, scene.place.path("libraries")).unwrap();
    fs::remove_dir_all(&state).unwrap();
    symlink(&real, &state).unwrap();
    let ended = scene.run(&["recover"], None);
    assert_eq!(
        (ended.code(), ended.out().as_str()),
        (0, "nothing was left\n"),
        "{}",
        ended.stderr
    );

    // With its log, if the last process did not get to put that away.
    for name in names_in(&scene.place.path("state/worker")) {
        if name.starts_with("journal.sqlite-") {
            fs::remove_file(scene.place.path("state/worker").join(name)).unwrap();
        }
    }
    fs::write(journal(&scene), "").unwrap();
    let ended = scene.run(&["recover"], None);
    assert_eq!((ended.code(), ended.out().as_str()), (0, "nothing was left\n"));
    assert!(
        ended.err().contains(
            "the journal is empty although this state directory was used: what it held is lost. Claims of that time \
             expire at the queue; what is left on this machine is removed by name"
        ),
        "{}",
        ended.err()
    );
}

#[test]
fn a_read_only_file_system_is_refused() {
    let scene = with_a_killed_worker();
    let Some(mount) = Mount::read_only(&scene.place.path("state")) else {
        return;
    };
    for command in ["run", "recover"] {
        scene.run(&[command], None).refuses(
            73,
            "tcw-host: the state directory DIR/state/worker cannot be used: Read-only file system (os error 30); mount it \
             writable, or choose another one with --state-directory\n",
        );
    }
    drop(mount);
    let recovered = scene.run(&["recover"], None);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    scene.assert_nothing_left("writable again");
}

#[test]
fn a_full_disk_at_the_start_is_said_and_nothing_is_lost() {
    let scene = with_a_killed_worker();
    let small = scene.place.path("small");
    let Some(mount) = Mount::small(&small, "2m") else {
        return;
    };
    // The journal and all that it knows of, on a disk without a byte to spare.
    let worker = scene.place.path("state/worker");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&worker, &small])
        .status()
        .unwrap();
    assert!(copied.success());
    mount.fill();
    let mut command = scene.command(&["recover", "--moved"], &libraries());
    command.env("TCW_STATE_DIRECTORY", &small);
    scene.place.start_command(command).end().refuses(
        73,
        "tcw-host: the journal DIR/small/worker/journal.sqlite cannot be used: database or disk is full; free some space \
         there\n",
    );
    mount.make_room();
    let mut command = scene.command(&["recover", "--moved"], &libraries());
    command.env("TCW_STATE_DIRECTORY", &small);
    let ended = scene.place.start_command(command).end();
    // There is room for the journal, not for libraries.
    assert!(
        ended
            .said()
            .contains("the library store cannot be written: No space left on device (os error 28)")
            && ended
                .said()
                .contains("free some space there, or choose another state directory"),
        "{}",
        ended.said()
    );
    assert_eq!(ended.code(), 73);
    assert_eq!(processes_with(&scene.mark).len(), 1);
    assert_eq!(scene.runs(), ["running"]);
}

/// After a power loss the journal may have lost its last lines. Here it has lost all, and the processes are there still.
fn found_by_its_name(own_directory: bool) {
    let (mine, other) = (Scene::new(Some(LONG)), Scene::new(Some(LONG)));
    // Two workers may have the same.
    let tasks = mine.place.path("own/tasks");
    let configuration = if own_directory {
        format!("engine:\n  tasksDirectory: {}\n", tasks.display())
    } else {
        "{}\n".to_owned()
    };
    let file = mine.place.file("tcw.yml", &configuration);
    let [killed, worker] = [&mine, &other].map(|scene| {
        scene.submit_until_told();
        let worker = scene.start(&["run", "--number-of-tasks", "1", "--config", &file], None);
        scene.wait_until_it_runs();
        worker
    });
    drop(killed);
    let directory = mine.place.path("state/worker");
    for name in names_in(&directory) {
        if name.starts_with("journal") {
            fs::remove_file(directory.join(name)).unwrap();
        }
    }
    assert_eq!(processes_with(&mine.mark).len(), 1);
    let recovered = mine.run(&["recover", "--config", &file], None);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    let out = recovered.out();
    assert!(
        out.contains(" processes of earlier tasks, which no lease names\n"),
        "{out}"
    );
    assert_eq!(
        out.contains("removed the task directory DIR/own/tasks/task_"),
        own_directory,
        "{out}"
    );
    assert_eq!(processes_with(&mine.mark), Vec::<u32>::new());
    for folder in ["tmp", "tasks"] {
        assert_eq!(names_in(&directory.join(folder)), Vec::<String>::new());
    }
    assert_eq!(
        names_in(&tasks).len(),
        usize::from(own_directory),
        "the other worker's is there"
    );

    assert_eq!(processes_with(&other.mark).len(), 1);
    other.place.file("go", "");
    assert_eq!(worker.end().code(), 0);
    assert_eq!(other.runs(), ["completed"]);
    assert_eq!(names_in(&tasks), Vec::<String>::new());
}

#[test]
fn processes_and_folders_that_no_lease_names_are_found_by_their_names() {
    found_by_its_name(false);
}

#[test]
fn the_same_in_a_directory_that_two_workers_share() {
    found_by_its_name(true);
}

/// The version that wrote a lease undoes it, as long as the store has it.
#[test]
fn leases_are_undone_by_the_library_that_wrote_them() {
    let newer = tempfile::tempdir().unwrap();
    let file = newer.path().join("libnative_engine.so");
    patched(
        &library("native_engine"),
        &file,
        b"processes that were left",
        b"processes of an old one.",
    );
    let newer = with_engine(&file);
    let recover = |scene: &Scene, libraries: &[String]| -> Ended {
        scene
            .place
            .start_command(scene.command(&["recover"], libraries))
            .end()
    };

    let scene = with_a_killed_worker();
    let recovered = recover(&scene, &newer);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert!(
        recovered.stdout.contains(" processes that were left"),
        "{}",
        recovered.stdout
    );
    scene.assert_nothing_left("undone by the stored library");

    // It is gone, so its successor has to do.
    let scene = with_a_killed_worker();
    let stored = scene.place.path("state/libraries");
    for name in names_in(&stored) {
        let path = stored.join(&name);
        if path.join("libnative_engine.so").exists() {
            fs::remove_dir_all(&path).unwrap();
        }
    }
    let recovered = recover(&scene, &newer);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    let out = recovered.out();
    assert!(
        out.starts_with(
            "the version of 'native' that an earlier process used is not to be had (DIR/state/libraries/SHA256: the \
             library is not in the store any more"
        ) && out.contains(" processes of an old one."),
        "{out}"
    );
    scene.assert_nothing_left("undone by the successor");

    // A worker with another engine has the stored one undo it, too.
    let scene = with_a_killed_worker();
    let recovered = recover(&scene, &with_engine(&library("mock_engine")));
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert!(
        recovered.stdout.contains(" processes that were left"),
        "{}",
        recovered.stdout
    );
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    scene.assert_nothing_left("undone by the stored library of another engine");
}

/// The client asks again for more than half a minute.
#[test]
#[ignore = "slow: tests/run.sh --full"]
fn a_claim_is_kept_while_the_queue_is_away_and_recover_says_so() {
    let mut scene = with_a_killed_worker();
    let root_url = scene.take_queue_away();
    let away = scene.run(&["recover"], None);
    let out = away.out();
    assert!(
        out.contains("\ntask TASK run 0: ")
            && out.ends_with("; what was claimed stays in the journal\n1 thing is left for the next time\n"),
        "{out}"
    );
    assert_eq!((away.code(), scene.journaled()), (1, (1, 0)), "{out}");
    scene.bring_queue_back(&root_url);
    let json = scene.run(&["recover", "--log-format", "json"], None);
    let said: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let expected = format!("task {} run 0: resolved as worker-shutdown", scene.task);
    assert_eq!(
        (json.code(), &said),
        (0, &serde_json::json!({"messages": [expected], "left": 0})),
        "{}",
        json.stderr
    );
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    let none = scene.run(&["recover", "--log-format", "json"], None);
    assert_eq!(
        (none.code(), none.stdout.as_str()),
        (0, "{\"left\":0,\"messages\":[]}\n")
    );
}

/// As after a power cut that the worker comes back from first.
#[test]
#[ignore = "slow: tests/run.sh --full"]
fn a_worker_that_is_started_before_its_queue_tells_it_when_it_is_there() {
    let mut scene = with_a_killed_worker();
    let root_url = scene.take_queue_away();
    let worker = scene.start(&["run"], None);
    worker.says("what was claimed stays in the journal");
    worker.says("waiting for tasks");
    scene.bring_queue_back(&root_url);
    worker.says("run 0: resolved as worker-shutdown");
    // Which is for this worker, too.
    worker.says("claimed task_id");
    scene.place.file("go", "");
    worker.says("resolution=Completed");
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.end().code(), 72);
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "completed"]);
    scene.assert_nothing_left("told later");
}

/// What is named in the journal and in environments has to mean the same for everybody.
#[test]
fn a_task_of_a_worker_with_a_relative_state_directory_has_absolute_paths() {
    let scene = Scene::new(Some(LONG));
    scene.submit_script("case \"$TASK_WORKDIR\" in /*/state/worker/tmp/*) ;; *) exit 1;; esac");
    let mut command = scene.command(&["run", "--number-of-tasks", "1"], &libraries());
    command.env("TCW_STATE_DIRECTORY", "state");
    let ended = scene.place.start_command(command).end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"]);
}
