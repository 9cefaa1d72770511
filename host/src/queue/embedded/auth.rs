//! Who asks: Hawk headers and bewits, the root client, and temporary credentials.
//!
//! There is one root client, whose token was made at first start, and the [`clients`](super::clients) that somebody has
//! made with it. Everybody else has temporary credentials that one of them has signed: the queue its own for each run.
//! A signed request is carried out once ([`nonces`](super::nonces)); a signed URL as often as somebody asks, until it ends.

use std::time::Duration;

use axum::http::{HeaderMap, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client_calls::is_reserved;
use super::clients::Clients;
use super::error::ApiError;
use super::nonces::{Nonces, Refusal};
use super::record::Millis;
use super::scopes::{ANONYMOUS, Need, satisfied};
use super::signature::{check_bewit_time, media_type, parse_ext, parse_header, refused, stale};
use crate::queue::Credentials;

/// How far a client's clock may be off, in seconds.
pub(super) const CLOCK_TOLERANCE: u64 = 15 * 60;
/// Whether a time is right is asked after the signature: so the hawk crate is not to look at it.
const ANY_TIME: Duration = Duration::from_secs(1 << 40);

/// How far a certificate's times may be off.
const CERTIFICATE_TOLERANCE: Millis = 5 * 60 * 1000;
/// The longest that temporary credentials may last.
const LONGEST_CERTIFICATE: Millis = 31 * 24 * 3600 * 1000;

/// A certificate as clients send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    version: u32,
    scopes: Vec<String>,
    start: Millis,
    expiry: Millis,
    seed: String,
    signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
}

impl Certificate {
    /// The text that is signed, which names the client only if the credentials are named ones.
    fn signed_text(&self, client_id: &str) -> String {
        let named = self
            .issuer
            .as_ref()
            .map(|issuer| format!("clientId:{client_id}\nissuer:{issuer}\n"));
        let mut text = format!(
            "version:{}\n{}seed:{}\nstart:{}\nexpiry:{}\nscopes:",
            self.version,
            named.unwrap_or_default(),
            self.seed,
            self.start,
            self.expiry,
        );
        for scope in &self.scopes {
            text.push('\n');
            text.push_str(scope);
        }
        text
    }
}

/// Somebody who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) client_id: Option<String>,
    pub(super) scopes: Vec<String>,
}

impl Caller {
    fn new(client_id: Option<String>, mut scopes: Vec<String>) -> Self {
        scopes.extend(ANONYMOUS.map(str::to_owned));
        Self { client_id, scopes }
    }

    pub(super) fn authorize(&self, need: &Need) -> Result<(), ApiError> {
        if need.is_met(&self.scopes) {
            return Ok(());
        }
        let missing = need.missing(&self.scopes);
        Err(ApiError::scopes(match &self.client_id {
            Some(id) => format!("client {id:?} lacks {missing}; use credentials that have it"),
            None => format!("without credentials there is no {missing}; use credentials that have it"),
        }))
    }
}

/// What of a request is signed, apart from its body.
pub(super) struct Signed<'a> {
    pub(super) method: &'a Method,
    /// The path with its query, as sent.
    pub(super) resource: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) headers: &'a HeaderMap,
}

/// Somebody whose signature is right, for a body that may still have to be checked.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) caller: Caller,
    /// What the body was signed as.
    body_hash: Option<Vec<u8>>,
}

impl Authenticated {
    /// Whether it carries credentials at all.
    pub(super) fn is_anonymous(&self) -> bool {
        self.caller.client_id.is_none()
    }

    /// Refuses another body than was signed, if it was.
    pub(super) fn with_body(self, headers: &HeaderMap, body: &[u8]) -> Result<Caller, ApiError> {
        if let Some(signed) = &self.body_hash {
            let is_signed = |media_type: &str| {
                hawk::PayloadHasher::hash(media_type, hawk::SHA256, body).map(|hash| same(&hash, signed))
            };
            // Of nothing the type says nothing: aiohttp adds one after the official client has signed without.
            let fits = is_signed(&media_type(headers)).map_err(ApiError::internal)?
                || body.is_empty() && is_signed("").map_err(ApiError::internal)?;
            if !fits {
                return Err(refused(
                    "the body is not the one that was signed, or its Content-Type is not",
                ));
            }
        }
        Ok(self.caller)
    }
}

