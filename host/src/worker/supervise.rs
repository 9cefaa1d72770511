//! Keeping a task's claim while it runs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;

use super::journal::Journal;
use crate::queue::{Claim, Outage, QueueError, Reclaimed, TaskQueue};
use crate::task::{TaskControl, TaskEvent, TaskReport};

/// A call that renews a claim has at least this long, also when the clocks here and there differ.
const LEAST_BOUND: Duration = Duration::from_secs(5);

/// Between two renewals, also when the clocks differ.
const LEAST_PAUSE: Duration = Duration::from_millis(400);

/// Reclaims before a third of the claim's time is left, whatever its length, and watches the deadline, until the task
/// is resolved. `None` if it never will be, because its own code failed.
pub(super) async fn keep_claim(
    claim: Claim,
    queue: &dyn TaskQueue,
    control: TaskControl,
    journal: &Journal,
) -> Option<TaskReport> {
    let mut taken_until = claim.taken_until;
    let mut failures = 0;
    let mut outage = Outage::default();
    let resolved = control.resolved();
    tokio::pin!(resolved);
    let deadline = tokio::time::sleep(until(claim.task.deadline));
    tokio::pin!(deadline);
    let mut past_deadline = false;
    let mut lost = false;
    let mut wait = before_expiry(taken_until);
    loop {
        tokio::select! {
            report = &mut resolved => return report,
            () = &mut deadline, if !past_deadline => {
                past_deadline = true;
                control.send(TaskEvent::Deadline);
            }
            () = tokio::time::sleep(wait), if !lost && !past_deadline => {
                // The report of a task that ends while this call is under way does not wait for it.
                let outcome = tokio::select! {
                    report = &mut resolved => return report,
                    outcome = renew(queue, taken_until) => outcome,
                };
                match outcome {
                    Ok(reclaimed) => {
                        failures = 0;
                        outage.ended();
                        taken_until = reclaimed.taken_until;
                        wait = before_expiry(taken_until);
                        let written =
                            journal.reclaimed(claim.task_id().clone(), claim.run_id, reclaimed.credentials).await;
                        if let Err(error) = written {
                            tracing::error!(task_id = %claim.task_id(), %error, "new credentials are not written down");
                        }
                    }
                    // It may be our own report that has ended the run, its answer lost. What the queue says to the next
                    // attempt at it decides; there is no claim any more, so its time is the bound for that.
                    Err(QueueError::Conflict { .. }) if control.status().reporting && Utc::now() < taken_until => {
                        tracing::debug!(task_id = %claim.task_id(), "the run is over while its end is being reported");
                        wait = until(taken_until);
                    }
                    Err(error) if error.is_transient() && Utc::now() < taken_until => {
                        failures += 1;
                        wait = Duration::from_secs(failures).min(until(taken_until));
                        if outage.failed() {
                            tracing::warn!(task_id = %claim.task_id(), %error, "the claim could not be renewed; trying again");
                        }
                    }
                    Err(error) => {
                        lost = true;
                        tracing::warn!(task_id = %claim.task_id(), %error, "the claim is lost");
                        control.send(why(&error, &claim));
                    }
                }
            }
        }
    }
}

/// Renews the claim within a third of the time that it has left: one request that hangs must not cost it.
async fn renew(queue: &dyn TaskQueue, taken_until: DateTime<Utc>) -> Result<Reclaimed, QueueError> {
    let left = until(taken_until);
    let bound = if left.is_zero() {
        LEAST_BOUND
    } else {
        (left / 3).max(Duration::from_secs(1))
    };
    match tokio::time::timeout(bound, queue.reclaim()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(QueueError::Unavailable {
            at: "reclaimTask".to_owned(),
            attempts: 1,
            message: format!("the queue did not answer within {:.1} s", bound.as_secs_f64()),
        }),
    }
}

/// A conflict means that the run was resolved by somebody else; whether by its deadline can be told here.
fn why(error: &QueueError, claim: &Claim) -> TaskEvent {
    match error {
        QueueError::Conflict { .. } if Utc::now() >= claim.task.deadline => TaskEvent::Deadline,
        QueueError::Conflict { .. } => TaskEvent::Cancelled,
        _ => TaskEvent::ClaimLost,
    }
}

/// Some time before a third of what is left is left; not the same for tasks that were claimed together.
fn before_expiry(taken_until: DateTime<Utc>) -> Duration {
    let wait = until(taken_until).mul_f64(rand::rng().random_range(0.5..0.62));
    wait.max(LEAST_PAUSE)
}

