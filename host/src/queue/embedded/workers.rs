//! The calls about workers and task queues. Both are known from the claims that are made; nothing has to be set up, and
//! what is no longer heard of is forgotten.

use serde_json::{Value, json};

use super::claims::Claimed;
use super::core::Core;
use super::definition::parse_time;
use super::error::ApiError;
use super::page::{Page, continued};
use super::record::{Millis, iso};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome};
use super::store_workers::{QuarantineDetail, Quarantined, QueueRow, RecentTask, WorkerName, WorkerRow};
use crate::queue::WorkerPoolId;

const DAY: Millis = 24 * 3600 * 1000;
/// How long a task queue is known that nobody claims from.
const QUEUE_LIFE: Millis = 5 * DAY;
/// How long a worker is known that does not claim.
const WORKER_LIFE: Millis = DAY;
/// How many claimed runs are remembered of a worker.
const RECENT: usize = 20;
/// How many changes of its quarantine are remembered of a worker.
const MOST_DETAILS: usize = 50;

/// Notes that a worker has called.
pub(super) fn seen(core: &Core, worker: &WorkerName) -> Result<(), ApiError> {
    let now = core.now();
    core.store.see_queue(&worker.pool, now, now + QUEUE_LIFE)?;
    core.store.see_worker(worker, now, now + WORKER_LIFE)?;
    Ok(())
}

pub(super) fn is_quarantined(core: &Core, worker: &WorkerName) -> Result<bool, ApiError> {
    let until = core.store.quarantined_until(worker)?;
    Ok(until.is_some_and(|until| until > core.now()))
}

/// Remembers what a worker that has been seen has claimed.
pub(super) fn has_claimed(core: &Core, worker: &WorkerName, claimed: &[Claimed]) -> Result<(), ApiError> {
    if claimed.is_empty() {
        return Ok(());
    }
    let Some(mut row) = core.store.worker(worker)? else {
        return Ok(());
    };
    row.recent_tasks.extend(claimed.iter().map(|claimed| RecentTask {
        task_id: claimed.task_id().to_owned(),
        run_id: claimed.run_id(),
    }));
    let too_many = row.recent_tasks.len().saturating_sub(RECENT);
    row.recent_tasks.drain(..too_many);
    row.last_active = core.now();
    Ok(core.store.update_worker(&worker.pool, &row)?)
}

fn describe_queue(queue: &QueueRow) -> Value {
    json!({
        "taskQueueId": queue.name,
        "description": "",
        "stability": "experimental",
        "expires": iso(queue.expires),
        "lastDateActive": iso(queue.last_active),
    })
}

fn describe_worker_type(queue: &QueueRow) -> Value {
    let (provisioner, worker_type) = queue.name.split_once('/').unwrap_or((&queue.name, ""));
    let mut answer = describe_queue(queue);
    answer["provisionerId"] = provisioner.into();
    answer["workerType"] = worker_type.into();
    answer
}

fn describe_provisioner(provisioner: &QueueRow) -> Value {
    json!({
        "provisionerId": provisioner.name,
        "description": "",
        "stability": "experimental",
        "expires": iso(provisioner.expires),
        "lastDateActive": iso(provisioner.last_active),
    })
}

/// What comes right after a text, and after nothing else.
fn right_after(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{text}\0")
    }
}

pub(super) async fn list_queues(context: Context) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope("queue:list-task-queues"))?;
    let page = Page::<1>::asked(&context.query)?;
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        let from = right_after(&wanted.after[0]);
        Ok(core.store.queues(&from, None, core.now(), wanted.look_for())?)
    });
    let mut found = found.await?;
    let token = page.cut(&mut found, |queue| [queue.name.clone()]);
    let queues: Vec<Value> = found.iter().map(describe_queue).collect();
    Ok(Outcome::Json(continued(json!({ "taskQueues": queues }), token)))
}