/// Who may sign: the root client and those that somebody has made.
pub(super) struct Authority {
    root: Credentials,
    storage_key: hawk::Key,
    pub(super) clients: Clients,
    nonces: Nonces,
}

/// A client that signs requests, or certificates.
struct Signatory {
    token: String,
    scopes: Vec<String>,
}

impl Authority {
    pub(super) fn new(root: Credentials, clients: Clients, nonces: Nonces) -> Result<Self, String> {
        // A key of its own, so that nothing signed for storage can pass for anything else.
        let storage_key = key(&root.access_token)?
            .sign(b"storage urls")
            .map_err(|error| error.to_string())?;
        let storage_key = hawk::Key::new(storage_key, hawk::SHA256).map_err(|error| error.to_string())?;
        Ok(Self {
            root,
            storage_key,
            clients,
            nonces,
        })
    }

    pub(super) fn root(&self) -> &Credentials {
        &self.root
    }

    /// Refuses names that are taken, and scopes that are none.
    pub(super) fn check_new(&self, id: &str, scopes: &[String]) -> Result<(), ApiError> {
        if id == self.root.client_id || is_reserved(id) {
            return Err(ApiError::input(format!(
                "{id:?} is a name that the queue itself gives; choose another"
            )));
        }
        match scopes.iter().find(|scope| scope.ends_with("**")) {
            Some(scope) => Err(ApiError::input(format!(
                "{scope:?} is not a scope: it ends in more than one star"
            ))),
            None => Ok(()),
        }
    }

    /// Who has signed a request; nobody if it is not signed.
    pub(super) fn authenticate(&self, request: &Signed<'_>) -> Result<Authenticated, ApiError> {
        let mut headers = request.headers.get_all(header::AUTHORIZATION).iter();
        let has_bewit = request
            .resource
            .split_once('?')
            .is_some_and(|(_, query)| query.split('&').any(|p| p.starts_with("bewit=")));
        match (headers.next(), headers.next(), has_bewit) {
            (None, _, false) => Ok(Authenticated {
                caller: Caller::new(None, Vec::new()),
                body_hash: None,
            }),
            (Some(_), Some(_), _) => Err(refused("it has several Authorization headers; send one")),
            (Some(_), None, true) => Err(refused(
                "it has both an Authorization header and a bewit; send one of them",
            )),
            (Some(value), None, false) => {
                let text = value
                    .to_str()
                    .map_err(|_| refused("the Authorization header is not ASCII"))?;
                self.check_header(request, text)
            }
            (None, _, true) => Ok(Authenticated {
                caller: self.check_bewit(request)?,
                body_hash: None,
            }),
        }
    }

    fn check_header(&self, request: &Signed<'_>, text: &str) -> Result<Authenticated, ApiError> {
        let header = parse_header(text)?;
        let (Some(client_id), Some(ts), Some(nonce)) = (&header.id, header.ts, &header.nonce) else {
            return Err(refused(
                "the Authorization header lacks one of id, ts, nonce and mac; all of them are needed",
            ));
        };
        let ext = parse_ext(header.ext.as_deref())?;
        let signatory = self.credentials_of(client_id, ext.certificate)?;
        let key = key(&signatory.token).map_err(ApiError::internal)?;
        let signed = hawk::RequestBuilder::new(
            request.method.as_str(),
            request.host,
            request.port,
            request.resource,
        );
        if !signed.request().validate_header(&header, &key, ANY_TIME) {
            return Err(refused(format!(
                "the signature of client {client_id:?} does not fit the request; check the access token and the root URL"
            )));
        }
        let now = now_in_seconds();
        let ts = ts
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        match self.nonces.admit(now, client_id, nonce, ts) {
            Ok(()) => {}
            Err(Refusal::Time) => return Err(stale(&key, now, ts)),
            Err(Refusal::Repeated) => {
                return Err(refused(
                    "this signed request was here before, and is carried out once; sign anew to repeat it",
                ));
            }
            Err(Refusal::Full) => {
                return Err(ApiError::with_status(
                    axum::http::StatusCode::TOO_MANY_REQUESTS,
                    "TooManyRequests",
                    "more signed requests than the embedded queue can tell from repeated ones; try again in a minute",
                ));
            }
        }
        Ok(Authenticated {
            caller: limit(client_id.clone(), signatory.scopes, ext.authorized_scopes)?,
            body_hash: header.hash,
        })
    }

