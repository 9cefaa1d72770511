//! The calls about tasks: create them, look at them, change their course.

use serde_json::{Value, json};

use super::core::{Core, now};
use super::definition::{Definition, strings};
use super::error::ApiError;
use super::record::{ReasonCreated, Task};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome};
use crate::queue::{Priority, TaskId, WorkerPoolId};

/// The most tasks that one page of an answer holds.
const PAGE: usize = 1000;

pub(super) async fn create(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    let definition = Definition::read(&id, context.json()?, now())?;
    context.authorize(&needs_to_create(&definition))?;
    if let Some(rules) = context.server.payload_rules(&definition.task.pool) {
        schemas::refuse(&rules(&definition.payload), "payload").map_err(|error| {
            let pool = &definition.pool;
            ApiError::validation(format!(
                "{}\nThese are the rules of worker pool {pool}; `tcw-host schema --explain` lists them.",
                error.message
            ))
        })?;
    }
    let status = context
        .server
        .core
        .write(move |core| insert(core, definition))
        .await?;
    Ok(Outcome::Json(json!({ "status": status })))
}

fn needs_to_create(definition: &Definition) -> Need {
    let task = &definition.task;
    let mut needs: Vec<Need> = definition.scopes.iter().map(Need::scope).collect();
    needs.extend(
        definition
            .routes
            .iter()
            .map(|route| Need::scope(format!("queue:route:{route}"))),
    );
    needs.push(Need::scope(format!("queue:create-task:project:{}", task.project)));
    needs.push(Need::scope(format!("queue:scheduler-id:{}", task.scheduler)));
    // Who may create more urgent tasks may create less urgent ones.
    let priorities = Priority::ALL
        .into_iter()
        .filter(|priority| *priority >= task.priority);
    needs.push(Need::Any(
        priorities
            .map(|priority| Need::scope(format!("queue:create-task:{}:{}", priority.as_str(), task.pool)))
            .collect(),
    ));
    Need::All(needs)
}

fn insert(core: &mut Core, definition: Definition) -> Result<Value, ApiError> {
    let Definition {
        mut task,
        dependencies,
        text,
        ..
    } = definition;
    if let Some(existing) = core.store.task(&task.id)? {
        if core.store.definition(&task.id)?.as_deref() == Some(&text) {
            return Ok(existing.status());
        }
        return Err(ApiError::conflict(format!(
            "there is a task {} with another definition already; choose another task id",
            task.id
        )));
    }
    for required in dependencies.iter().filter(|required| **required != task.id) {
        if core.store.task(required)?.is_none() {
            return Err(ApiError::input(format!(
                "the task depends on {required}, which does not exist; create that first"
            )));
        }
    }
    if core.are_released(&dependencies, task.requires)? {
        task.schedule(ReasonCreated::Scheduled, now());
    }
    core.add(&mut task, &text, &dependencies)?;
    Ok(task.status())
}

pub(super) async fn task(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:get-task:{id}")))?;
    let definition = context
        .server
        .core
        .read(move |core| load_definition(core, id.as_str()))
        .await?;
    Ok(Outcome::Json(definition))
}

/// A task's definition, or 404.
pub(super) fn load_definition(core: &Core, id: &str) -> Result<Value, ApiError> {
    let text = core.store.definition(id)?;
    let text =
        text.ok_or_else(|| ApiError::not_found(format!("there is no task {id}; it may have expired")))?;
    serde_json::from_str(&text).map_err(ApiError::internal)
}

pub(super) async fn status(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:status:{id}")))?;
    let status = context
        .server
        .core
        .read(move |core| Ok(core.task(id.as_str())?.status()))
        .await?;
    Ok(Outcome::Json(json!({ "status": status })))
}

pub(super) async fn tasks(context: Context) -> Result<Outcome, ApiError> {
    many(context, "queue:get-task", "tasks", |core, id| {
        let Some(text) = core.store.definition(id)? else {
            return Ok(None);
        };
        let task: Value = serde_json::from_str(&text).map_err(ApiError::internal)?;
        Ok(Some(json!({ "taskId": id, "task": task })))
    })
    .await
}

