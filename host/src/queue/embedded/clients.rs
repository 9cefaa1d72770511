//! Clients that somebody has made: each has a token of its own and lasts until it expires or is deleted.
//!
//! They are few, so all of them are in memory, and in one file that is written anew with each change. Hawk signs with the
//! token itself: there is no form of it that would verify signatures and not make them, so the file is the owner's alone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::error::{ApiError, StartError};
use super::files::{failed, new_token, write_private};
use super::record::Millis;

/// The most there can be; a deployment is for more.
const MOST: usize = 10_000;
/// How long the same creation may be repeated, for those whose answer was lost.
const REPEATABLE: Millis = 15 * 60 * 1000;

/// A client with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Client {
    pub(super) access_token: String,
    #[serde(flatten)]
    pub(super) about: About,
    pub(super) created: Millis,
    pub(super) rotated: Millis,
}

impl Client {
    /// Whether it has expired and was to go then. It may still be there: it goes when the file is written next.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.about.delete_on_expiration && self.about.expires < now
    }
}

/// What its maker decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    pub(super) description: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires: Millis,
    pub(super) delete_on_expiration: bool,
}

type All = BTreeMap<String, Arc<Client>>;

/// All clients but the root one.
pub(super) struct Clients {
    path: PathBuf,
    all: RwLock<Arc<All>>,
    /// Held while the file is written.
    changing: Mutex<()>,
}

impl Clients {
    /// Those of the file, or none. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, StartError> {
        let all: BTreeMap<String, Client> = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StartError::Credentials {
                path: path.to_owned(),
                problem: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed("read", path, error)),
        };
        let all: All = all
            .into_iter()
            .map(|(id, client)| (id, Arc::new(client)))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            all: RwLock::new(Arc::new(all)),
            changing: Mutex::default(),
        })
    }

    /// All of them, as of now.
    pub(super) fn all(&self) -> Arc<All> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Client>> {
        self.all().get(id).cloned()
    }

    /// Makes one. Making the same one again shortly after brings the same token. Blocks.
    pub(super) fn create(&self, id: &str, about: About, now: Millis) -> Result<Arc<Client>, ApiError> {
        self.change(|all| {
            if let Some(there) = all.get(id) {
                if there.about == about && now - there.created < REPEATABLE {
                    return Ok(Arc::clone(there));
                }
                return Err(ApiError::conflict(format!(
                    "there is a client {id:?} already; choose another name, or delete it first"
                )));
            }
            if all.len() >= MOST {
                return Err(ApiError::conflict(format!(
                    "there are {MOST} clients already, and no more fit; delete those that nobody needs"
                )));
            }
            let client = Arc::new(Client {
                access_token: new_token(),
                about,
                created: now,
                rotated: now,
            });
            all.insert(id.to_owned(), Arc::clone(&client));
            Ok(client)
        })
    }

    /// Gives one a new token; the old one is worth nothing from then on. Blocks.
    pub(super) fn reset(&self, id: &str, now: Millis) -> Result<Arc<Client>, ApiError> {
        self.change(|all| {
            let old = all.get(id).ok_or_else(|| unknown(id))?;
            let client = Arc::new(Client {
                access_token: new_token(),
                rotated: now,
                ..Client::clone(old)
            });
            all.insert(id.to_owned(), Arc::clone(&client));
            Ok(client)
        })
    }

    /// Deletes one, whether it is there or not. Blocks.
    pub(super) fn delete(&self, id: &str) -> Result<(), ApiError> {
        self.change(|all| {
            all.remove(id);
            Ok(())
        })
    }

    /// On disk first: who was told of a token can rely on it, and who was told of an end too.
    fn change<T>(&self, change: impl FnOnce(&mut All) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.all();
        let mut all = All::clone(&before);
        all.retain(|_, client| !client.is_over(super::core::now()));
        let changed = change(&mut all)?;
        if all != *before {
            let written: BTreeMap<&str, &Client> =
                all.iter().map(|(id, client)| (id.as_str(), &**client)).collect();
            write_private(&self.path, &written).map_err(|error| {
                ApiError::internal(format_args!(
                    "{} cannot be written ({error})",
                    self.path.display()
                ))
            })?;
            *self.all.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        }
        Ok(changed)
    }
}

pub(super) fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no client {id:?}"))
}
