//! What the database forgets, and that it is not opened by a version that does not know it.

use super::super::record::Millis;
use super::super::store_artifacts::{ArtifactRow, ObjectRow};
use super::super::store_expiry::Expired;
use super::super::store_workers::{Quarantined, WorkerName};
use super::*;

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("db")).unwrap();
    (directory, store)
}

fn insert(store: &Store, id: &str, expires: Millis, dependencies: &[&str]) {
    let task = Task {
        id: id.to_owned(),
        pool: "p/w".to_owned(),
        scheduler: "-".to_owned(),
        group: id.to_owned(),
        project: "none".to_owned(),
        priority: Priority::High,
        requires: Requires::AllResolved,
        deadline: expires,
        expires,
        retries: 5,
        retries_left: 4,
        position: 7,
        runs: Vec::new(),
    };
    let dependencies: Vec<(String, bool)> = dependencies.iter().map(|id| ((*id).to_owned(), false)).collect();
    store.extend_group(&task.group, "-", expires).unwrap();
    store.insert_task(&task, "{}", &dependencies).unwrap();
    store.db.execute("UPDATE tasks SET active=0", []).unwrap();
    assert_eq!(
        store.task(id).unwrap(),
        Some(task),
        "a task is read as it was written"
    );
}

fn artifact(store: &Store, task: &str, name: &str, expires: Millis) -> ObjectRow {
    let artifact = ArtifactRow {
        name: name.to_owned(),
        storage: "s3".to_owned(),
        content_type: "a/b".to_owned(),
        content_length: None,
        expires,
        detail: String::new(),
    };
    store.put_artifact(task, 0, &artifact).unwrap();
    let object = ObjectRow {
        file: format!("{task}-{name}"),
        content_type: "a/b".to_owned(),
        content_encoding: String::new(),
        length: 10,
        stored: 0,
    };
    store.put_object(task, 0, name, &object).unwrap();
    object
}

#[test]
fn what_has_expired_is_forgotten_with_all_that_belongs_to_it() {
    let (_directory, store) = open();
    insert(&store, "old", 100, &["new"]);
    insert(&store, "new", 300, &["old"]);
    let of_old = artifact(&store, "old", "a", 100);
    let expired_bytes = artifact(&store, "new", "bytes gone", 47);
    let kept = artifact(&store, "new", "kept", 60);

    let expired = Expired {
        before: 200,
        bytes_before: 50,
        artifacts_before: 45,
    };
    let forget_all = |piece: usize| {
        let mut all = Vec::new();
        loop {
            let forgotten = store.forget(expired, piece).unwrap();
            all.extend(forgotten.objects);
            if !forgotten.more {
                break all;
            }
        }
    };
    let mut forgotten = forget_all(1);
    forgotten.sort_by(|a, b| a.file.cmp(&b.file));
    assert_eq!(forgotten, [expired_bytes, of_old]);
    assert_eq!(
        (store.task("old").unwrap(), store.definition("old").unwrap()),
        (None, None)
    );
    assert_eq!(store.group("old").unwrap(), None);
    assert_eq!(store.group("new").unwrap().unwrap().expires, 300);
    assert_eq!(store.waiting_dependents("new").unwrap(), Vec::<String>::new());
    assert!(store.is_blocked("new").unwrap(), "who depends on it still does");
    let names: Vec<String> = store
        .artifacts("new", 0, "", 10)
        .unwrap()
        .into_iter()
        .map(|artifact| artifact.name)
        .collect();
    assert_eq!(names, ["bytes gone", "kept"]);
    assert_eq!(
        (
            store.object("new", 0, "kept").unwrap(),
            store.stored_bytes().unwrap()
        ),
        (Some(kept), 10)
    );
    assert_eq!(forget_all(10), []);
}

#[test]
fn workers_and_task_queues_that_are_not_heard_of_are_forgotten() {
    let (_directory, store) = open();
    let name = |id: &str| WorkerName {
        pool: "p/w".to_owned(),
        group: "g".to_owned(),
        id: id.to_owned(),
    };
    for (id, expires) in [("old", 100), ("quarantined", 100), ("new", 300)] {
        store.see_worker(&name(id), 1, expires).unwrap();
    }
    let mut row = store.worker(&name("quarantined")).unwrap().unwrap();
    row.quarantine_until = 250;
    store.update_worker("p/w", &row).unwrap();
    store.see_queue("p/old", 1, 100).unwrap();
    store.see_queue("p/new", 1, 300).unwrap();
    let expired = Expired {
        before: 200,
        bytes_before: 0,
        artifacts_before: 0,
    };
    store.forget(expired, 10).unwrap();
    let found = store
        .workers("p/w", Quarantined::Either, ("", ""), 0, 10)
        .unwrap();
    let ids: Vec<&str> = found.iter().map(|worker| worker.id.as_str()).collect();
    assert_eq!(ids, ["new", "quarantined"]);
    let found = store.queues("", None, 0, 10).unwrap();
    assert_eq!(
        found.iter().map(|queue| &*queue.name).collect::<Vec<_>>(),
        ["p/new"]
    );
}

/// What version 0.1's first format had written.
#[test]
fn an_older_database_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&format!("{FIRST} PRAGMA user_version=1;"))
        .unwrap();
    let completed = r#"[{"state":"failed"},{"state":"completed"}]"#;
    for (id, all_resolved, runs, active) in [
        ("completed", false, completed, false),
        ("failed", false, r#"[{"state":"failed"}]"#, false),
        ("waits-for-success", false, "[]", true),
        ("waits-for-any-end", true, "[]", true),
    ] {
        old.execute(
            "INSERT INTO tasks VALUES (?1,'p/w','s','group','none',0,?2,50,100,5,5,0,?3,?4)",
            params![id, all_resolved, runs, active],
        )
        .unwrap();
    }
    for dependent in ["waits-for-success", "waits-for-any-end"] {
        for required in ["completed", "failed"] {
            old.execute("INSERT INTO dependencies VALUES (?1,?2)", [required, dependent])
                .unwrap();
        }
    }
    drop(old);

    let store = Store::open(&path).unwrap();
    let group = store.group("group").unwrap().unwrap();
    assert_eq!(
        (group.scheduler.as_str(), group.expires, group.sealed),
        ("s", 100, None)
    );
    assert!(store.is_blocked("waits-for-success").unwrap());
    assert!(!store.is_blocked("waits-for-any-end").unwrap());
    assert_eq!(store.waiting_dependents("failed").unwrap(), ["waits-for-success"]);
}

#[test]
fn a_newer_database_is_left_alone() {
    let (directory, store) = open();
    store.db.execute_batch("PRAGMA user_version=3").unwrap();
    drop(store);
    let Err(error) = Store::open(&directory.path().join("db")) else {
        panic!("a newer format was opened")
    };
    assert!(
        matches!(
            error,
            StartError::NewerDatabase {
                found: 3,
                known: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn something_else_than_a_database_is_said_to_be_unusable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    std::fs::write(
        &path,
        "this has never been a database, and is long enough to be taken for none",
    )
    .unwrap();
    let Err(error) = Store::open(&path) else {
        panic!("a text was opened")
    };
    assert!(matches!(error, StartError::Database { .. }), "{error}");
}