async fn find_queue(context: &Context, pool: &WorkerPoolId) -> Result<QueueRow, ApiError> {
    let name = pool.to_string();
    let found = context.server.core.read(move |core| {
        let end = right_after(&name);
        Ok(core.store.queues(&name, Some(&end), core.now(), 1)?)
    });
    found.await?.pop().ok_or_else(|| {
        ApiError::not_found(format!("no worker has claimed from the task queue {pool} lately"))
    })
}

pub(super) async fn get_queue(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:get-task-queue:{pool}")))?;
    Ok(Outcome::Json(describe_queue(&find_queue(&context, &pool).await?)))
}

pub(super) async fn get_worker_type(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:get-worker-type:{pool}")))?;
    Ok(Outcome::Json(describe_worker_type(
        &find_queue(&context, &pool).await?,
    )))
}

pub(super) async fn list_worker_types(context: Context, provisioner: String) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:list-worker-types:{provisioner}")))?;
    let page = Page::<1>::asked(&context.query)?;
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        // All names that begin with the provisioner's and a slash; the character after the slash ends them.
        let (first, end) = (format!("{provisioner}/"), format!("{provisioner}0"));
        let from = right_after(&wanted.after[0]).max(first);
        Ok(core
            .store
            .queues(&from, Some(&end), core.now(), wanted.look_for())?)
    });
    let mut found = found.await?;
    let token = page.cut(&mut found, |queue| [queue.name.clone()]);
    let types: Vec<Value> = found.iter().map(describe_worker_type).collect();
    Ok(Outcome::Json(continued(json!({ "workerTypes": types }), token)))
}

pub(super) async fn list_provisioners(context: Context) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope("queue:list-provisioners"))?;
    let page = Page::<1>::asked(&context.query)?;
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        Ok(core
            .store
            .provisioners(&wanted.after[0], core.now(), wanted.look_for())?)
    });
    let mut found = found.await?;
    let token = page.cut(&mut found, |provisioner| [provisioner.name.clone()]);
    let provisioners: Vec<Value> = found.iter().map(describe_provisioner).collect();
    Ok(Outcome::Json(continued(
        json!({ "provisioners": provisioners }),
        token,
    )))
}

pub(super) async fn get_provisioner(context: Context, provisioner: String) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:get-provisioner:{provisioner}")))?;
    let found = context.server.core.read(move |core| {
        let (first, end) = (format!("{provisioner}/"), format!("{provisioner}0"));
        let queues = core.store.queues(&first, Some(&end), core.now(), usize::MAX)?;
        let last_active = queues.iter().map(|queue| queue.last_active).max();
        let expires = queues.iter().map(|queue| queue.expires).max();
        let (Some(last_active), Some(expires)) = (last_active, expires) else {
            return Err(ApiError::not_found(format!(
                "no worker has claimed from a task queue of provisioner {provisioner} lately"
            )));
        };
        Ok(QueueRow {
            name: provisioner,
            last_active,
            expires,
        })
    });
    Ok(Outcome::Json(describe_provisioner(&found.await?)))
}

pub(super) async fn list_workers(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:list-workers:{pool}")))?;
    let page = Page::<2>::asked(&context.query)?;
    let quarantined = match context.query.quarantined {
        Some(true) => Quarantined::Only,
        Some(false) => Quarantined::Never,
        None => Quarantined::Either,
    };
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        let after = (wanted.after[0].as_str(), wanted.after[1].as_str());
        let (pool, now) = (pool.to_string(), core.now());
        let found = core
            .store
            .workers(&pool, quarantined, after, now, wanted.look_for())?;
        Ok((found, now))
    });
    let (mut found, now) = found.await?;
    let token = page.cut(&mut found, |worker| [worker.group.clone(), worker.id.clone()]);
    let workers: Vec<Value> = found.iter().map(|worker| worker_entry(worker, now)).collect();
    Ok(Outcome::Json(continued(json!({ "workers": workers }), token)))
}

fn worker_entry(worker: &WorkerRow, now: Millis) -> Value {
    let mut entry = json!({
        "workerGroup": worker.group,
        "workerId": worker.id,
        "firstClaim": iso(worker.first_claim),
        "lastDateActive": iso(worker.last_active),
    });
    if let Some(latest) = worker.recent_tasks.last() {
        entry["latestTask"] = json!(latest);
    }
    if worker.quarantine_until > now {
        entry["quarantineUntil"] = iso(worker.quarantine_until).into();
    }
    entry
}

