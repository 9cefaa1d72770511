//! The calls of a worker: claim, reclaim, report.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::core::{Core, now};
use super::definition::strings;
use super::error::ApiError;
use super::record::{Millis, ReasonResolved, Task, iso};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome, Server};
use super::store_workers::WorkerName;
use super::tasks::definition_of;
use super::workers;
use crate::queue::{Credentials, RunId, RunState, TaskId, WorkerPoolId};

/// A run that was handed out.
#[derive(Clone)]
pub(super) struct Claimed {
    task: Task,
    run: u32,
    taken_until: Millis,
    definition: Value,
}

impl Claimed {
    /// The group and the id of the worker that has it.
    fn worker(&self) -> Result<(&str, &str), ApiError> {
        let worker = self.task.run(self.run)?.worker.as_ref();
        let (group, id) = worker.ok_or_else(|| ApiError::internal("a claimed run has no worker"))?;
        Ok((group, id))
    }

    pub(super) fn task_id(&self) -> &str {
        &self.task.id
    }

    pub(super) fn run_id(&self) -> u32 {
        self.run
    }
}

pub(super) async fn claim_work(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::CLAIM_WORK, &body, "body")?;
    let text = |key: &str| {
        body.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let worker = (text("workerGroup"), text("workerId"));
    let count = body.get("tasks").and_then(Value::as_u64).unwrap_or(1);
    context.authorize(&Need::All(vec![
        Need::scope(format!("queue:claim-work:{pool}")),
        Need::scope(format!("queue:worker-id:{}/{}", worker.0, worker.1)),
    ]))?;

    let server = &context.server;
    let worker = WorkerName {
        pool: pool.to_string(),
        group: worker.0,
        id: worker.1,
    };
    let waker = server.core.waker(&worker.pool);
    let give_up = Instant::now() + server.config.poll_timeout;
    let mut stopping = server.stopping.clone();
    let mut released = server.released.subscribe();
    let mut first = true;
    let claimed = loop {
        {
            // Registered before looking, so that a task created in between is not missed. A waker that goes unused
            // because the client has gone away passes to the next who waits.
            let woken = waker.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            // Whoever was woken and then does not look is woken in somebody else's stead, who would wait on.
            let instead = PassOn(Some(&waker));
            let claimed = claim_some(server, worker.clone(), count, std::mem::take(&mut first)).await?;
            if claimed.is_some() {
                instead.has_looked();
            }
            match claimed {
                Some(claimed) if !claimed.is_empty() => break claimed,
                Some(_) => tokio::select! {
                    () = woken => continue,
                    () = tokio::time::sleep_until(give_up) => break Vec::new(),
                    _ = stopping.wait_for(|stopping| *stopping) => break Vec::new(),
                    _ = released.changed() => break Vec::new(),
                },
                None => {}
            }
        }
        // In quarantine one waits as long as with nothing to do, and is not woken in somebody else's stead.
        tokio::select! {
            () = tokio::time::sleep_until(give_up) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
            _ = released.changed() => {}
        }
        break Vec::new();
    };
    let mut tasks = Vec::with_capacity(claimed.len());
    for one in &claimed {
        // The services write just this one time with an offset.
        let taken_until = iso(one.taken_until).replace('Z', "+00:00");
        tasks.push(claim_answer(server, one, &taken_until)?);
    }
    Ok(guarded(server, &json!({ "tasks": tasks }), claimed))
}

/// Wakes another who waits, unless there is no need to.
struct PassOn<'a>(Option<&'a Notify>);

impl PassOn<'_> {
    fn has_looked(mut self) {
        self.0 = None;
    }
}

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        if let Some(waker) = self.0 {
            waker.notify_one();
        }
    }
}

/// What is next in line for a worker; nothing at all if it is in quarantine.
async fn claim_some(
    server: &Server,
    worker: WorkerName,
    count: u64,
    first: bool,
) -> Result<Option<Vec<Claimed>>, ApiError> {
    let claim_timeout = server.config.claim_timeout;
    let claim = move |core: &mut Core| {
        if first {
            workers::seen(core, &worker)?;
        }
        if workers::is_quarantined(core, &worker)? {
            return Ok(None);
        }
        let mut claimed = Vec::new();
        while (claimed.len() as u64) < count
            && let Some(id) = core.next_pending(&worker.pool)
        {
            let task = core.task(&id)?;
            let id = task.id.clone();
            let one = hand_out(core, task, &worker, claim_timeout)?;
            claimed.push(
                one.ok_or_else(|| ApiError::internal(format!("task {id} is in line but not pending")))?,
            );
        }
        workers::has_claimed(core, &worker, &claimed)?;
        Ok(Some(claimed))
    };
    server
        .core
        .write_or_undo(claim, |core, claimed| unclaim(core, &claimed.unwrap_or_default()))
        .await
}

