//! Who asks: Hawk headers and bewits, the root client, and temporary credentials.
//!
//! There is one permanent client, whose token was made at first start. Everybody else has temporary credentials that
//! were derived from it: the queue's own for each run, or whatever the root client's owner has signed. Requests may be
//! repeated within the clock's tolerance, as on the real services: what a repetition could do twice, the API makes harmless.

use std::time::Duration;

use axum::http::{HeaderMap, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;
use super::record::Millis;
use super::scopes::{ANONYMOUS, Need, satisfied};
use crate::queue::Credentials;

/// How far a client's clock may be off.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(15 * 60);
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
        format!(
            "version:{}\n{}seed:{}\nstart:{}\nexpiry:{}\nscopes:\n{}",
            self.version,
            named.unwrap_or_default(),
            self.seed,
            self.start,
            self.expiry,
            self.scopes.join("\n")
        )
    }
}

/// What an `ext` field may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ext {
    #[serde(default)]
    certificate: Option<Value>,
    #[serde(default)]
    authorized_scopes: Option<Vec<String>>,
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

/// What of a request is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a Method,
    /// The path with its query, as sent.
    pub(super) resource: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// The root client: it checks what others sign in its name, and signs itself.
pub(super) struct Authority {
    root: Credentials,
    storage_key: hawk::Key,
}

impl Authority {
    pub(super) fn new(root: Credentials) -> Result<Self, String> {
        // A key of its own, so that nothing signed for storage can pass for anything else.
        let storage_key = key(&root.access_token)?
            .sign(b"storage urls")
            .map_err(|error| error.to_string())?;
        let storage_key = hawk::Key::new(storage_key, hawk::SHA256).map_err(|error| error.to_string())?;
        Ok(Self { root, storage_key })
    }

    pub(super) fn root(&self) -> &Credentials {
        &self.root
    }

    /// Who has signed a request; nobody if it is not signed.
    pub(super) fn authenticate(&self, request: &Signed<'_>) -> Result<Caller, ApiError> {
        let header = request.headers.get(header::AUTHORIZATION);
        let has_bewit = request
            .resource
            .split_once('?')
            .is_some_and(|(_, query)| query.split('&').any(|p| p.starts_with("bewit=")));
        match (header, has_bewit) {
            (None, false) => Ok(Caller::new(None, Vec::new())),
            (Some(_), true) => Err(refused(
                "it has both an Authorization header and a bewit; send one of them",
            )),
            (Some(value), false) => {
                let text = value
                    .to_str()
                    .map_err(|_| refused("the Authorization header is not ASCII"))?;
                self.check_header(request, text)
            }
            (None, true) => self.check_bewit(request),
        }
    }

    fn check_header(&self, request: &Signed<'_>, text: &str) -> Result<Caller, ApiError> {
        let parameters = text
            .strip_prefix("Hawk ")
            .ok_or_else(|| refused("the Authorization header is not Hawk's"))?;
        let header: hawk::Header = parameters
            .parse()
            .map_err(|error| refused(format!("the Authorization header is malformed: {error}")))?;
        let client_id = header
            .id
            .clone()
            .ok_or_else(|| refused("the Authorization header names no client"))?;
        let ext = parse_ext(header.ext.as_deref())?;
        let (token, scopes) = self.credentials_of(&client_id, ext.certificate)?;

        let mut signed = hawk::RequestBuilder::new(
            request.method.as_str(),
            request.host,
            request.port,
            request.resource,
        );
        let hash;
        if header.hash.is_some() {
            hash = hawk::PayloadHasher::hash(media_type(request.headers), hawk::SHA256, request.body)
                .map_err(ApiError::internal)?;
            signed = signed.hash(&hash[..]);
        }
        if !signed.request().validate_header(
            &header,
            &key(&token).map_err(ApiError::internal)?,
            CLOCK_TOLERANCE,
        ) {
            return Err(refused(format!(
                "the signature of client {client_id:?} does not fit the request, or its clock is more than 15 minutes \
                 off; check the access token, the root URL and the clock"
            )));
        }
        limit(client_id, scopes, ext.authorized_scopes)
    }

