//! Which call a request is: its method and path become a value with checked parameters.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use crate::queue::{RunId, TaskId, WorkerPoolId};

/// Where the API begins.
pub(super) const API: &str = "/api/queue/v1";

/// A call of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    CreateTask(TaskId),
    Task(TaskId),
    Tasks,
    Status(TaskId),
    Statuses,
    ScheduleTask(TaskId),
    RerunTask(TaskId),
    CancelTask(TaskId),
    ClaimWork(WorkerPoolId),
    ReclaimTask(TaskId, RunId),
    ReportCompleted(TaskId, RunId),
    ReportFailed(TaskId, RunId),
    ReportException(TaskId, RunId),
    CreateArtifact(TaskId, RunId, String),
    GetArtifact(TaskId, Option<RunId>, String),
    ArtifactContent(TaskId, Option<RunId>, String),
    ArtifactInfo(TaskId, Option<RunId>, String),
    ListArtifacts(TaskId, Option<RunId>),
    PendingTasks(WorkerPoolId),
}

impl Route {
    /// The call that a request is, or why it is none.
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, ApiError> {
        let unknown = || ApiError::not_found(format!("the embedded queue has no {method} {path}"));
        let rest = path
            .strip_prefix(API)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        // Cut first and decode then: an artifact's name may hold encoded slashes.
        let parts: Vec<&str> = rest.split('/').collect();
        let get = *method == Method::GET || *method == Method::HEAD;
        let post = *method == Method::POST;
        let put = *method == Method::PUT;
        Ok(match parts.as_slice() {
            ["ping"] if get => Self::Ping,
            ["tasks"] if post => Self::Tasks,
            ["tasks", "status"] if post => Self::Statuses,
            // The slash within a pool's name is encoded by today's clients and was not by earlier ones.
            ["claim-work", pool @ ..] if post => Self::ClaimWork(parse_pool(pool)?),
            ["pending", pool @ ..] if get => Self::PendingTasks(parse_pool(pool)?),
            ["task", id] if put => Self::CreateTask(parse_task(id)?),
            ["task", id] if get => Self::Task(parse_task(id)?),
            ["task", id, "status"] if get => Self::Status(parse_task(id)?),
            ["task", id, "schedule"] if post => Self::ScheduleTask(parse_task(id)?),
            ["task", id, "rerun"] if post => Self::RerunTask(parse_task(id)?),
            ["task", id, "cancel"] if post => Self::CancelTask(parse_task(id)?),
            ["task", id, "artifacts"] if get => Self::ListArtifacts(parse_task(id)?, None),
            ["task", id, "artifacts", name @ ..] if get => {
                Self::GetArtifact(parse_task(id)?, None, parse_name(name)?)
            }
            ["task", id, "artifact-content", name @ ..] if get => {
                Self::ArtifactContent(parse_task(id)?, None, parse_name(name)?)
            }
            ["task", id, "artifact-info", name @ ..] if get => {
                Self::ArtifactInfo(parse_task(id)?, None, parse_name(name)?)
            }
            ["task", id, "runs", run, rest @ ..] => {
                Self::of_run(parse_task(id)?, run, rest, get, post, unknown)?
            }
            _ => return Err(unknown()),
        })
    }

    fn of_run(
        task: TaskId,
        run: &str,
        rest: &[&str],
        get: bool,
        post: bool,
        unknown: impl Fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let run = || parse_run(run);
        Ok(match rest {
            ["reclaim"] if post => Self::ReclaimTask(task, run()?),
            ["completed"] if post => Self::ReportCompleted(task, run()?),
            ["failed"] if post => Self::ReportFailed(task, run()?),
            ["exception"] if post => Self::ReportException(task, run()?),
            ["artifacts"] if get => Self::ListArtifacts(task, Some(run()?)),
            ["artifacts", name @ ..] if post => Self::CreateArtifact(task, run()?, parse_name(name)?),
            ["artifacts", name @ ..] if get => Self::GetArtifact(task, Some(run()?), parse_name(name)?),
            ["artifact-content", name @ ..] if get => {
                Self::ArtifactContent(task, Some(run()?), parse_name(name)?)
            }
            ["artifact-info", name @ ..] if get => Self::ArtifactInfo(task, Some(run()?), parse_name(name)?),
            _ => return Err(unknown()),
        })
    }

    /// The call's name in the reference.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::CreateTask(_) => "createTask",
            Self::Task(_) => "task",
            Self::Tasks => "tasks",
            Self::Status(_) => "status",
            Self::Statuses => "statuses",
            Self::ScheduleTask(_) => "scheduleTask",
            Self::RerunTask(_) => "rerunTask",
            Self::CancelTask(_) => "cancelTask",
            Self::ClaimWork(_) => "claimWork",
            Self::ReclaimTask(..) => "reclaimTask",
            Self::ReportCompleted(..) => "reportCompleted",
            Self::ReportFailed(..) => "reportFailed",
            Self::ReportException(..) => "reportException",
            Self::CreateArtifact(..) => "createArtifact",
            Self::GetArtifact(_, Some(_), _) => "getArtifact",
            Self::GetArtifact(_, None, _) => "getLatestArtifact",
            Self::ArtifactContent(_, Some(_), _) => "artifact",
            Self::ArtifactContent(_, None, _) => "latestArtifact",
            Self::ArtifactInfo(_, Some(_), _) => "artifactInfo",
            Self::ArtifactInfo(_, None, _) => "latestArtifactInfo",
            Self::ListArtifacts(_, Some(_)) => "listArtifacts",
            Self::ListArtifacts(_, None) => "listLatestArtifacts",
            Self::PendingTasks(_) => "pendingTasks",
        }
    }

    /// Whether its answer comes in pages.
    pub(super) fn is_paged(&self) -> bool {
        matches!(self, Self::Tasks | Self::Statuses | Self::ListArtifacts(..))
    }
}

