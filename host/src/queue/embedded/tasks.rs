//! The calls about tasks: create them, look at them, change their course.

use serde_json::{Value, json};

use super::core::{Core, satisfies};
use super::definition::{Definition, strings};
use super::error::ApiError;
use super::page::{Page, continued};
use super::record::{Millis, ReasonCreated, Task};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome};
use crate::queue::{Priority, TaskId};

/// The most tasks that one page of an answer holds.
const PAGE: usize = 1000;

pub(super) async fn create(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    let definition = Definition::read(&id, context.json()?, context.server.core.now())?;
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
        // What was sent the first time, or what the task reads as now, which may have another priority.
        let original = core.store.definition(&task.id)?.unwrap_or_default();
        let as_it_is = current(&original, &existing)?.to_string();
        if [original, as_it_is].contains(&text) {
            return Ok(existing.status());
        }
        return Err(ApiError::conflict(format!(
            "there is a task {} with another definition already; choose another task id",
            task.id
        )));
    }
    if let Some(group) = core.store.group(&task.group)? {
        if group.scheduler != task.scheduler {
            return Err(ApiError::conflict(format!(
                "the task group {} has schedulerId {:?}, and this task {:?}; all tasks of a group have the same",
                task.group, group.scheduler, task.scheduler
            )));
        }
        if group.sealed.is_some() {
            return Err(ApiError::conflict(format!(
                "the task group {} is sealed and takes no more tasks; use another group",
                task.group
            )));
        }
    }
    let dependencies = dependencies
        .into_iter()
        .map(|required| {
            let satisfied = required != task.id
                && match core.store.task(&required)? {
                    Some(required) => satisfies(&required, task.requires),
                    None => {
                        return Err(ApiError::input(format!(
                            "the task depends on {required}, which does not exist; create that first"
                        )));
                    }
                };
            Ok((required, satisfied))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if dependencies.iter().all(|(_, satisfied)| *satisfied) {
        task.schedule(ReasonCreated::Scheduled, core.now());
    }
    core.store
        .extend_group(&task.group, &task.scheduler, task.expires)?;
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
    definition_of(core, &core.task(id)?)
}

/// The definition of a task that is there.
pub(super) fn definition_of(core: &Core, task: &Task) -> Result<Value, ApiError> {
    let text = core.store.definition(&task.id)?;
    let text = text.ok_or_else(|| ApiError::internal(format!("task {} has no definition", task.id)))?;
    current(&text, task)
}

/// A definition as it reads now: its priority may have been changed.
fn current(definition: &str, task: &Task) -> Result<Value, ApiError> {
    let mut definition: Value = serde_json::from_str(definition).map_err(ApiError::internal)?;
    if definition["priority"] != task.priority.as_str() {
        definition["priority"] = task.priority.as_str().into();
    }
    Ok(definition)
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
        let Some(task) = core.store.task(id)? else {
            return Ok(None);
        };
        Ok(Some(json!({ "taskId": id, "task": definition_of(core, &task)? })))
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

    fn apply(self, task: &mut Task, now: Millis) -> Result<(), ApiError> {
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
        change.apply(&mut task, core.now())?;
        if task != before {
            core.changed(&mut task)?;
        }
        Ok(task.status())
    });
    Ok(Outcome::Json(json!({ "status": status.await? })))
}

/// The body of the calls that change a priority.
pub(super) fn new_priority(context: &Context) -> Result<Priority, ApiError> {
    let body = context.json()?;
    schemas::check(&schemas::PRIORITY, &body, "body")?;
    serde_json::from_value(body["newPriority"].clone()).map_err(ApiError::internal)
}

pub(super) async fn change_priority(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    let priority = new_priority(&context)?;
    let found = id.clone();
    let task = context
        .server
        .core
        .read(move |core| core.task(found.as_str()))
        .await?;
    context.authorize(&Need::Any(vec![
        Need::scope(format!("queue:change-task-priority:{id}")),
        Need::scope(format!("queue:change-task-priority-in-queue:{}", task.pool)),
    ]))?;
    let status = context.server.core.write(move |core| {
        let mut task = core.task(id.as_str())?;
        task.change_priority(priority, core.now())?;
        core.write(&task)?;
        Ok(task.status())
    });
    Ok(Outcome::Json(json!({ "status": status.await? })))
}

pub(super) async fn dependents(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:list-dependent-tasks:{id}")))?;
    let page = Page::<1>::asked(&context.query)?;
    let (task, wanted) = (id.clone(), page.clone());
    let found = context.server.core.read(move |core| {
        core.task(task.as_str())?;
        let found = core
            .store
            .dependents(task.as_str(), &wanted.after[0], wanted.look_for())?;
        with_definitions(core, found)
    });
    let mut found = found.await?;
    let token = page.cut(&mut found, |(task, _)| [task.id.clone()]);
    let tasks = definitions_and_statuses(&found);
    Ok(Outcome::Json(continued(
        json!({ "taskId": id, "tasks": tasks }),
        token,
    )))
}

/// Tasks, each with its definition.
pub(super) fn with_definitions(core: &Core, tasks: Vec<Task>) -> Result<Vec<(Task, Value)>, ApiError> {
    let tasks = tasks.into_iter().map(|task| {
        let definition = definition_of(core, &task)?;
        Ok((task, definition))
    });
    tasks.collect()
}

/// Tasks as lists of them show them.
pub(super) fn definitions_and_statuses(tasks: &[(Task, Value)]) -> Vec<Value> {
    let entry = |(task, definition): &(Task, Value)| json!({ "task": definition, "status": task.status() });
    tasks.iter().map(entry).collect()
}