fn until(time: DateTime<Utc>) -> Duration {
    (time - Utc::now()).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::queue::{
        ArtifactCreated, ArtifactRequest, Credentials, ExceptionReason, RunId, TaskId, TaskStatus, Upload,
        UploadBody,
    };
    use crate::task::task_control;

    /// Says that the run is over, or what was written down for it to say.
    #[derive(Default)]
    struct Scripted {
        asked: AtomicUsize,
        says: Mutex<VecDeque<Result<Reclaimed, QueueError>>>,
        silent: bool,
    }

    #[async_trait]
    impl TaskQueue for Scripted {
        fn task_id(&self) -> &TaskId {
            unreachable!()
        }
        fn run_id(&self) -> RunId {
            unreachable!()
        }
        fn credentials(&self) -> Credentials {
            unreachable!()
        }
        fn set_credentials(&self, _: Credentials) {}
        async fn reclaim(&self) -> Result<Reclaimed, QueueError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.silent {
                std::future::pending::<()>().await;
            }
            let next = self.says.lock().unwrap().pop_front();
            next.unwrap_or_else(|| {
                Err(QueueError::Conflict {
                    at: "POST reclaim".to_owned(),
                    message: "resolved".to_owned(),
                })
            })
        }
        async fn report_completed(&self) -> Result<TaskStatus, QueueError> {
            unreachable!()
        }
        async fn report_failed(&self) -> Result<TaskStatus, QueueError> {
            unreachable!()
        }
        async fn report_exception(&self, _: ExceptionReason) -> Result<TaskStatus, QueueError> {
            unreachable!()
        }
        async fn create_artifact(&self, _: &str, _: &ArtifactRequest) -> Result<ArtifactCreated, QueueError> {
            unreachable!()
        }
        async fn upload(&self, _: &Upload, _: UploadBody) -> Result<(), QueueError> {
            unreachable!()
        }
        async fn signed_request(
            &self,
            _: reqwest::Method,
            _: reqwest::Url,
            _: reqwest::header::HeaderMap,
            _: reqwest::Body,
            _: Option<&[String]>,
        ) -> Result<reqwest::Response, QueueError> {
            unreachable!()
        }
    }

    fn claim(seconds: i64) -> Claim {
        let now = Utc::now();
        let later = now + chrono::Duration::hours(1);
        serde_json::from_value(json!({
            "status": {
                "taskId": TaskId::random(), "taskQueueId": "a/b", "state": "running", "retriesLeft": 5,
                "deadline": later, "expires": later, "runs": [],
            },
            "runId": 0, "workerGroup": "g", "workerId": "w", "takenUntil": now + chrono::Duration::seconds(seconds),
            "task": {
                "taskQueueId": "a/b", "created": now, "deadline": later, "expires": later, "payload": {},
                "metadata": {"name": "n", "description": "d", "owner": "o", "source": "s"},
            },
            "credentials": {"clientId": "task", "accessToken": "secret"},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_conflict_ends_a_task_unless_it_may_come_from_its_own_report() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        for reporting in [false, true] {
            let (control, receiver) = task_control();
            if reporting {
                receiver.begin_report();
            }
            let queue = Scripted::default();
            let keeping = keep_claim(claim(3), &queue, control, &journal);
            let heard = async {
                // Asked after about half of the claim's three seconds.
                while queue.asked.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                let early = receiver.event();
                tokio::time::sleep(Duration::from_millis(1500)).await;
                (early, receiver.event())
            };
            let (early, late) = tokio::select! {
                _ = keeping => panic!("nobody has resolved the task"),
                heard = heard => heard,
            };
            // It is not asked for ever: the end of the claim is the end.
            assert_eq!(early, (!reporting).then_some(TaskEvent::Cancelled));
            assert_eq!(late, Some(TaskEvent::Cancelled));
        }
    }

    fn reclaimed(seconds: i64) -> Reclaimed {
        Reclaimed {
            taken_until: Utc::now() + chrono::Duration::seconds(seconds),
            credentials: Credentials::new("task", "the next secret"),
            status: claim(seconds).status,
        }
    }

    fn away() -> QueueError {
        QueueError::Unavailable {
            at: "POST reclaim".to_owned(),
            attempts: 1,
            message: "refused".to_owned(),
        }
    }

    /// Keeps a claim until the task is given up; answers why, and how often the queue was asked.
    async fn kept(says: Vec<Result<Reclaimed, QueueError>>, seconds: i64) -> (Option<TaskEvent>, usize) {
        let queue = Scripted {
            says: Mutex::new(says.into()),
            ..Scripted::default()
        };
        kept_by(queue, seconds).await
    }

    async fn kept_by(queue: Scripted, seconds: i64) -> (Option<TaskEvent>, usize) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let (control, receiver) = task_control();
        let given_up = async {
            while receiver.event().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = keep_claim(claim(seconds), &queue, control, &journal) => panic!("nobody has resolved the task"),
            () = given_up => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("the task is not given up"),
        }
        (receiver.event(), queue.asked.load(Ordering::SeqCst))
    }

    #[test]
    fn a_claim_is_renewed_before_a_third_of_its_time_is_left_whatever_its_length() {
        for seconds in [5, 6, 10, 30, 60, 300, 1200] {
            for _ in 0..200 {
                let length = chrono::Duration::seconds(seconds);
                let wait = before_expiry(Utc::now() + length).as_secs_f64();
                let share = wait / length.as_seconds_f64();
                assert!((0.4..2.0 / 3.0).contains(&share), "{share} of {seconds} s");
            }
        }
    }

    #[tokio::test]
    async fn a_queue_that_is_away_is_asked_until_the_claim_ends_and_one_that_is_back_keeps_it() {
        // Away twice, then back; then away for good.
        let mut says = vec![Err(away()), Err(away()), Ok(reclaimed(8))];
        says.extend((0..1000).map(|_| Err(away())));
        let (event, asked) = kept(says, 4).await;
        assert_eq!(event, Some(TaskEvent::ClaimLost));
        assert!((5..20).contains(&asked), "it was asked {asked} times");
    }

    #[tokio::test]
    async fn a_queue_that_never_answers_does_not_keep_a_task_running_without_a_claim() {
        let silent = Scripted {
            silent: true,
            ..Scripted::default()
        };
        let (event, asked) = kept_by(silent, 3).await;
        assert_eq!(event, Some(TaskEvent::ClaimLost));
        // Each attempt has at least a second, and three are all that there are.
        assert!((1..=3).contains(&asked), "it was asked {asked} times");
    }

    #[tokio::test]
    async fn a_claim_that_is_refused_for_good_is_lost_at_once() {
        let refused = QueueError::Unauthorized {
            at: "POST reclaim".to_owned(),
            status: 403,
            message: "not yours".to_owned(),
        };
        assert_eq!(kept(vec![Err(refused)], 3).await, (Some(TaskEvent::ClaimLost), 1));
    }
}
