//! What the database forgets, and that it is not opened by a version that does not know it.

use super::*;

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("db")).unwrap();
    (directory, store)
}

fn insert(store: &Store, id: &str, expires: Millis, dependencies: &[String]) {
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
    store.insert_task(&task, "{}", dependencies).unwrap();
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
    insert(&store, "old", 100, &["new".to_owned()]);
    insert(&store, "new", 300, &["old".to_owned()]);
    let of_old = artifact(&store, "old", "a", 100);
    let expired = artifact(&store, "new", "b", 40);
    let kept = artifact(&store, "new", "c", 60);

    let mut forgotten = store.forget(200, 50).unwrap();
    forgotten.sort_by(|a, b| a.file.cmp(&b.file));
    assert_eq!(forgotten, [expired, of_old]);
    assert_eq!(
        (store.task("old").unwrap(), store.definition("old").unwrap()),
        (None, None)
    );
    assert_eq!(store.dependents("new").unwrap(), Vec::<String>::new());
    assert_eq!(
        store.dependencies("new").unwrap(),
        ["old"],
        "who depends on it still does"
    );
    assert_eq!(store.artifacts("new", 0, "", 10).unwrap().len(), 1);
    assert_eq!(
        (
            store.object("new", 0, "c").unwrap(),
            store.stored_bytes().unwrap()
        ),
        (Some(kept), 10)
    );
    assert_eq!(store.forget(200, 50).unwrap(), []);
}

#[test]
fn a_newer_database_is_left_alone() {
    let (directory, store) = open();
    store.db.execute_batch("PRAGMA user_version=2").unwrap();
    drop(store);
    let Err(error) = Store::open(&directory.path().join("db")) else {
        panic!("a newer format was opened")
    };
    assert!(
        matches!(
            error,
            StartError::NewerDatabase {
                found: 2,
                known: 1,
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
