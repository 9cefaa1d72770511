//! The calls of Taskcluster's Auth service that a small team needs: clients that last and can be revoked.
//!
//! They are the published ones, so that the official command line and libraries can make and delete clients too.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Authority;
use super::clients::{About, Client, unknown};
use super::core::now;
use super::error::ApiError;
use super::record::iso;
use super::scopes::Need;
use super::server::{Context, Outcome, Server};
use super::{files, schemas};

/// Where the calls are.
pub(super) const API: &str = "/api/auth/v1";
/// How many clients one answer lists.
const PAGE: usize = 1000;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Ping,
    List(List),
    Get(String),
    Create(String),
    Delete(String),
    Reset(String),
}

/// What listing can be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

/// The body of createClient.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    expires: DateTime<Utc>,
    description: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    delete_on_expiration: bool,
}

impl Call {
    /// The call that a request is, or why it is none.
    pub(super) fn find(method: &Method, path: &str, query: &str) -> Result<Self, ApiError> {
        let unknown = || {
            ApiError::not_found(format!(
                "the embedded queue has no {method} {path}; of the Auth service it has the calls that make, list and \
                 delete clients"
            ))
        };
        let rest = path
            .strip_prefix(API)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let get = *method == Method::GET || *method == Method::HEAD;
        let call = match parts.as_slice() {
            ["ping"] if get => Self::Ping,
            ["clients", ""] | ["clients"] if get => return Ok(Self::List(List::parse(query)?)),
            // Today's clients encode the slashes of an id.
            ["clients", id @ .., "reset"] if *method == Method::POST => Self::Reset(parse_id(id)?),
            ["clients", id @ ..] if get => Self::Get(parse_id(id)?),
            ["clients", id @ ..] if *method == Method::PUT => Self::Create(parse_id(id)?),
            ["clients", id @ ..] if *method == Method::DELETE => Self::Delete(parse_id(id)?),
            _ => return Err(unknown()),
        };
        let mut parameters = url::form_urlencoded::parse(query.as_bytes());
        match parameters.find(|(name, _)| name != "bewit") {
            None => Ok(call),
            Some((name, _)) => Err(ApiError::arguments(format!(
                "{} has no query parameter {name:?}; leave it out",
                call.name()
            ))),
        }
    }

    /// The call's name in the reference.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::List(_) => "listClients",
            Self::Get(_) => "client",
            Self::Create(_) => "createClient",
            Self::Delete(_) => "deleteClient",
            Self::Reset(_) => "resetAccessToken",
        }
    }
}

impl List {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut list = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "bewit" => {}
                "prefix" => list.prefix = value.into_owned(),
                "continuationToken" => list.after = Some(value.into_owned()),
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
                    let wrong = || ApiError::arguments(format!("the limit {value:?} is not a number"));
                    list.limit = Some(limit.ok_or_else(wrong)?);
                }
                _ => {
                    return Err(ApiError::arguments(format!(
                        "listClients has no query parameter {name:?}; leave it out"
                    )));
                }
            }
        }
        Ok(list)
    }
}

fn parse_id(parts: &[&str]) -> Result<String, ApiError> {
    let joined = parts.join("/");
    let id = percent_decode_str(&joined).decode_utf8_lossy().into_owned();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!@/:.+|_-".contains(&b);
    if id.is_empty() || id.len() > 255 || !id.bytes().all(allowed) {
        return Err(ApiError::arguments(format!(
            "in the path, {id:?} is not a client's id: up to 255 letters, digits and any of !@/:.+|_-"
        )));
    }
    Ok(id)
}