    fn check_bewit(&self, request: &Signed<'_>) -> Result<Caller, ApiError> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(refused("a bewit only signs GET requests"));
        }
        check_bewit_time(request.resource)?;
        let mut bewit = None;
        // Clients sign for GET; a HEAD of the same URL asks for less.
        let signed = hawk::RequestBuilder::new("GET", request.host, request.port, request.resource)
            .extract_bewit(&mut bewit)
            .map_err(|error| refused(format!("the bewit is malformed: {error}")))?;
        let bewit = bewit.ok_or_else(|| refused("the bewit is malformed"))?;
        let client_id = bewit.id().to_owned();
        let ext = parse_ext(bewit.ext())?;
        let Signatory { token, scopes } = self.credentials_of(&client_id, ext.certificate)?;
        if !signed
            .request()
            .validate_bewit(&bewit, &key(&token).map_err(ApiError::internal)?)
        {
            return Err(refused(
                "the signed URL has expired, or was not signed with this client's access token",
            ));
        }
        limit(client_id, scopes, ext.authorized_scopes)
    }

    /// A client that is permanent.
    fn signatory(&self, id: &str) -> Result<Signatory, ApiError> {
        if id == self.root.client_id {
            return Ok(Signatory {
                token: self.root.access_token.clone(),
                scopes: vec!["*".to_owned()],
            });
        }
        let client = self.clients.get(id).ok_or_else(|| {
            refused(format!(
                "there is no client {id:?}: it was deleted, or is of another queue; `tcw-host queue client list` has \
                 those of this one"
            ))
        })?;
        if client.about.expires < super::core::now() {
            return Err(refused(format!(
                "client {id:?} expired on {}; make another",
                super::record::iso(client.about.expires)
            )));
        }
        Ok(Signatory {
            token: client.access_token.clone(),
            scopes: client.about.scopes.clone(),
        })
    }

    /// What a client has to have signed with, and its scopes.
    fn credentials_of(&self, client_id: &str, certificate: Option<Value>) -> Result<Signatory, ApiError> {
        let Some(certificate) = certificate else {
            return self.signatory(client_id);
        };
        // Some clients send the certificate as text.
        let certificate: Result<Certificate, _> = match certificate {
            Value::String(text) => serde_json::from_str(&text),
            other => serde_json::from_value(other),
        };
        let certificate =
            certificate.map_err(|error| refused(format!("the certificate is malformed: {error}")))?;
        if certificate.version != 1 {
            return Err(refused("the certificate is not of version 1"));
        }
        if certificate.issuer.as_deref() == Some(client_id) {
            return Err(refused(
                "a certificate for named credentials has to name another client than its issuer",
            ));
        }
        let issuer = self.signatory(certificate.issuer.as_deref().unwrap_or(client_id))?;
        let signature = STANDARD.encode(hmac(&issuer.token, &certificate.signed_text(client_id))?);
        if !same(signature.as_bytes(), certificate.signature.as_bytes()) {
            return Err(refused("the certificate's signature is wrong"));
        }
        let now = super::core::now();
        if certificate.expiry.saturating_sub(certificate.start) > LONGEST_CERTIFICATE {
            return Err(refused("the certificate lasts more than 31 days"));
        }
        if now < certificate.start.saturating_sub(CERTIFICATE_TOLERANCE)
            || certificate.expiry.saturating_add(CERTIFICATE_TOLERANCE) < now
        {
            return Err(refused(format!(
                "the temporary credentials are valid from {} to {} only",
                super::record::iso(certificate.start),
                super::record::iso(certificate.expiry)
            )));
        }
        let naming = certificate
            .issuer
            .is_some()
            .then(|| format!("auth:create-client:{client_id}"));
        let beyond = certificate.scopes.iter().chain(&naming);
        if let Some(beyond) = beyond.into_iter().find(|scope| !satisfied(&issuer.scopes, scope)) {
            return Err(refused(format!(
                "the client that issued the certificate does not have the scope {beyond:?} itself"
            )));
        }
        Ok(Signatory {
            token: URL_SAFE_NO_PAD.encode(hmac(&issuer.token, &certificate.seed)?),
            scopes: certificate.scopes,
        })
    }

    /// Named temporary credentials.
    pub(super) fn issue(
        &self,
        client_id: String,
        scopes: Vec<String>,
        start: Millis,
        expiry: Millis,
    ) -> Result<Credentials, ApiError> {
        let mut certificate = Certificate {
            version: 1,
            scopes,
            start,
            expiry,
            seed: slugid::v4() + &slugid::v4(),
            signature: String::new(),
            issuer: Some(self.root.client_id.clone()),
        };
        certificate.signature = STANDARD.encode(hmac(
            &self.root.access_token,
            &certificate.signed_text(&client_id),
        )?);
        let access_token = URL_SAFE_NO_PAD.encode(hmac(&self.root.access_token, &certificate.seed)?);
        let text = serde_json::to_string(&certificate).map_err(ApiError::internal)?;
        Ok(Credentials {
            client_id,
            access_token,
            certificate: Some(text),
        })
    }

    /// The signature that a storage URL carries: it stands for one method, one path and one end.
    pub(super) fn sign_storage(&self, method: &str, path: &str, expires: Millis) -> Result<String, ApiError> {
        let text = format!("{method}\n{path}\n{expires}");
        Ok(URL_SAFE_NO_PAD.encode(
            self.storage_key
                .sign(text.as_bytes())
                .map_err(ApiError::internal)?,
        ))
    }

    pub(super) fn check_storage(
        &self,
        method: &str,
        path: &str,
        expires: Millis,
        signature: &str,
    ) -> Result<(), ApiError> {
        let expected = self.sign_storage(method, path, expires)?;
        if !same(expected.as_bytes(), signature.as_bytes()) {
            return Err(ApiError::scopes(
                "the URL's signature is wrong: it was changed, or is for another method",
            ));
        }
        if expires < super::core::now() {
            return Err(ApiError::scopes(
                "the URL has expired; ask the queue for a new one",
            ));
        }
        Ok(())
    }
}

fn key(token: &str) -> Result<hawk::Key, String> {
    hawk::Key::new(token, hawk::SHA256).map_err(|error| error.to_string())
}

fn hmac(token: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    let key = key(token).map_err(ApiError::internal)?;
    key.sign(text.as_bytes()).map_err(ApiError::internal)
}

fn now_in_seconds() -> u64 {
    u64::try_from(super::core::now() / 1000).unwrap_or_default()
}

/// Compares in a time that tells nothing about where the two differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && std::hint::black_box(difference) == 0
}

/// Gives up what the caller does not want to have for this request.
fn limit(client_id: String, held: Vec<String>, wanted: Option<Vec<String>>) -> Result<Caller, ApiError> {
    let Some(wanted) = wanted else {
        return Ok(Caller::new(Some(client_id), held));
    };
    let full = Caller::new(Some(client_id.clone()), held);
    if let Some(beyond) = wanted.iter().find(|scope| !satisfied(&full.scopes, scope)) {
        return Err(refused(format!(
            "client {client_id:?} does not have the scope {beyond:?} that authorizedScopes names"
        )));
    }
    Ok(Caller::new(Some(client_id), wanted))
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