    fn check_bewit(&self, request: &Signed<'_>) -> Result<Caller, ApiError> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(refused("a bewit only signs GET requests"));
        }
        let mut bewit = None;
        // Clients sign for GET; a HEAD of the same URL asks for less.
        let signed = hawk::RequestBuilder::new("GET", request.host, request.port, request.resource)
            .extract_bewit(&mut bewit)
            .map_err(|error| refused(format!("the bewit is malformed: {error}")))?;
        let bewit = bewit.ok_or_else(|| refused("the bewit is malformed"))?;
        let client_id = bewit.id().to_owned();
        let ext = parse_ext(bewit.ext())?;
        let (token, scopes) = self.credentials_of(&client_id, ext.certificate)?;
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

    /// The token that a client has to have signed with, and its scopes.
    fn credentials_of(
        &self,
        client_id: &str,
        certificate: Option<Value>,
    ) -> Result<(String, Vec<String>), ApiError> {
        let root = &self.root;
        let Some(certificate) = certificate else {
            return if client_id == root.client_id {
                Ok((root.access_token.clone(), vec!["*".to_owned()]))
            } else {
                Err(refused(format!(
                    "there is no client {client_id:?}; use those that the embedded queue wrote down"
                )))
            };
        };
        // Some clients send the certificate as text.
        let certificate: Result<Certificate, _> = match certificate {
            Value::String(text) => serde_json::from_str(&text),
            other => serde_json::from_value(other),
        };
        let certificate =
            certificate.map_err(|error| refused(format!("the certificate is malformed: {error}")))?;
        let issuer = certificate.issuer.as_deref().unwrap_or(client_id);
        if certificate.version != 1 || issuer != root.client_id {
            return Err(refused(format!(
                "the certificate was not issued by {:?}",
                root.client_id
            )));
        }
        if certificate.issuer.as_deref() == Some(client_id) {
            return Err(refused(
                "a certificate for named credentials has to name another client than its issuer",
            ));
        }
        let signature = STANDARD.encode(self.hmac(&certificate.signed_text(client_id))?);
        if !same(signature.as_bytes(), certificate.signature.as_bytes()) {
            return Err(refused("the certificate's signature is wrong"));
        }
        let now = super::core::now();
        if certificate.expiry - certificate.start > LONGEST_CERTIFICATE {
            return Err(refused("the certificate lasts more than 31 days"));
        }
        if now < certificate.start - CERTIFICATE_TOLERANCE || certificate.expiry + CERTIFICATE_TOLERANCE < now
        {
            return Err(refused(format!(
                "the temporary credentials are valid from {} to {} only",
                super::record::iso(certificate.start),
                super::record::iso(certificate.expiry)
            )));
        }
        Ok((
            URL_SAFE_NO_PAD.encode(self.hmac(&certificate.seed)?),
            certificate.scopes,
        ))
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
        certificate.signature = STANDARD.encode(self.hmac(&certificate.signed_text(&client_id))?);
        let access_token = URL_SAFE_NO_PAD.encode(self.hmac(&certificate.seed)?);
        let text = serde_json::to_string(&certificate).map_err(ApiError::internal)?;
        Ok(Credentials {
            client_id,
            access_token,
            certificate: Some(text),
        })
    }

    fn hmac(&self, text: &str) -> Result<Vec<u8>, ApiError> {
        let key = key(&self.root.access_token).map_err(ApiError::internal)?;
        key.sign(text.as_bytes()).map_err(ApiError::internal)
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

fn refused(message: impl Into<String>) -> ApiError {
    ApiError::authentication(message)
}

/// Compares in a time that tells nothing about where the two differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && std::hint::black_box(difference) == 0
}

fn parse_ext(ext: Option<&str>) -> Result<Ext, ApiError> {
    let Some(text) = ext.filter(|text| !text.is_empty()) else {
        return Ok(Ext::default());
    };
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| refused(format!("the ext field is not base64: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| refused(format!("the ext field is malformed: {error}")))
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

/// The content type as Hawk hashes it: lower case, without parameters.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