pub(super) async fn statuses(context: Context) -> Result<Outcome, ApiError> {
    many(context, "queue:status", "statuses", |core, id| {
        let task = core.store.task(id)?;
        Ok(task.map(|task| json!({ "taskId": id, "status": task.status() })))
    })
    .await
}

/// One page of what is known about many tasks; unknown ones are left out. The continuation is a place in the list of
/// ids, which the client sends again.
async fn many(
    context: Context,
    scope: &str,
    key: &'static str,
    look_up: impl Fn(&Core, &str) -> Result<Option<Value>, ApiError> + Send + 'static,
) -> Result<Outcome, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::TASK_IDS, &body, "body")?;
    let ids = strings(body.get("taskIds"));
    context.authorize(&Need::All(
        ids.iter()
            .map(|id| Need::scope(format!("{scope}:{id}")))
            .collect(),
    ))?;
    let start: usize = match &context.query.continuation {
        None => 0,
        Some(token) => token
            .parse()
            .map_err(|_| ApiError::arguments("the continuationToken is not one of ours"))?,
    };
    let end = start
        .saturating_add(context.query.limit.unwrap_or(PAGE).clamp(1, PAGE))
        .min(ids.len());
    let more = end < ids.len();
    let found = context.server.core.read(move |core| {
        let mut found: Vec<Value> = Vec::new();
        for id in ids.get(start..end).unwrap_or_default() {
            found.extend(look_up(core, id)?);
        }
        Ok(found)
    });
    let mut answer = json!({ key: found.await? });
    if more {
        answer["continuationToken"] = end.to_string().into();
    }
    Ok(Outcome::Json(answer))
}

/// A call that changes a task's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Schedule,
    Rerun,
    Cancel,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Rerun => "rerun",
            Self::Cancel => "cancel",
        }
    }

    fn needs(self, task: &Task) -> Need {
        let (
            verb,
            Task {
                scheduler,
                group,
                project,
                id,
                ..
            },
        ) = (self.verb(), task);
        Need::Any(vec![
            Need::scope(format!("queue:{verb}-task:{scheduler}/{group}/{id}")),
            Need::scope(format!("queue:{verb}-task-in-project:{project}")),
            Need::All(vec![
                Need::scope(format!("queue:{verb}-task")),
                Need::scope(format!("assume:scheduler-id:{scheduler}/{group}")),
            ]),
        ])
    }

    fn apply(self, task: &mut Task) -> Result<(), ApiError> {
        let now = now();
        match self {
            Self::Schedule => {
                task.not_past_deadline(now)?;
                task.schedule(ReasonCreated::Scheduled, now);
                Ok(())
            }
            Self::Rerun => task.rerun(now),
            Self::Cancel => task.cancel(now),
        }
    }
}

pub(super) async fn change(context: Context, id: TaskId, change: Change) -> Result<Outcome, ApiError> {
    // Which scopes are needed depends on the task, so an unknown one is 404 whoever asks.
    let found = id.clone();
    let task = context
        .server
        .core
        .read(move |core| core.task(found.as_str()))
        .await?;
    context.authorize(&change.needs(&task))?;
    let status = context.server.core.write(move |core| {
        let before = core.task(id.as_str())?;
        let mut task = before.clone();
        change.apply(&mut task)?;
        if task != before {
            core.changed(&mut task)?;
        }
        Ok(task.status())
    });
    Ok(Outcome::Json(json!({ "status": status.await? })))
}

pub(super) async fn pending(context: Context, pool: WorkerPoolId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:pending-count:{pool}")))?;
    let name = pool.to_string();
    let count = context
        .server
        .core
        .read(move |core| Ok(core.count_pending(&name)))
        .await?;
    Ok(Outcome::Json(json!({
        "provisionerId": pool.provisioner(),
        "workerType": pool.worker_type(),
        "taskQueueId": pool,
        "pendingTasks": count,
    })))
}
