//! Whatever moment the queue's process is killed at: what it has answered is kept, what it has not is done whole or not at
//! all, and nothing half-made is left.

mod kill;
#[path = "../queue_support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;
mod snapshots;

use std::collections::BTreeSet;
use std::path::Path;

use queue_support::caller::Caller;
use serde_json::{Value, json};

const COUNTS: &str = "/task-queues/proj-test%2Flinux/counts";

/// What holds of a state directory, however its last process ended, once a queue has started on it again.
async fn check_whole(state: &Path, caller: &Caller, ids: &[String]) {
    let files = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(state.join("storage").join(folder)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(files("incoming"), BTreeSet::new(), "what broke off is gone");
    let database = rusqlite::Connection::open(state.join("queue.sqlite")).unwrap();
    let text = |query: &str| -> Vec<String> {
        let mut statement = database.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(text("PRAGMA integrity_check"), ["ok"]);
    let known: BTreeSet<String> = text("SELECT file FROM objects").into_iter().collect();
    assert_eq!(files("objects"), known, "each file is somebody's, and is there");
    for (what, query) in [
        (
            "tasks without a definition, or the other way round",
            "SELECT id FROM (SELECT id FROM tasks UNION ALL SELECT id FROM definitions) GROUP BY id HAVING COUNT(*)<>2",
        ),
        (
            "dependencies of nobody",
            "SELECT dependent FROM dependencies WHERE dependent NOT IN (SELECT id FROM tasks)",
        ),
        (
            "artifacts of nobody",
            "SELECT name FROM artifacts WHERE task NOT IN (SELECT id FROM tasks)",
        ),
        (
            "bytes of no artifact",
            "SELECT name FROM objects o WHERE NOT EXISTS
             (SELECT 1 FROM artifacts a WHERE a.task=o.task AND a.run=o.run AND a.name=o.name)",
        ),
        (
            "tasks without their group",
            "SELECT id FROM tasks WHERE task_group NOT IN (SELECT id FROM task_groups)",
        ),
        (
            "tasks that nothing holds back, and that are not scheduled",
            "SELECT id FROM tasks WHERE runs='[]' AND id NOT IN (SELECT dependent FROM dependencies WHERE NOT satisfied)",
        ),
    ] {
        assert_eq!(text(query), [""; 0], "{what}");
    }
    let statuses = statuses(caller, ids).await;
    let in_state = |state: &str| {
        let found = statuses.iter().filter(|status| status["state"] == state);
        found.count()
    };
    let counts = caller.get(COUNTS).await.ok();
    assert_eq!(
        (&counts["pendingTasks"], &counts["claimedTasks"]),
        (&json!(in_state("pending")), &json!(in_state("running")))
    );
}

/// The statuses of those of the tasks that there are.
async fn statuses(caller: &Caller, ids: &[String]) -> Vec<Value> {
    let answer = caller.post("/tasks/status", json!({ "taskIds": ids })).await.ok();
    let entries = answer["statuses"].as_array().unwrap().iter();
    entries.map(|entry| entry["status"].clone()).collect()
}