/// Gives a task's pending run, if it has one, to a worker.
fn hand_out(
    core: &mut Core,
    mut task: Task,
    worker: &WorkerName,
    claim_timeout: Duration,
) -> Result<Option<Claimed>, ApiError> {
    let now = core.now();
    let taken_until = later(now, claim_timeout);
    let name = (worker.group.clone(), worker.id.clone());
    let Some(run) = task.claim(name, now, taken_until) else {
        return Ok(None);
    };
    core.write(&task)?;
    let definition = definition_of(core, &task)?;
    Ok(Some(Claimed {
        task,
        run,
        taken_until,
        definition,
    }))
}

/// A claim of one run, by its number: an old call that clients still have.
pub(super) async fn claim_task(context: Context, id: TaskId, run: RunId) -> Result<Outcome, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::CLAIM_TASK, &body, "body")?;
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let server = &context.server;
    let found = id.clone();
    let task = server.core.read(move |core| core.task(found.as_str())).await?;
    let worker = WorkerName {
        pool: task.pool,
        group: text("workerGroup"),
        id: text("workerId"),
    };
    context.authorize(&Need::All(vec![
        Need::scope(format!("queue:claim-task:{}", worker.pool)),
        Need::scope(format!("queue:worker-id:{}/{}", worker.group, worker.id)),
    ]))?;
    let claim_timeout = server.config.claim_timeout;
    let claim = move |core: &mut Core| {
        let task = core.task(id.as_str())?;
        task.not_past_deadline(core.now())?;
        if workers::is_quarantined(core, &worker)? {
            return Ok(None);
        }
        if let Some(again) = held_already(core, &task, run, &worker)? {
            return Ok(Some((again, false)));
        }
        let is_pending = task.run(run.0)?.state == RunState::Pending;
        if !is_pending {
            return Err(ApiError::conflict(format!(
                "run {run} of task {id} was claimed by another worker, or has ended"
            )));
        }
        workers::seen(core, &worker)?;
        let claimed = hand_out(core, task, &worker, claim_timeout)?.ok_or_else(|| {
            ApiError::internal(format!("run {run} of task {id} is pending but not the last"))
        })?;
        workers::has_claimed(core, &worker, std::slice::from_ref(&claimed))?;
        Ok(Some((claimed, true)))
    };
    let undo = |core: &mut Core, claimed: Option<(Claimed, bool)>| match claimed {
        Some((claimed, true)) => unclaim(core, &[claimed]),
        _ => Ok(()),
    };
    match server.core.write_or_undo(claim, undo).await? {
        // As with claimWork: a worker in quarantine gets nothing.
        None => Ok(Outcome::Json(json!({}))),
        Some((claimed, is_new)) => {
            let answer = claim_answer(server, &claimed, &iso(claimed.taken_until))?;
            let to_undo = if is_new { vec![claimed] } else { Vec::new() };
            Ok(guarded(server, &answer, to_undo))
        }
    }
}

/// The claim of a worker that asks once more for what it has.
fn held_already(
    core: &Core,
    task: &Task,
    run: RunId,
    worker: &WorkerName,
) -> Result<Option<Claimed>, ApiError> {
    let known = task.run(run.0)?;
    let is_held = known.state == RunState::Running
        && known
            .worker
            .as_ref()
            .is_some_and(|(group, id)| *group == worker.group && *id == worker.id);
    if !is_held {
        return Ok(None);
    }
    Ok(Some(Claimed {
        task: task.clone(),
        run: run.0,
        taken_until: known.taken_until.unwrap_or_default(),
        definition: definition_of(core, task)?,
    }))
}

/// Puts runs back in line, where they stood before, if their claims have not been used.
fn unclaim(core: &mut Core, claimed: &[Claimed]) -> Result<(), ApiError> {
    for one in claimed {
        let mut task = core.task(&one.task.id)?;
        if task.unclaim(one.run, one.taken_until) {
            tracing::info!(
                task = task.id,
                run = one.run,
                "the worker went away during its claim; the run is pending again"
            );
            core.write(&task)?;
        }
    }
    Ok(())
}

