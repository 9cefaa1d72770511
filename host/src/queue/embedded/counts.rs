//! The calls about what waits in a task queue and what is being worked on. All of it is known by heart, so it is exact.

use serde_json::{Value, json};

use super::core::Core;
use super::error::ApiError;
use super::page::{Page, continued};
use super::record::{Run, iso};
use super::scopes::Need;
use super::server::{Context, Outcome};
use super::tasks::definition_of;
use crate::queue::WorkerPoolId;

pub(super) async fn pending(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:pending-count:{pool}")))?;
    let (pending, _) = count(&context, &pool).await?;
    Ok(Outcome::Json(json!({
        "provisionerId": pool.provisioner(),
        "workerType": pool.worker_type(),
        "taskQueueId": pool,
        "pendingTasks": pending,
    })))
}

pub(super) async fn both(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::All(vec![
        Need::scope(format!("queue:pending-count:{pool}")),
        Need::scope(format!("queue:claimed-count:{pool}")),
    ]))?;
    let (pending, claimed) = count(&context, &pool).await?;
    Ok(Outcome::Json(json!({
        "provisionerId": pool.provisioner(),
        "workerType": pool.worker_type(),
        "taskQueueId": pool,
        "pendingTasks": pending,
        "claimedTasks": claimed,
    })))
}

async fn count(context: &Context, pool: &WorkerPoolId) -> Result<(usize, usize), ApiError> {
    let name = pool.to_string();
    let count = move |core: &mut Core| Ok((core.index.count_pending(&name), core.index.count_claimed(&name)));
    context.server.core.read(count).await
}

/// The entry of a list for a task's last run.
fn entry(core: &Core, id: &str, describe: impl Fn(&Run, &mut Value)) -> Result<Value, ApiError> {
    let task = core.task(id)?;
    let run = task.runs.last();
    let run = run.ok_or_else(|| ApiError::internal(format!("task {id} is listed without a run")))?;
    let mut entry = json!({
        "taskId": id,
        "runId": task.runs.len() - 1,
        "task": definition_of(core, &task)?,
    });
    describe(run, &mut entry);
    Ok(entry)
}

pub(super) async fn list_pending(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:pending-list:{pool}")))?;
    let page = Page::<1>::asked(&context.query)?;
    let after = number(&page.after[0])?;
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        let mut found = core.index.pending(&pool.to_string(), after, wanted.look_for());
        let token = wanted.cut(&mut found, |(position, _)| [position.to_string()]);
        let entries = found.iter().map(|(_, id)| {
            entry(core, id, |run, entry| {
                entry["inserted"] = iso(run.scheduled).into()
            })
        });
        Ok((entries.collect::<Result<Vec<_>, _>>()?, token))
    });
    let (tasks, token) = found.await?;
    Ok(Outcome::Json(continued(json!({ "tasks": tasks }), token)))
}

pub(super) async fn list_claimed(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:claimed-list:{pool}")))?;
    let page = Page::<2>::asked(&context.query)?;
    let after = (number(&page.after[0])?, page.after[1].clone());
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        let mut found = core.index.claimed(&pool.to_string(), &after, wanted.look_for());
        let token = wanted.cut(&mut found, |(time, id)| [time.to_string(), id.clone()]);
        let entries = found.iter().map(|(time, id)| {
            entry(core, id, |run, entry| {
                let (group, worker) = run.worker.as_ref().map_or(("", ""), |(group, id)| (group, id));
                entry["workerGroup"] = group.into();
                entry["workerId"] = worker.into();
                entry["claimed"] = iso(*time).into();
            })
        });
        Ok((entries.collect::<Result<Vec<_>, _>>()?, token))
    });
    let (tasks, token) = found.await?;
    Ok(Outcome::Json(continued(json!({ "tasks": tasks }), token)))
}

/// A number in a continuation token; before the first thing of a list there is the least.
fn number(text: &str) -> Result<i64, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| ApiError::arguments("the continuationToken is not one of this list"))
}
