//! The calls of a worker: claim, reclaim, report.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::core::{Core, now};
use super::definition::strings;
use super::error::ApiError;
use super::record::{Millis, ReasonResolved, Task, iso};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome, Server};
use super::tasks::load_definition;
use crate::queue::{Credentials, RunId, TaskId, WorkerPoolId};

/// A run that was handed out.
#[derive(Clone)]
struct Claimed {
    task: Task,
    run: u32,
    taken_until: Millis,
    definition: Value,
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
    let pool = pool.to_string();
    let waker = server.core.waker(&pool);
    let give_up = Instant::now() + server.config.poll_timeout;
    let mut stopping = server.stopping.clone();
    let claimed = loop {
        // Registered before looking, so that a task created in between is not missed. A waker that goes unused
        // because the client has gone away passes to the next who waits.
        let woken = waker.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let claimed = claim_some(server, pool.clone(), worker.clone(), count).await?;
        if !claimed.is_empty() {
            break claimed;
        }
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(give_up) => break Vec::new(),
            _ = stopping.wait_for(|stopping| *stopping) => break Vec::new(),
        }
    };
    let mut tasks = Vec::with_capacity(claimed.len());
    for one in &claimed {
        tasks.push(claim_answer(server, one, &worker)?);
    }
    let text = json!({ "tasks": tasks }).to_string();
    Ok(Outcome::Raw(guarded_response(
        text,
        Undelivered {
            server: Arc::clone(server),
            claimed,
        },
    )))
}

async fn claim_some(
    server: &Server,
    pool: String,
    worker: (String, String),
    count: u64,
) -> Result<Vec<Claimed>, ApiError> {
    let claim_timeout = server.config.claim_timeout;
    let claim = move |core: &mut Core| {
        let mut claimed = Vec::new();
        while (claimed.len() as u64) < count
            && let Some(id) = core.next_pending(&pool)
        {
            let now = now();
            let taken_until = later(now, claim_timeout);
            let mut task = core.task(&id)?;
            let run = task
                .claim(worker.clone(), now, taken_until)
                .ok_or_else(|| ApiError::internal(format!("task {id} is in line but not pending")))?;
            core.write(&task)?;
            let definition = load_definition(core, &id)?;
            claimed.push(Claimed {
                task,
                run,
                taken_until,
                definition,
            });
        }
        Ok(claimed)
    };
    server
        .core
        .write_or_undo(claim, |core, claimed| unclaim(core, &claimed))
        .await
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

fn claim_answer(server: &Server, claimed: &Claimed, worker: &(String, String)) -> Result<Value, ApiError> {
    let credentials = run_credentials(server, claimed, worker)?;
    Ok(json!({
        "status": claimed.task.status(),
        "runId": claimed.run,
        "workerGroup": worker.0,
        "workerId": worker.1,
        // The services write just this one time with an offset.
        "takenUntil": iso(claimed.taken_until).replace('Z', "+00:00"),
        "task": claimed.definition,
        "credentials": credentials,
    }))
}

/// What a run may do: keep its claim, end, create artifacts, and whatever its task was created with.
fn run_credentials(
    server: &Server,
    claimed: &Claimed,
    worker: &(String, String),
) -> Result<Credentials, ApiError> {
    let (task, run) = (&claimed.task.id, claimed.run);
    let mut scopes = vec![
        format!("queue:reclaim-task:{task}/{run}"),
        format!("queue:resolve-task:{task}/{run}"),
        format!("queue:create-artifact:{task}/{run}"),
    ];
    scopes.extend(strings(claimed.definition.get("scopes")));
    let until = claimed.taken_until / 1000;
    let client_id = format!(
        "task-client/{task}/{run}/on/{}/{}/until/{until}",
        worker.0, worker.1
    );
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

fn guarded_response(text: String, guard: Undelivered) -> Response {
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
    response
}

fn later(now: Millis, by: Duration) -> Millis {
    now.saturating_add(Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX))
}

pub(super) async fn reclaim(context: Context, id: TaskId, run: RunId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:reclaim-task:{id}/{run}")))?;
    let claim_timeout = context.server.config.claim_timeout;
    let reclaimed = context.server.core.write(move |core| {
        let mut task = core.task(id.as_str())?;
        let now = now();
        let taken_until = later(now, claim_timeout);
        task.reclaim(run.0, now, taken_until)?;
        core.write(&task)?;
        let definition = load_definition(core, id.as_str())?;
        Ok(Claimed {
            task,
            run: run.0,
            taken_until,
            definition,
        })
    });
    let reclaimed = reclaimed.await?;
    let worker = reclaimed.task.run(run.0)?.worker.clone().unwrap_or_default();
    Ok(Outcome::Json(json!({
        "status": reclaimed.task.status(),
        "runId": run,
        "workerGroup": worker.0,
        "workerId": worker.1,
        "takenUntil": iso(reclaimed.taken_until),
        "credentials": run_credentials(&context.server, &reclaimed, &worker)?,
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
        task.report(run.0, reason, now())?;
        if task != before {
            core.changed(&mut task)?;
        }
        Ok(task.status())
    });
    Ok(Outcome::Json(json!({ "status": status.await? })))
}
