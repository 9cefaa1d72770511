//! The calls about artifacts. Their bytes are the business of [`super::storage`].

use std::collections::BTreeSet;

use axum::http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::core::Core;
use super::definition::parse_time;
use super::error::ApiError;
use super::page::{Page, continued};
use super::record::{Millis, Task, iso};
use super::schemas;
use super::scopes::Need;
use super::server::{Context, Outcome, json_response};
use super::storage::{self, ObjectId};
use super::store_artifacts::ArtifactRow;
use crate::queue::{RunId, RunState, TaskId};

/// How long after an exception artifacts may still be created: what a worker saves when it is told to stop.
const AFTER_EXCEPTION: Millis = 25 * 60 * 1000;
/// How far in the past an artifact's end may be, for clocks that differ.
const CLOCK_TOLERANCE: Millis = 15 * 60 * 1000;
/// How long an upload URL works.
const PUT_LIFE: Millis = 45 * 60 * 1000;
/// How long a download URL works.
const GET_LIFE: Millis = 30 * 60 * 1000;

pub(super) async fn create(
    context: Context,
    id: TaskId,
    run: RunId,
    name: String,
) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:create-artifact:{id}/{run}")))?;
    let body = context.json()?;
    schemas::check(schemas::artifact(&body)?, &body, "artifact")?;
    let artifact = read_request(name, &body)?;
    if artifact.storage == "object" {
        return Err(ApiError::input(
            "there is no object service behind the embedded queue; create the artifact with storageType s3",
        ));
    }
    let storage_type = artifact.storage.clone();
    let object = ObjectId {
        task: id.to_string(),
        run: run.0,
        name: artifact.name.clone(),
    };
    let stored = context
        .server
        .core
        .write(move |core| insert(core, id.as_str(), run, artifact))
        .await?;
    if storage_type != "s3" {
        return Ok(Outcome::Json(json!({ "storageType": storage_type })));
    }
    let ends = context.server.core.now() + PUT_LIFE;
    Ok(Outcome::Json(json!({
        "storageType": "s3",
        "putUrl": storage::signed_url(&context.server, &context.base_url, "PUT", &object, ends)?,
        "contentType": stored.content_type,
        "expires": iso(ends),
    })))
}

