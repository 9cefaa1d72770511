use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use std::fs;

use super::*;

fn claim(run: u32) -> ClaimRecord {
    ClaimRecord {
        task_id: "fN1SbArXTPSVFNUvaOlinQ".parse().unwrap(),
        run_id: RunId(run),
        queue: "http://localhost".into(),
        credentials: serde_json::from_value(json!({"clientId": "c", "accessToken": "secret"})).unwrap(),
    }
}

#[tokio::test]
async fn claims_and_leases_outlive_the_process_until_they_are_resolved() {
    let directory = tempfile::tempdir().unwrap();
    let lease = OwnedLease {
        library: "native".into(),
        sha256: "00".into(),
        lease: LeaseRecord {
            id: "l".into(),
            schema_version: 2,
            data: json!({"user": "task_1"}),
        },
    };
    {
        let journal = Journal::open(directory.path()).unwrap();
        journal.claimed(vec![claim(0), claim(1)]).await.unwrap();
        journal.resolved(claim(0).task_id, RunId(0)).await.unwrap();
        journal.lease(lease.clone()).await.unwrap();
    }
    let journal = Journal::open(directory.path()).unwrap();
    assert_eq!(journal.open_claims().await.unwrap(), [claim(1)]);
    assert_eq!(journal.open_leases().await.unwrap(), [lease]);
    journal.release("l".into()).await.unwrap();
    assert_eq!(journal.open_leases().await.unwrap(), []);
    let mode = fs::metadata(directory.path().join("journal.sqlite"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_directory_in_use_a_newer_file_and_a_damaged_one_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    assert!(matches!(
        Journal::open(directory.path()),
        Err(JournalError::Locked { pid, .. }) if pid == Some(std::process::id())
    ));
    drop(journal);

    let path = directory.path().join("journal.sqlite");
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    assert!(matches!(
        Journal::open(directory.path()),
        Err(JournalError::Newer { found: 7, .. })
    ));

    fs::write(
        &path,
        "not a database, although it is long enough to be looked at",
    )
    .unwrap();
    assert!(matches!(
        Journal::open(directory.path()),
        Err(JournalError::Damaged { .. })
    ));
}
