//! From a request to an answer: which call it is, who makes it, what it carries, and how its outcome is written.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::EmbeddedConfig;
use super::PayloadRules;
use super::address::Address;
use super::auth::{Authority, Caller, Signed};
use super::client_calls;
use super::core::CoreHandle;
use super::error::ApiError;
use super::route::{API, Query, Route};
use super::scopes::Need;
use super::storage::Storage;
use super::{artifacts, claims, counts, groups, tasks, workers};

/// The most bytes that a call's body may have.
const LARGEST_BODY: usize = 10 * 1024 * 1024;
/// The same for somebody without credentials: whoever can connect must not be able to fill the memory.
const LARGEST_ANONYMOUS_BODY: usize = 64 * 1024;

/// What all calls share.
pub(super) struct Server {
    pub(super) config: EmbeddedConfig,
    /// What clients know it as.
    pub(super) address: Address,
    pub(super) authority: Authority,
    pub(super) core: CoreHandle,
    pub(super) storage: Storage,
    /// What the payloads of worker types have to be, by pool.
    pub(super) payload_rules: RwLock<HashMap<String, PayloadRules>>,
    /// Becomes true when the server stops; what waits then answers at once.
    pub(super) stopping: watch::Receiver<bool>,
    /// Each change answers the claims that wait now.
    pub(super) released: watch::Sender<()>,
}

impl Server {
    pub(super) fn payload_rules(&self, pool: &str) -> Option<PayloadRules> {
        self.payload_rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(pool)
            .cloned()
    }
}

/// One call on its way.
pub(super) struct Context {
    pub(super) server: Arc<Server>,
    pub(super) query: Query,
    pub(super) body: Bytes,
    /// `http://host:port` or the like, as the client knows us.
    pub(super) base_url: String,
    caller: Result<Caller, ApiError>,
    content_type: Option<String>,
}

impl Context {
    /// Refuses a caller that lacks what the call needs, or whose credentials are wrong.
    pub(super) fn authorize(&self, need: &Need) -> Result<(), ApiError> {
        self.caller.as_ref().map_err(Clone::clone)?.authorize(need)
    }

    /// The client that calls; empty for nobody.
    pub(super) fn client_id(&self) -> String {
        let caller = self.caller.as_ref().ok();
        caller
            .and_then(|caller| caller.client_id.clone())
            .unwrap_or_default()
    }