fn read_request(name: String, body: &Value) -> Result<ArtifactRow, ApiError> {
    let text = |key: &str| {
        body.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let storage = text("storageType");
    let detail = match storage.as_str() {
        "reference" => text("url"),
        "link" => text("artifact"),
        "error" => format!("{}\n{}", text("reason"), text("message")),
        _ => String::new(),
    };
    let content_type = body
        .get("contentType")
        .and_then(Value::as_str)
        .unwrap_or("application/binary")
        .to_owned();
    let content_length = body.get("contentLength").and_then(Value::as_i64);
    let expires = parse_time(body.get("expires"))?;
    Ok(ArtifactRow {
        name,
        storage,
        content_type,
        content_length,
        expires,
        detail,
    })
}

fn insert(core: &mut Core, id: &str, run: RunId, mut artifact: ArtifactRow) -> Result<ArtifactRow, ApiError> {
    let now = core.now();
    let missing = || ApiError::input(format!("task {id} has no run {run} that was ever claimed"));
    let task = core.store.task(id)?.ok_or_else(missing)?;
    let known_run = task.run(run.0).map_err(|_| missing())?;
    if known_run.started.is_none() {
        return Err(missing());
    }
    let open = match (known_run.state, known_run.resolved) {
        (RunState::Running, _) => true,
        (RunState::Exception, Some((time, _))) => now <= time + AFTER_EXCEPTION,
        _ => false,
    };
    if !open {
        return Err(ApiError::conflict(format!(
            "run {run} of task {id} is over and takes no more artifacts"
        )));
    }
    if artifact.expires < now - CLOCK_TOLERANCE {
        return Err(ApiError::input(format!(
            "the artifact's expires ({}) has passed already",
            iso(artifact.expires)
        )));
    }
    if artifact.expires > task.expires {
        return Err(ApiError::input(format!(
            "the artifact's expires ({}) is after that of its task ({})",
            iso(artifact.expires),
            iso(task.expires)
        )));
    }
    if let Some(existing) = core.store.artifact(id, run.0, &artifact.name)? {
        replace(&existing, &mut artifact)?;
    }
    core.store.put_artifact(id, run.0, &artifact)?;
    Ok(artifact)
}

/// What of an artifact may change: its end may move on, its length be corrected, a reference be pointed elsewhere or
/// made a link (as live logs are when they have ended).
fn replace(existing: &ArtifactRow, new: &mut ArtifactRow) -> Result<(), ApiError> {
    let allowed = new.expires >= existing.expires
        && match (existing.storage.as_str(), new.storage.as_str()) {
            ("s3", "s3") | ("reference", "reference") => existing.content_type == new.content_type,
            ("reference", "link") => true,
            ("link", "link") | ("error", "error") => existing.detail == new.detail,
            _ => false,
        };
    if !allowed {
        return Err(ApiError::conflict(format!(
            "there is an artifact {:?} with other properties already; choose another name",
            new.name
        )));
    }
    if new.storage == "link" {
        new.content_type.clone_from(&existing.content_type);
    }
    Ok(())
}

/// Says that an upload to the object service is complete, which none ever is: there is no such service.
pub(super) async fn finish(
    context: Context,
    id: TaskId,
    run: RunId,
    name: String,
) -> Result<Outcome, ApiError> {
    context.authorize(&Need::scope(format!("queue:create-artifact:{id}/{run}")))?;
    schemas::check(&schemas::FINISH_ARTIFACT, &context.json()?, "body")?;
    let found = context
        .server
        .core
        .read(move |core| find(core, id.as_str(), Some(run), &name));
    let (_, artifact) = found.await?;
    Err(ApiError::input(format!(
        "the artifact {:?} has storageType {}; only those of the object service are finished",
        artifact.name, artifact.storage
    )))
}

/// The run that is asked for: without a number, the last.
fn resolve_run(task: &Task, run: Option<RunId>) -> Result<u32, ApiError> {
    match run {
        Some(run) => task.run(run.0).map(|_| run.0),
        None => task
            .runs
            .len()
            .checked_sub(1)
            .and_then(|last| u32::try_from(last).ok())
            .ok_or_else(|| ApiError::not_found(format!("task {} has no runs yet", task.id))),
    }
}

fn find(core: &Core, id: &str, run: Option<RunId>, name: &str) -> Result<(u32, ArtifactRow), ApiError> {
    let run = resolve_run(&core.task(id)?, run)?;
    let artifact = core.store.artifact(id, run, name)?;
    let artifact = artifact.ok_or_else(|| {
        ApiError::not_found(format!(
            "run {run} of task {id} has no artifact {name:?}; list its artifacts"
        ))
    })?;
    Ok((run, artifact))
}

/// What an artifact comes to once its links have been followed.
enum Content {
    Url { storage_type: String, url: String },
    Error { reason: String, message: String },
}

async fn follow(
    context: &Context,
    id: TaskId,
    run: Option<RunId>,
    name: String,
) -> Result<Content, ApiError> {
    let mut name = name;
    let mut seen = BTreeSet::new();
    loop {
        if !seen.insert(name.clone()) {
            return Err(ApiError::input(format!(
                "the links that begin at this artifact lead back to {name:?}"
            )));
        }
        // Each name on the way has to be one that the caller may read.
        context.authorize(&Need::scope(format!("queue:get-artifact:{name}")))?;
        let (task, wanted) = (id.clone(), name.clone());
        let (run, artifact) = context
            .server
            .core
            .read(move |core| find(core, task.as_str(), run, &wanted))
            .await?;
        if artifact.expires < context.server.core.now() {
            return Err(ApiError::expired(format!(
                "the artifact {name:?} expired at {}",
                iso(artifact.expires)
            )));
        }
        match artifact.storage.as_str() {
            "link" => name = artifact.detail,
            "error" => {
                let (reason, message) = artifact.detail.split_once('\n').unwrap_or((&artifact.detail, ""));
                return Ok(Content::Error {
                    reason: reason.to_owned(),
                    message: message.to_owned(),
                });
            }
            "reference" => {
                return Ok(Content::Url {
                    storage_type: artifact.storage,
                    url: artifact.detail,
                });
            }
            _ => {
                let object = ObjectId {
                    task: id.to_string(),
                    run,
                    name,
                };
                let url = storage::signed_url(
                    &context.server,
                    &context.base_url,
                    "GET",
                    &object,
                    context.server.core.now() + GET_LIFE,
                )?;
                return Ok(Content::Url {
                    storage_type: artifact.storage,
                    url,
                });
            }
        }
    }
}

pub(super) async fn get(
    context: Context,
    id: TaskId,
    run: Option<RunId>,
    name: String,
) -> Result<Outcome, ApiError> {
    Ok(Outcome::Raw(match follow(&context, id, run, name).await? {
        Content::Url { storage_type, url } => {
            let location = HeaderValue::from_str(&url).map_err(ApiError::internal)?;
            let kind = HeaderValue::from_str(&storage_type).map_err(ApiError::internal)?;
            let mut response = json_response(
                StatusCode::SEE_OTHER,
                &json!({ "storageType": storage_type, "url": url }),
            );
            response.headers_mut().insert(header::LOCATION, location);
            response
                .headers_mut()
                .insert("x-taskcluster-artifact-storage-type", kind);
            response
        }
        Content::Error { reason, message } => json_response(
            StatusCode::FAILED_DEPENDENCY,
            &json!({ "reason": reason, "message": message }),
        ),
    }))
}

pub(super) async fn content(
    context: Context,
    id: TaskId,
    run: Option<RunId>,
    name: String,
) -> Result<Outcome, ApiError> {
    Ok(Outcome::Json(match follow(&context, id, run, name).await? {
        Content::Url { storage_type, url } => json!({ "storageType": storage_type, "url": url }),
        Content::Error { reason, message } => {
            json!({ "storageType": "error", "reason": reason, "message": message })
        }
    }))
}

fn entry(artifact: &ArtifactRow) -> Value {
    let mut entry = json!({
        "storageType": artifact.storage,
        "name": artifact.name,
        "expires": iso(artifact.expires),
        "contentType": artifact.content_type,
    });
    if let Some(length) = artifact.content_length {
        entry["contentLength"] = length.into();
    }
    entry
}

fn needs_to_list(id: &TaskId, run: Option<RunId>) -> Need {
    Need::scope(match run {
        Some(run) => format!("queue:list-artifacts:{id}:{run}"),
        None => format!("queue:list-artifacts:{id}"),
    })
}

pub(super) async fn info(
    context: Context,
    id: TaskId,
    run: Option<RunId>,
    name: String,
) -> Result<Outcome, ApiError> {
    context.authorize(&needs_to_list(&id, run))?;
    let (_, artifact) = context
        .server
        .core
        .read(move |core| find(core, id.as_str(), run, &name))
        .await?;
    Ok(Outcome::Json(entry(&artifact)))
}

pub(super) async fn list(context: Context, id: TaskId, run: Option<RunId>) -> Result<Outcome, ApiError> {
    context.authorize(&needs_to_list(&id, run))?;
    let page = Page::<1>::asked(&context.query)?;
    let wanted = page.clone();
    let found = context.server.core.read(move |core| {
        let run = resolve_run(&core.task(id.as_str())?, run)?;
        Ok(core
            .store
            .artifacts(id.as_str(), run, &wanted.after[0], wanted.look_for())?)
    });
    let mut found = found.await?;
    let token = page.cut(&mut found, |artifact| [artifact.name.clone()]);
    let artifacts: Vec<Value> = found.iter().map(entry).collect();
    Ok(Outcome::Json(continued(json!({ "artifacts": artifacts }), token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(storage: &str, content_type: &str, expires: Millis, detail: &str) -> ArtifactRow {
        ArtifactRow {
            name: "public/a".to_owned(),
            storage: storage.to_owned(),
            content_type: content_type.to_owned(),
            content_length: None,
            expires,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn what_may_replace_what() {
        for (old, new, allowed) in [
            (artifact("s3", "a", 1, ""), artifact("s3", "a", 2, ""), true),
            (artifact("s3", "a", 2, ""), artifact("s3", "a", 1, ""), false),
            (artifact("s3", "a", 1, ""), artifact("s3", "b", 1, ""), false),
            (
                artifact("reference", "a", 1, "x"),
                artifact("reference", "a", 1, "y"),
                true,
            ),
            (
                artifact("reference", "a", 1, "x"),
                artifact("reference", "b", 1, "x"),
                false,
            ),
            (
                artifact("reference", "a", 1, "x"),
                artifact("link", "b", 1, "y"),
                true,
            ),
            (artifact("link", "a", 1, "x"), artifact("link", "b", 1, "x"), true),
            (
                artifact("link", "a", 1, "x"),
                artifact("link", "a", 1, "y"),
                false,
            ),
            (
                artifact("link", "a", 1, "x"),
                artifact("reference", "a", 1, "x"),
                false,
            ),
            (
                artifact("error", "a", 1, "x"),
                artifact("error", "a", 1, "x"),
                true,
            ),
            (artifact("error", "a", 1, "x"), artifact("s3", "a", 1, ""), false),
        ] {
            let mut replaced = new.clone();
            assert_eq!(
                replace(&old, &mut replaced).is_ok(),
                allowed,
                "{old:?} by {new:?}"
            );
            if allowed && new.storage == "link" {
                assert_eq!(replaced.content_type, "a", "a link keeps the stored type");
            }
        }
    }
}
