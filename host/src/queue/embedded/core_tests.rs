//! What the thread does when something cannot be written, or turns out halfway to be wrong.

use super::*;
use crate::queue::{Priority, Requires};

/// Nothing here may take this long.
const BOUND: Duration = Duration::from_secs(60);

fn pending(core: &mut Core, id: &str, deadline: Millis) -> Result<(), ApiError> {
    let mut task = Task {
        id: id.to_owned(),
        pool: "p/w".to_owned(),
        scheduler: "-".to_owned(),
        group: "g".to_owned(),
        project: "none".to_owned(),
        priority: Priority::High,
        requires: Requires::AllCompleted,
        deadline,
        expires: deadline,
        retries: 5,
        retries_left: 5,
        position: 0,
        runs: Vec::new(),
    };
    task.schedule(ReasonCreated::Scheduled, core.now());
    core.add(&mut task, "{}", &[])
}

fn start() -> (tempfile::TempDir, CoreHandle) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("db")).unwrap();
    (directory, CoreHandle::start(store).unwrap())
}

async fn states(core: &CoreHandle, ids: &'static [&str]) -> Vec<TaskState> {
    let states = core.read(|core| ids.iter().map(|id| Ok(core.task(id)?.state())).collect());
    let states = tokio::time::timeout(BOUND, states).await;
    states.expect("the thread answers").unwrap()
}

/// A deadline that passes while the tasks of a group are cancelled one after the other is a refusal after changes.
#[tokio::test]
async fn a_refusal_after_a_change_leaves_no_task_out_of_the_line() {
    let (_directory, core) = start();
    let deadline = now() + 3_600_000;
    core.write(move |core| pending(core, "a", deadline))
        .await
        .unwrap();
    let refused = core.write(|core| {
        let mut task = core.task("a")?;
        task.cancel(core.now())?;
        core.changed(&mut task)?;
        Err::<(), _>(ApiError::conflict("the next one cannot be cancelled"))
    });
    assert_eq!(refused.await.unwrap_err().code, "RequestConflict");
    assert_eq!(states(&core, &["a"]).await, [TaskState::Pending]);
    let known = core.read(|core| {
        let timer = core.index.next_timer().map(|(time, _)| *time);
        Ok((core.next_pending("p/w"), timer))
    });
    assert_eq!(known.await.unwrap(), (Some("a".to_owned()), Some(deadline)));
    core.stop();
}

/// Each failure builds the index anew, and with it every timer that has passed.
#[tokio::test]
async fn what_is_due_and_cannot_be_written_keeps_nobody_from_reading() {
    let (_directory, core) = start();
    let ids = &["a", "b", "c"];
    let deadline = now() + 3_600_000;
    for id in ids {
        core.write(move |core| pending(core, id, deadline)).await.unwrap();
    }
    // Like a full disk: a transaction can begin, and what is written in it fails.
    let sql = |text: &'static str| core.read(move |core| Ok(core.store.db.execute_batch(text)?));
    sql("CREATE TEMP TRIGGER full BEFORE UPDATE ON tasks BEGIN SELECT RAISE(FAIL, 'no room'); END")
        .await
        .unwrap();
    let advanced = core.advance(Duration::from_secs(3700));
    let advanced = tokio::time::timeout(BOUND, advanced).await;
    advanced.expect("the thread answers").unwrap();
    assert_eq!(states(&core, ids).await, [TaskState::Pending; 3]);
    // Once it can be written again, it is.
    sql("DROP TRIGGER full").await.unwrap();
    core.advance(Duration::from_secs(6)).await.unwrap();
    assert_eq!(states(&core, ids).await, [TaskState::Exception; 3]);
    core.stop();
}