fn unknown(worker: &WorkerName) -> ApiError {
    ApiError::not_found(format!(
        "no worker {}/{} has claimed from {} lately",
        worker.group, worker.id, worker.pool
    ))
}

fn describe_worker(worker: &WorkerName, row: &WorkerRow) -> Value {
    let (provisioner, worker_type) = worker.pool.split_once('/').unwrap_or((&worker.pool, ""));
    let mut answer = json!({
        "provisionerId": provisioner,
        "workerType": worker_type,
        "taskQueueId": worker.pool,
        "workerGroup": row.group,
        "workerId": row.id,
        "firstClaim": iso(row.first_claim),
        "lastDateActive": iso(row.last_active),
        "expires": iso(row.expires),
        "recentTasks": row.recent_tasks,
        "quarantineDetails": row.quarantine_details,
    });
    if row.quarantine_until > 0 {
        answer["quarantineUntil"] = iso(row.quarantine_until).into();
    }
    answer
}

pub(super) async fn get_worker(context: Context, worker: WorkerName) -> Result<Outcome, ApiError> {
    let WorkerName { pool, group, id } = &worker;
    context.authorize(&Need::scope(format!("queue:get-worker:{pool}/{group}/{id}")))?;
    let found = context.server.core.read(move |core| {
        let now = core.now();
        let row = core.store.worker(&worker)?;
        let row = row.filter(|row| row.expires >= now || row.quarantine_until >= now);
        let row = row.ok_or_else(|| unknown(&worker))?;
        Ok(describe_worker(&worker, &row))
    });
    Ok(Outcome::Json(found.await?))
}

pub(super) async fn quarantine(context: Context, worker: WorkerName) -> Result<Outcome, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::QUARANTINE, &body, "body")?;
    let WorkerName { pool, group, id } = &worker;
    context.authorize(&Need::scope(format!(
        "queue:quarantine-worker:{pool}/{group}/{id}"
    )))?;
    let until = parse_time(body.get("quarantineUntil"))?;
    let info = body["quarantineInfo"].as_str().filter(|info| !info.is_empty());
    let info = info.unwrap_or("[unspecified]").to_owned();
    let client_id = context.client_id();
    let changed = context.server.core.write(move |core| {
        let mut row = core.store.worker(&worker)?.ok_or_else(|| unknown(&worker))?;
        row.quarantine_until = until;
        let detail = QuarantineDetail {
            client_id,
            updated_at: iso(core.now()),
            quarantine_until: iso(until),
            quarantine_info: info,
        };
        row.quarantine_details.retain(|earlier| *earlier != detail);
        row.quarantine_details.push(detail);
        let too_many = row.quarantine_details.len().saturating_sub(MOST_DETAILS);
        row.quarantine_details.drain(..too_many);
        core.store.update_worker(&worker.pool, &row)?;
        Ok(describe_worker(&worker, &row))
    });
    Ok(Outcome::Json(changed.await?))
}

pub(super) async fn declare(context: Context, worker: WorkerName) -> Result<Outcome, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::DECLARE_WORKER, &body, "body")?;
    let WorkerName { pool, group, id } = &worker;
    context.authorize(&Need::scope(format!(
        "queue:declare-worker:{pool}/{group}/{id}#expires"
    )))?;
    let expires = parse_time(body.get("expires"))?;
    let changed = context.server.core.write(move |core| {
        seen(core, &worker)?;
        core.store.see_queue(&worker.pool, core.now(), expires)?;
        let mut row = core.store.worker(&worker)?.ok_or_else(|| unknown(&worker))?;
        row.expires = expires;
        row.last_active = core.now();
        core.store.update_worker(&worker.pool, &row)?;
        Ok(describe_worker(&worker, &row))
    });
    Ok(Outcome::Json(changed.await?))
}