fn decode(text: &str) -> Result<String, ApiError> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into)
        .map_err(|_| ApiError::arguments("the path is not UTF-8 once decoded"))
}

fn parse_task(text: &str) -> Result<TaskId, ApiError> {
    decode(text)?
        .parse()
        .map_err(|error| ApiError::arguments(format!("in the path, {error}")))
}

fn parse_run(text: &str) -> Result<RunId, ApiError> {
    let text = decode(text)?;
    let number = text
        .parse()
        .ok()
        .filter(|run| *run <= 1000 && text.bytes().all(|b| b.is_ascii_digit()));
    let number = number
        .ok_or_else(|| ApiError::arguments(format!("in the path, {text:?} is not a run id: 0 to 1000")))?;
    Ok(RunId(number))
}

fn parse_pool(parts: &[&str]) -> Result<WorkerPoolId, ApiError> {
    decode(&parts.join("/"))?
        .parse()
        .map_err(|error| ApiError::arguments(format!("in the path, {error}")))
}

fn parse_name(parts: &[&str]) -> Result<String, ApiError> {
    let name = decode(&parts.join("/"))?;
    if name.is_empty() || name.len() > 1024 || !name.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return Err(ApiError::arguments(format!(
            "in the path, {name:?} is not an artifact's name: 1 to 1024 printable ASCII characters"
        )));
    }
    Ok(name)
}

/// The query of a request, where only the parameters of its call may stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) continuation: Option<String>,
    pub(super) limit: Option<usize>,
}

impl Query {
    pub(super) fn parse(query: &str, route: &Route) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "bewit" => {}
                "continuationToken" if route.is_paged() => parsed.continuation = Some(value.into_owned()),
                "limit" if route.is_paged() => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
                    let limit = limit
                        .ok_or_else(|| ApiError::arguments(format!("the limit {value:?} is not a number")))?;
                    parsed.limit = Some(limit);
                }
                _ => {
                    let call = route.name();
                    return Err(ApiError::arguments(format!(
                        "{call} has no query parameter {name:?}; leave it out"
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "fN1SbArXTPSVFNUvaOlinQ";

    fn find(method: Method, path: &str) -> Result<Route, &'static str> {
        Route::find(&method, &format!("{API}{path}")).map_err(|error| error.code)
    }

    #[test]
    fn paths_are_cut_before_they_are_decoded() {
        let (task, pool): (TaskId, WorkerPoolId) = (ID.parse().unwrap(), "p/w".parse().unwrap());
        let log = || "public/logs/a b.log".to_owned();
        assert_eq!(
            find(Method::POST, "/claim-work/p%2Fw"),
            Ok(Route::ClaimWork(pool.clone()))
        );
        assert_eq!(find(Method::POST, "/claim-work/p/w"), Ok(Route::ClaimWork(pool)));
        for path in ["public%2Flogs%2Fa%20b.log", "public/logs/a%20b.log"] {
            assert_eq!(
                find(Method::GET, &format!("/task/{ID}/runs/1/artifacts/{path}")),
                Ok(Route::GetArtifact(task.clone(), Some(RunId(1)), log()))
            );
        }
        assert_eq!(
            find(Method::GET, &format!("/task/{ID}/artifacts")),
            Ok(Route::ListArtifacts(task, None))
        );
    }

    #[test]
    fn malformed_parameters_and_unknown_paths_are_told_apart() {
        assert_eq!(
            find(Method::GET, "/task/nonsense"),
            Err("InvalidRequestArguments")
        );
        assert_eq!(
            find(Method::POST, &format!("/task/{ID}/runs/+1/reclaim")),
            Err("InvalidRequestArguments")
        );
        assert_eq!(
            find(Method::GET, &format!("/task/{ID}/artifacts/a%0Ab")),
            Err("InvalidRequestArguments")
        );
        assert_eq!(
            find(Method::POST, "/claim-work/p"),
            Err("InvalidRequestArguments")
        );
        assert_eq!(find(Method::GET, "/nonsense"), Err("ResourceNotFound"));
        assert_eq!(
            find(Method::DELETE, &format!("/task/{ID}")),
            Err("ResourceNotFound")
        );
    }

    #[test]
    fn only_known_query_parameters_are_accepted() {
        let list = Route::ListArtifacts(ID.parse().unwrap(), None);
        let query = Query {
            continuation: Some("a b".to_owned()),
            limit: Some(5),
        };
        assert_eq!(
            Query::parse("limit=5&continuationToken=a+b&bewit=x", &list),
            Ok(query)
        );
        assert!(Query::parse("limit=-5", &list).is_err());
        assert!(Query::parse("limit=5", &Route::Ping).is_err());
        assert!(Query::parse("other=5", &list).is_err());
    }
}