fn claim_answer(server: &Server, claimed: &Claimed, taken_until: &str) -> Result<Value, ApiError> {
    let (group, id) = claimed.worker()?;
    Ok(json!({
        "status": claimed.task.status(),
        "runId": claimed.run,
        "workerGroup": group,
        "workerId": id,
        "takenUntil": taken_until,
        "task": claimed.definition,
        "credentials": run_credentials(server, claimed)?,
    }))
}

/// What a run may do: keep its claim, end, create artifacts, and whatever its task was created with.
fn run_credentials(server: &Server, claimed: &Claimed) -> Result<Credentials, ApiError> {
    let (task, run) = (&claimed.task.id, claimed.run);
    let (group, id) = claimed.worker()?;
    let mut scopes = vec![
        format!("queue:reclaim-task:{task}/{run}"),
        format!("queue:resolve-task:{task}/{run}"),
        format!("queue:create-artifact:{task}/{run}"),
    ];
    scopes.extend(strings(claimed.definition.get("scopes")));
    let until = claimed.taken_until / 1000;
    let client_id = format!("task-client/{task}/{run}/on/{group}/{id}/until/{until}");
    server
        .authority
        .issue(client_id, scopes, now(), claimed.taken_until)
}

/// Claims whose answer is on its way. If it is dropped before the connection has taken it, nobody has got them.
struct Undelivered {
    server: Arc<Server>,
    claimed: Vec<Claimed>,
}

impl Undelivered {
    fn delivered(mut self) {
        self.claimed.clear();
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if !self.claimed.is_empty() {
            let claimed = std::mem::take(&mut self.claimed);
            self.server.core.post(move |core| unclaim(core, &claimed));
        }
    }
}

/// An answer that hands out runs, and that takes them back if it does not arrive.
fn guarded(server: &Arc<Server>, answer: &Value, claimed: Vec<Claimed>) -> Outcome {
    let guard = Undelivered {
        server: Arc::clone(server),
        claimed,
    };
    let text = answer.to_string();
    let length = HeaderValue::from(text.len());
    let body = futures_util::stream::once(async move {
        guard.delivered();
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Outcome::Raw(response)
}

fn later(now: Millis, by: Duration) -> Millis {
    now.saturating_add(Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX))
}

pub(super) async fn reclaim(context: Context, id: TaskId, run: RunId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:reclaim-task:{id}/{run}")))?;
    let claim_timeout = context.server.config.claim_timeout;
    let reclaimed = context.server.core.write(move |core| {
        let mut task = core.task(id.as_str())?;
        let now = core.now();
        let taken_until = later(now, claim_timeout);
        task.reclaim(run.0, now, taken_until)?;
        core.write(&task)?;
        let definition = definition_of(core, &task)?;
        let claimed = Claimed {
            run: run.0,
            taken_until,
            definition,
            task,
        };
        let (group, id) = claimed.worker()?;
        let worker = WorkerName {
            pool: claimed.task.pool.clone(),
            group: group.to_owned(),
            id: id.to_owned(),
        };
        workers::seen(core, &worker)?;
        Ok(claimed)
    });
    let reclaimed = reclaimed.await?;
    let (group, id) = reclaimed.worker()?;
    Ok(Outcome::Json(json!({
        "status": reclaimed.task.status(),
        "runId": run,
        "workerGroup": group,
        "workerId": id,
        "takenUntil": iso(reclaimed.taken_until),
        "credentials": run_credentials(&context.server, &reclaimed)?,
    })))
}

/// Ends a run; without a reason, the body has it.
pub(super) async fn report(
    context: Context,
    id: TaskId,
    run: RunId,
    reason: Option<ReasonResolved>,
) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:resolve-task:{id}/{run}")))?;
    let reason = match reason {
        Some(reason) => reason,
        None => {
            let body = context.json()?;
            schemas::check(&schemas::EXCEPTION, &body, "body")?;
            serde_json::from_value(body["reason"].clone()).map_err(ApiError::internal)?
        }
    };
    let status = context.server.core.write(move |core| {
        let before = core.task(id.as_str())?;
        let mut task = before.clone();
        task.report(run.0, reason, core.now())?;
        if task != before {
            core.changed(&mut task)?;
        }
        Ok(task.status())
    });
    Ok(Outcome::Json(json!({ "status": status.await? })))
}
