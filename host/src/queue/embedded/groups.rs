//! The calls about task groups: tasks that were created together, and are looked at and cancelled together.

use serde_json::{Value, json};

use super::core::Core;
use super::error::ApiError;
use super::page::{Page, continued};
use super::record::iso;
use super::scopes::Need;
use super::server::{Context, Outcome};
use super::store_groups::GroupRow;
use super::tasks::{definitions_and_statuses, new_priority, with_definitions};
use crate::queue::TaskId;

/// The group, or 404.
fn find(core: &Core, id: &str) -> Result<GroupRow, ApiError> {
    core.store.group(id)?.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no task group {id}; it begins with its first task, and may have expired"
        ))
    })
}

async fn read(context: &Context, id: &TaskId) -> Result<GroupRow, ApiError> {
    let id = id.clone();
    context
        .server
        .core
        .read(move |core| find(core, id.as_str()))
        .await
}

fn describe(id: &TaskId, group: &GroupRow) -> Value {
    let mut answer = json!({
        "taskGroupId": id,
        "schedulerId": group.scheduler,
        "expires": iso(group.expires),
    });
    if let Some(sealed) = group.sealed {
        answer["sealed"] = iso(sealed).into();
    }
    answer
}

pub(super) async fn get(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:list-task-group:{id}")))?;
    let group = read(&context, &id).await?;
    Ok(Outcome::Json(describe(&id, &group)))
}

pub(super) async fn list(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:list-task-group:{id}")))?;
    let page = Page::<1>::asked(&context.query)?;
    let (group, wanted) = (id.clone(), page.clone());
    let found = context.server.core.read(move |core| {
        let row = find(core, group.as_str())?;
        let tasks = core
            .store
            .group_tasks(group.as_str(), &wanted.after[0], wanted.look_for())?;
        Ok((row, with_definitions(core, tasks)?))
    });
    let (group, mut tasks) = found.await?;
    let token = page.cut(&mut tasks, |(task, _)| [task.id.clone()]);
    let mut answer = describe(&id, &group);
    answer["tasks"] = definitions_and_statuses(&tasks).into();
    Ok(Outcome::Json(continued(answer, token)))
}

pub(super) async fn seal(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    // Which scope is needed depends on the group, so an unknown one is 404 whoever asks.
    let group = read(&context, &id).await?;
    context.authorize(&Need::scope(format!(
        "queue:seal-task-group:{}/{id}",
        group.scheduler
    )))?;
    let sealed = id.clone();
    let group = context.server.core.write(move |core| {
        core.store.seal_group(sealed.as_str(), core.now())?;
        find(core, sealed.as_str())
    });
    Ok(Outcome::Json(describe(&id, &group.await?)))
}

pub(super) async fn cancel(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    let group = read(&context, &id).await?;
    if group.sealed.is_none() {
        return Err(ApiError::conflict(format!(
            "the task group {id} is not sealed, so that tasks could be added while it is cancelled; seal it first"
        )));
    }
    context.authorize(&Need::scope(format!(
        "queue:cancel-task-group:{}/{id}",
        group.scheduler
    )))?;
    let group = id.clone();
    let cancelled = context.server.core.write(move |core| {
        let now = core.now();
        let mut tasks = core.store.active_group_tasks(group.as_str())?;
        // Whose deadline has passed a moment ago ends by that, right after this.
        tasks.retain(|task| task.not_past_deadline(now).is_ok());
        // All of them first, so that the end of one does not start another that is about to be cancelled.
        for task in &mut tasks {
            task.cancel(now)?;
            core.write(task)?;
        }
        for task in &tasks {
            core.release_dependents(task)?;
        }
        Ok((tasks, core.store.group_size(group.as_str())?))
    });
    let (tasks, size) = cancelled.await?;
    let ids: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    Ok(Outcome::Json(json!({
        "taskGroupId": id,
        "taskGroupSize": size,
        "cancelledCount": ids.len(),
        "taskIds": ids,
    })))
}

pub(super) async fn change_priority(context: Context, id: TaskId) -> Result<Outcome, ApiError> {
    let priority = new_priority(&context)?;
    let group = read(&context, &id).await?;
    context.authorize(&Need::scope(format!(
        "queue:change-task-group-priority:{}/{id}",
        group.scheduler
    )))?;
    let changed = id.clone();
    let ids = context.server.core.write(move |core| {
        let (now, mut ids) = (core.now(), Vec::new());
        for mut task in core.store.active_group_tasks(changed.as_str())? {
            if task.priority != priority && task.not_past_deadline(now).is_ok() {
                task.change_priority(priority, now)?;
                core.write(&task)?;
                ids.push(task.id);
            }
        }
        Ok(ids)
    });
    let ids = ids.await?;
    Ok(Outcome::Json(json!({
        "taskGroupId": id,
        "schedulerId": group.scheduler,
        "newPriority": priority,
        "tasksAffected": ids.len(),
        "taskIds": ids,
    })))
}