    /// The body as JSON.
    pub(super) fn json(&self) -> Result<Value, ApiError> {
        if self.content_type.as_deref() != Some("application/json") {
            return Err(ApiError::malformed(
                "the body has to have the Content-Type application/json",
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| ApiError::malformed(format!("the body is not JSON: {error}")))
    }
}

/// What a call answers.
pub(super) enum Outcome {
    Json(Value),
    /// Anything else, headers included.
    Raw(Response),
}

/// A call of one of the services.
enum Call {
    Queue(Route, Query),
    Auth(client_calls::Call),
}

impl Call {
    fn find(method: &Method, path: &str, query: &str) -> Result<Self, (ApiError, Option<&'static str>)> {
        if path.starts_with(client_calls::API) {
            let call = client_calls::Call::find(method, path, query);
            return call.map(Self::Auth).map_err(|error| (error, None));
        }
        let route = Route::find(method, path).map_err(|error| (error, None))?;
        match Query::parse(query, &route) {
            Ok(query) => Ok(Self::Queue(route, query)),
            Err(error) => Err((error, Some(route.name()))),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Queue(route, _) => route.name(),
            Self::Auth(call) => call.name(),
        }
    }
}

/// Answers any request. What panics is answered as our own fault: others go on.
pub(super) async fn handle(server: Arc<Server>, request: Request) -> Response {
    match AssertUnwindSafe(answer(server, request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => error_response(
            &ApiError::internal("carrying out a call panicked"),
            json!({ "time": super::record::iso(super::core::now()) }),
        ),
    }
}

async fn answer(server: Arc<Server>, request: Request) -> Response {
    let reached = match server.address.reached(request.uri(), request.headers()) {
        Ok(reached) => reached,
        Err(error) => return error_response(&error, json!({})),
    };
    let path = request.uri().path();
    if path.starts_with(super::storage::PREFIX) {
        let stall = server.config.limits.stall;
        let request = request.map(|body| impatient(body, stall));
        return match super::storage::handle(server, request).await {
            Ok(response) => response,
            Err(error) => error_response(&error, json!({})),
        };
    }
    if let "/" | "/api/queue" = path.trim_end_matches("/v1") {
        return json_response(
            StatusCode::OK,
            &json!({ "service": "tcw embedded queue", "api": API }),
        );
    }
    let (parts, body) = request.into_parts();
    let (method, path) = (&parts.method, parts.uri.path());
    let mut info =
        json!({ "method": format!("{method} {path}"), "time": super::record::iso(super::core::now()) });
    let call = match Call::find(method, path, parts.uri.query().unwrap_or_default()) {
        Ok(call) => call,
        Err((error, name)) => {
            if let Some(name) = name {
                info["method"] = name.into();
            }
            return error_response(&error, info);
        }
    };
    info["method"] = call.name().into();
    let mut sent = Bytes::new();
    let outcome = async {
        let resource = parts
            .uri
            .path_and_query()
            .map_or("/", |resource| resource.as_str());
        let signed = Signed {
            method,
            resource,
            host: &reached.host,
            port: reached.port,
            headers: &parts.headers,
        };
        let authenticated = server.authority.authenticate(&signed);
        let most = match &authenticated {
            Ok(somebody) if !somebody.is_anonymous() => LARGEST_BODY,
            _ => LARGEST_ANONYMOUS_BODY,
        };
        let body = match read_body(body, most, server.config.limits.body).await {
            Ok(body) => body,
            // That the credentials are wrong is what has to be told first.
            Err(error) => return Err(authenticated.err().unwrap_or(error)),
        };
        sent = body.clone();
        let mut context = Context {
            query: Query::default(),
            caller: authenticated.and_then(|somebody| somebody.with_body(&parts.headers, &body)),
            base_url: reached.base_url,
            content_type: media_type(&parts.headers),
            body,
            server: Arc::clone(&server),
        };
        match call {
            Call::Queue(route, query) => {
                context.query = query;
                dispatch(context, route).await
            }
            Call::Auth(call) => client_calls::answer(context, call).await,
        }
    }
    .await;
    match outcome {
        Ok(Outcome::Json(body)) => json_response(StatusCode::OK, &body),
        Ok(Outcome::Raw(response)) => response,
        Err(error) => {
            if let Ok(payload) = serde_json::from_slice(&sent) {
                // Like the services, errors repeat what was sent.
                info["payload"] = payload_echo(payload);
            }
            error_response(&error, info)
        }
    }
}

async fn dispatch(context: Context, route: Route) -> Result<Outcome, ApiError> {
    use super::record::ReasonResolved::{Completed, Failed};
    match route {
        Route::Ping => Ok(Outcome::Json(
            json!({ "alive": true, "uptime": context.server.storage.uptime().as_secs_f64() }),
        )),
        Route::CreateTask(task) => tasks::create(context, task).await,
        Route::Task(task) => tasks::task(context, task).await,
        Route::Tasks => tasks::tasks(context).await,
        Route::Status(task) => tasks::status(context, task).await,
        Route::Statuses => tasks::statuses(context).await,
        Route::ScheduleTask(task) => tasks::change(context, task, tasks::Change::Schedule).await,
        Route::RerunTask(task) => tasks::change(context, task, tasks::Change::Rerun).await,
        Route::CancelTask(task) => tasks::change(context, task, tasks::Change::Cancel).await,
        Route::ChangeTaskPriority(task) => tasks::change_priority(context, task).await,
        Route::ListDependentTasks(task) => tasks::dependents(context, task).await,
        Route::ListTaskGroup(group) => groups::list(context, group).await,
        Route::GetTaskGroup(group) => groups::get(context, group).await,
        Route::CancelTaskGroup(group) => groups::cancel(context, group).await,
        Route::SealTaskGroup(group) => groups::seal(context, group).await,
        Route::ChangeTaskGroupPriority(group) => groups::change_priority(context, group).await,
        Route::PendingTasks(pool) => counts::pending(context, pool).await,
        Route::TaskQueueCounts(pool) => counts::both(context, pool).await,
        Route::ListPendingTasks(pool) => counts::list_pending(context, pool).await,
        Route::ListClaimedTasks(pool) => counts::list_claimed(context, pool).await,
        Route::ListTaskQueues => workers::list_queues(context).await,
        Route::GetTaskQueue(pool) => workers::get_queue(context, pool).await,
        Route::ListProvisioners => workers::list_provisioners(context).await,
        Route::GetProvisioner(provisioner) => workers::get_provisioner(context, provisioner).await,
        Route::ListWorkerTypes(provisioner) => workers::list_worker_types(context, provisioner).await,
        Route::GetWorkerType(pool) => workers::get_worker_type(context, pool).await,
        Route::ListWorkers(pool) => workers::list_workers(context, pool).await,
        Route::GetWorker(worker) => workers::get_worker(context, worker).await,
        Route::QuarantineWorker(worker) => workers::quarantine(context, worker).await,
        Route::DeclareWorker(worker) => workers::declare(context, worker).await,
        Route::Heartbeat | Route::LoadBalancerHeartbeat => Ok(Outcome::Json(json!({}))),
        Route::Version => Ok(Outcome::Json(json!({
            "source": "tcw embedded queue",
            "version": env!("CARGO_PKG_VERSION"),
            "commit": "",
            "build": "",
        }))),
        Route::ClaimTask(task, run) => claims::claim_task(context, task, run).await,
        Route::FinishArtifact(task, run, name) => artifacts::finish(context, task, run, name).await,
        Route::ClaimWork(pool) => claims::claim_work(context, pool).await,
        Route::ReclaimTask(task, run) => claims::reclaim(context, task, run).await,
        Route::ReportCompleted(task, run) => claims::report(context, task, run, Some(Completed)).await,
        Route::ReportFailed(task, run) => claims::report(context, task, run, Some(Failed)).await,
        Route::ReportException(task, run) => claims::report(context, task, run, None).await,
        Route::CreateArtifact(task, run, name) => artifacts::create(context, task, run, name).await,
        Route::GetArtifact(task, run, name) => artifacts::get(context, task, run, name).await,
        Route::ArtifactContent(task, run, name) => artifacts::content(context, task, run, name).await,
        Route::ArtifactInfo(task, run, name) => artifacts::info(context, task, run, name).await,
        Route::ListArtifacts(task, run) => artifacts::list(context, task, run).await,
    }
}

async fn read_body(body: Body, most: usize, within: Duration) -> Result<Bytes, ApiError> {
    let body = match tokio::time::timeout(within, axum::body::to_bytes(body, most)).await {
        Ok(body) => body,
        Err(_) => {
            return Err(ApiError::with_status(
                StatusCode::REQUEST_TIMEOUT,
                "RequestTimeout",
                format!("the body did not arrive within {within:?}"),
            ));
        }
    };
    body.map_err(|error| {
        let too_large = std::error::Error::source(&error)
            .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
        if too_large {
            let of_whom = if most < LARGEST_BODY {
                ", the most without credentials"
            } else {
                ""
            };
            ApiError::too_large(format!("the body is larger than {} KiB{of_whom}", most >> 10))
        } else {
            ApiError::malformed(format!("the body did not arrive: {error}"))
        }
    })
}

/// The same body, which fails when nothing of it arrives for so long.
fn impatient(body: Body, stall: Duration) -> Body {
    let pieces = futures_util::stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(stall, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(_) => {
                let message = format!("nothing of it arrived for {stall:?}");
                Some((Err(axum::Error::new(std::io::Error::other(message))), None))
            }
        }
    });
    Body::from_stream(pieces)
}

/// What of a body is repeated in an error: all of it, unless it is large.
fn payload_echo(payload: Value) -> Value {
    if payload.to_string().len() > 16 * 1024 {
        "(too large to repeat)".into()
    } else {
        payload
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn error_response(error: &ApiError, info: Value) -> Response {
    let mut response = json_response(
        error.status,
        &json!({ "code": error.code, "message": error.message, "requestInfo": info }),
    );
    if error.status == StatusCode::UNAUTHORIZED {
        let challenge = error.challenge.as_deref().map(|more| format!("Hawk {more}"));
        let challenge = challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok());
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            challenge.unwrap_or(HeaderValue::from_static("Hawk")),
        );
    }
    response
}

/// Whether a method asks for headers only.
pub(super) fn is_head(method: &Method) -> bool {
    method == Method::HEAD
}
