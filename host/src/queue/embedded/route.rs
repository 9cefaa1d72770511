//! Which call a request is: its method and path become a value with checked parameters.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::store_workers::WorkerName;
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
    FinishArtifact(TaskId, RunId, String),
    ClaimTask(TaskId, RunId),
    ChangeTaskPriority(TaskId),
    ListDependentTasks(TaskId),
    ListTaskGroup(TaskId),
    GetTaskGroup(TaskId),
    CancelTaskGroup(TaskId),
    SealTaskGroup(TaskId),
    ChangeTaskGroupPriority(TaskId),
    PendingTasks(WorkerPoolId),
    TaskQueueCounts(WorkerPoolId),
    ListPendingTasks(WorkerPoolId),
    ListClaimedTasks(WorkerPoolId),
    ListTaskQueues,
    GetTaskQueue(WorkerPoolId),
    ListProvisioners,
    GetProvisioner(String),
    ListWorkerTypes(String),
    GetWorkerType(WorkerPoolId),
    ListWorkers(WorkerPoolId),
    GetWorker(WorkerName),
    QuarantineWorker(WorkerName),
    DeclareWorker(WorkerName),
    Heartbeat,
    LoadBalancerHeartbeat,
    Version,
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
            ["__heartbeat__"] if get => Self::Heartbeat,
            ["__lbheartbeat__"] if get => Self::LoadBalancerHeartbeat,
            ["__version__"] if get => Self::Version,
            ["tasks"] if post => Self::Tasks,
            ["tasks", "status"] if post => Self::Statuses,
            // The slash within a pool's name is encoded by today's clients and was not by earlier ones.
            ["claim-work", pool @ ..] if post => Self::ClaimWork(parse_pool(pool)?),
            ["pending", pool @ ..] if get => Self::PendingTasks(parse_pool(pool)?),
            ["task-queues"] if get => Self::ListTaskQueues,
            ["task-queues", pool @ .., "counts"] if get => Self::TaskQueueCounts(parse_pool(pool)?),
            ["task-queues", pool @ .., "pending"] if get => Self::ListPendingTasks(parse_pool(pool)?),
            ["task-queues", pool @ .., "claimed"] if get => Self::ListClaimedTasks(parse_pool(pool)?),
            ["task-queues", pool @ ..] if get => Self::GetTaskQueue(parse_pool(pool)?),
            ["provisioners", rest @ ..] => Self::of_provisioner(rest, get, put, unknown)?,
            ["task-group", group, rest @ ..] => Self::of_group(group, rest, get, post, unknown)?,
            ["task", id] if put => Self::CreateTask(parse_task(id)?),
            ["task", id] if get => Self::Task(parse_task(id)?),
            ["task", id, "status"] if get => Self::Status(parse_task(id)?),
            ["task", id, "schedule"] if post => Self::ScheduleTask(parse_task(id)?),
            ["task", id, "rerun"] if post => Self::RerunTask(parse_task(id)?),
            ["task", id, "cancel"] if post => Self::CancelTask(parse_task(id)?),
            ["task", id, "priority"] if post => Self::ChangeTaskPriority(parse_task(id)?),
            ["task", id, "dependents"] if get => Self::ListDependentTasks(parse_task(id)?),
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
                Self::of_run(parse_task(id)?, run, rest, method, unknown)?
            }
            _ => return Err(unknown()),
        })
    }

    fn of_run(
        task: TaskId,
        run: &str,
        rest: &[&str],
        method: &Method,
        unknown: impl Fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let run = || parse_run(run);
        let get = *method == Method::GET || *method == Method::HEAD;
        let (post, put) = (*method == Method::POST, *method == Method::PUT);
        Ok(match rest {
            ["claim"] if post => Self::ClaimTask(task, run()?),
            ["artifacts", name @ ..] if put => Self::FinishArtifact(task, run()?, parse_name(name)?),
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

    fn of_group(
        group: &str,
        rest: &[&str],
        get: bool,
        post: bool,
        unknown: impl Fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let group = || parse_task(group);
        Ok(match rest {
            [] if get => Self::GetTaskGroup(group()?),
            ["list"] if get => Self::ListTaskGroup(group()?),
            ["cancel"] if post => Self::CancelTaskGroup(group()?),
            ["seal"] if post => Self::SealTaskGroup(group()?),
            ["priority"] if post => Self::ChangeTaskGroupPriority(group()?),
            _ => return Err(unknown()),
        })
    }

    fn of_provisioner(
        rest: &[&str],
        get: bool,
        put: bool,
        unknown: impl Fn() -> ApiError,
    ) -> Result<Self, ApiError> {
        let pool = |provisioner: &str, worker_type: &str| parse_pool(&[provisioner, worker_type]);
        let worker = |provisioner: &str, worker_type: &str, group: &str, id: &str| {
            Ok::<_, ApiError>(WorkerName {
                pool: pool(provisioner, worker_type)?.to_string(),
                group: parse_identifier(group, "worker group")?,
                id: parse_identifier(id, "worker id")?,
            })
        };
        Ok(match rest {
            [] if get => Self::ListProvisioners,
            [p] if get => Self::GetProvisioner(parse_identifier(p, "provisioner")?),
            [p, "worker-types"] if get => Self::ListWorkerTypes(parse_identifier(p, "provisioner")?),
            [p, "worker-types", w] if get => Self::GetWorkerType(pool(p, w)?),
            [p, "worker-types", w, "workers"] if get => Self::ListWorkers(pool(p, w)?),
            [p, "worker-types", w, "workers", g, id] if get => Self::GetWorker(worker(p, w, g, id)?),
            [p, "worker-types", w, "workers", g, id] if put => Self::QuarantineWorker(worker(p, w, g, id)?),
            [p, "worker-types", w, g, id] if put => Self::DeclareWorker(worker(p, w, g, id)?),
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
            Self::FinishArtifact(..) => "finishArtifact",
            Self::ClaimTask(..) => "claimTask",
            Self::ChangeTaskPriority(_) => "changeTaskPriority",
            Self::ListDependentTasks(_) => "listDependentTasks",
            Self::ListTaskGroup(_) => "listTaskGroup",
            Self::GetTaskGroup(_) => "getTaskGroup",
            Self::CancelTaskGroup(_) => "cancelTaskGroup",
            Self::SealTaskGroup(_) => "sealTaskGroup",
            Self::ChangeTaskGroupPriority(_) => "changeTaskGroupPriority",
            Self::PendingTasks(_) => "pendingTasks",
            Self::TaskQueueCounts(_) => "taskQueueCounts",
            Self::ListPendingTasks(_) => "listPendingTasks",
            Self::ListClaimedTasks(_) => "listClaimedTasks",
            Self::ListTaskQueues => "listTaskQueues",
            Self::GetTaskQueue(_) => "getTaskQueue",
            Self::ListProvisioners => "listProvisioners",
            Self::GetProvisioner(_) => "getProvisioner",
            Self::ListWorkerTypes(_) => "listWorkerTypes",
            Self::GetWorkerType(_) => "getWorkerType",
            Self::ListWorkers(_) => "listWorkers",
            Self::GetWorker(_) => "getWorker",
            Self::QuarantineWorker(_) => "quarantineWorker",
            Self::DeclareWorker(_) => "declareWorker",
            Self::Heartbeat => "heartbeat",
            Self::LoadBalancerHeartbeat => "lbheartbeat",
            Self::Version => "version",
        }
    }

    /// Whether its answer comes in pages.
    pub(super) fn is_paged(&self) -> bool {
        matches!(
            self,
            Self::Tasks
                | Self::Statuses
                | Self::ListArtifacts(..)
                | Self::ListDependentTasks(_)
                | Self::ListTaskGroup(_)
                | Self::ListPendingTasks(_)
                | Self::ListClaimedTasks(_)
                | Self::ListTaskQueues
                | Self::ListProvisioners
                | Self::ListWorkerTypes(_)
                | Self::ListWorkers(_)
        )
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

fn parse_identifier(text: &str, what: &str) -> Result<String, ApiError> {
    let text = decode(text)?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=38).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text)
    } else {
        Err(ApiError::arguments(format!(
            "in the path, {text:?} is not a {what}: 1 to 38 letters, digits, - and _"
        )))
    }
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
    /// Whether workers in quarantine are wanted, or those that are not.
    pub(super) quarantined: Option<bool>,
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
                "quarantined" if matches!(route, Route::ListWorkers(_)) => {
                    parsed.quarantined = Some(value.parse().map_err(|_| {
                        ApiError::arguments(format!("quarantined is {value:?}; it is true or false"))
                    })?);
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
            ..Query::default()
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