/// Carries a call out.
pub(super) async fn answer(context: Context, call: Call) -> Result<Outcome, ApiError> {
    let server = &context.server;
    let clients = &server.authority.clients;
    Ok(Outcome::Json(match call {
        Call::Ping => json!({ "alive": true, "uptime": server.storage.uptime().as_secs_f64() }),
        Call::List(list) => {
            context.authorize(&Need::scope("auth:list-clients"))?;
            listed(&list, &server.authority)
        }
        Call::Get(id) => {
            context.authorize(&Need::scope(format!("auth:get-client:{id}")))?;
            described(&id, &*clients.get(&id).ok_or_else(|| unknown(&id))?)
        }
        Call::Create(id) => {
            let body = context.json()?;
            schemas::check(&schemas::CLIENT, &body, "client")?;
            let body: Creation = serde_json::from_value(body)
                .map_err(|error| ApiError::input(format!("the client cannot be understood: {error}")))?;
            let about = About {
                description: body.description,
                scopes: body.scopes,
                expires: body.expires.timestamp_millis(),
                delete_on_expiration: body.delete_on_expiration,
            };
            let mut needs = vec![Need::scope(format!("auth:create-client:{id}"))];
            needs.extend(about.scopes.iter().map(Need::scope));
            context.authorize(&Need::All(needs))?;
            server.authority.check_new(&id, &about.scopes)?;
            let made = id.clone();
            let client = blocking(server, move |authority| {
                authority.clients.create(&made, about, now())
            })
            .await?;
            tracing::info!(client = id, "a client was made");
            with_token(&id, &client)
        }
        Call::Reset(id) => {
            context.authorize(&Need::scope(format!("auth:reset-access-token:{id}")))?;
            let reset = id.clone();
            let client = blocking(server, move |authority| authority.clients.reset(&reset, now())).await?;
            tracing::info!(client = id, "a client got a new access token");
            with_token(&id, &client)
        }
        Call::Delete(id) => {
            context.authorize(&Need::scope(format!("auth:delete-client:{id}")))?;
            let deleted = id.clone();
            blocking(server, move |authority| authority.clients.delete(&deleted)).await?;
            tracing::info!(client = id, "a client was deleted");
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(Outcome::Raw(response));
        }
    }))
}

async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Authority) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || work(&server.authority))
        .await
        .map_err(ApiError::internal)?
}

fn listed(list: &List, authority: &Authority) -> Value {
    let all = authority.clients.all();
    let limit = list.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let after = list.after.clone().unwrap_or_default();
    let now = now();
    let mut matching = all.range(after..).filter(|(id, client)| {
        id.starts_with(&list.prefix) && list.after.as_ref() != Some(*id) && !client.is_over(now)
    });
    let page: Vec<_> = matching.by_ref().take(limit).collect();
    let clients: Vec<Value> = page.iter().map(|(id, client)| described(id, client)).collect();
    let mut answer = json!({ "clients": clients });
    if let (Some(_), Some((last, _))) = (matching.next(), page.last()) {
        answer["continuationToken"] = last.as_str().into();
    }
    answer
}

fn described(id: &str, client: &Client) -> Value {
    let about = &client.about;
    let changed = iso(client.rotated);
    json!({
        "clientId": id,
        "description": about.description,
        "scopes": about.scopes,
        // There are no roles here that would expand them.
        "expandedScopes": about.scopes,
        "expires": iso(about.expires),
        "deleteOnExpiration": about.delete_on_expiration,
        "disabled": false,
        "created": iso(client.created),
        "lastModified": changed,
        "lastRotated": changed,
        // Not kept: it would be a write for each request.
        "lastDateUsed": changed,
    })
}

fn with_token(id: &str, client: &Client) -> Value {
    let mut value = described(id, client);
    value["accessToken"] = client.access_token.as_str().into();
    value
}

/// Whether a name is one that the queue itself gives.
pub(super) fn is_reserved(id: &str) -> bool {
    id.starts_with(files::OWN_CLIENTS) || id.starts_with("task-client/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: Method, path: &str, query: &str) -> Result<Call, &'static str> {
        Call::find(&method, &format!("{API}{path}"), query).map_err(|error| error.code)
    }

    #[test]
    fn ids_may_hold_slashes() {
        for path in ["/clients/team%2Fci", "/clients/team/ci"] {
            assert_eq!(find(Method::GET, path, ""), Ok(Call::Get("team/ci".into())));
            assert_eq!(find(Method::PUT, path, ""), Ok(Call::Create("team/ci".into())));
            assert_eq!(find(Method::DELETE, path, ""), Ok(Call::Delete("team/ci".into())));
            assert_eq!(
                find(Method::POST, &format!("{path}/reset"), ""),
                Ok(Call::Reset("team/ci".into()))
            );
        }
        assert!(matches!(find(Method::GET, "/clients/", ""), Ok(Call::List(_))));
    }

    #[test]
    fn what_is_no_call_is_told_from_what_is_malformed() {
        assert_eq!(find(Method::POST, "/clients/a", ""), Err("ResourceNotFound"));
        assert_eq!(find(Method::GET, "/roles/", ""), Err("ResourceNotFound"));
        assert_eq!(
            find(Method::PUT, "/clients/a%20b", ""),
            Err("InvalidRequestArguments")
        );
        assert_eq!(
            find(Method::PUT, "/clients/a", "x=1"),
            Err("InvalidRequestArguments")
        );
        assert_eq!(
            find(Method::GET, "/clients/", "limit=-1"),
            Err("InvalidRequestArguments")
        );
    }
}
