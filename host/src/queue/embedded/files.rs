//! The state directory: for its owner only, for one process at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::error::StartError;
use super::storage::Storage;
use crate::queue::Credentials;

/// The name of the one client that is not temporary.
const ROOT_CLIENT: &str = "tcw/root";
/// Nobody else's client begins like this.
pub(super) const OWN_CLIENTS: &str = "tcw/";

/// A state directory in use by this process, until it is dropped.
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// What `credentials.json` holds: all that another process needs to talk to this queue.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialsFile {
    root_url: String,
    client_id: String,
    access_token: String,
}

impl StateDir {
    /// Makes the directory if need be, and takes it for this process.
    pub(super) fn open(path: &Path) -> Result<Self, StartError> {
        let storage = Self::storage_of(path);
        for folder in [
            path,
            &storage,
            &Storage::objects(&storage),
            &Storage::incoming(&storage),
        ] {
            create_private_dir(folder).map_err(|source| failed("create", folder, source))?;
        }
        let lock_path = path.join("lock");
        let lock = private(OpenOptions::new().write(true).create(true))
            .open(&lock_path)
            .map_err(|source| failed("write", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked {
                path: path.to_owned(),
            }),
            Err(std::fs::TryLockError::Error(source)) => Err(failed("lock", &lock_path, source)),
        }
    }

    fn storage_of(path: &Path) -> PathBuf {
        path.join("storage")
    }

    pub(super) fn storage(&self) -> PathBuf {
        Self::storage_of(&self.path)
    }

    /// The database's file, made here so that it is private from its first moment.
    pub(super) fn database(&self) -> Result<PathBuf, StartError> {
        let path = self.path.join("queue.sqlite");
        let opened = private(OpenOptions::new().write(true).create(true)).open(&path);
        opened.map_err(|source| failed("write", &path, source))?;
        Ok(path)
    }

    /// Deletes what uploads have left behind that broke off when an earlier process ended, and files that no object has.
    pub(super) fn sweep(&self, known: &std::collections::HashSet<String>) -> Result<(), StartError> {
        let storage = self.storage();
        let nothing = std::collections::HashSet::new();
        for (folder, keep) in [
            (Storage::incoming(&storage), &nothing),
            (Storage::objects(&storage), known),
        ] {
            let entries = std::fs::read_dir(&folder).map_err(|source| failed("read", &folder, source))?;
            for entry in entries {
                let entry = entry.map_err(|source| failed("read", &folder, source))?;
                if entry.file_name().to_str().is_none_or(|name| !keep.contains(name)) {
                    match std::fs::remove_file(entry.path()) {
                        // An upload to an earlier queue of this process has just noticed that it broke off.
                        Err(source) if source.kind() != io::ErrorKind::NotFound => {
                            return Err(failed("delete", &entry.path(), source));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The root client, made at first start.
    pub(super) fn root_credentials(&self) -> Result<Credentials, StartError> {
        let path = self.path.join("credentials.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Credentials::new(ROOT_CLIENT, new_token()));
            }
            Err(source) => return Err(failed("read", &path, source)),
        };
        let problem = |problem: String| StartError::Credentials {
            path: path.clone(),
            problem,
        };
        let file: CredentialsFile =
            serde_json::from_slice(&text).map_err(|error| problem(error.to_string()))?;
        if file.access_token.len() < 22 {
            return Err(problem(
                "its access token is too short to be one of ours".to_owned(),
            ));
        }
        Ok(Credentials::new(file.client_id, file.access_token))
    }

    /// Where it is written down which requests have been seen.
    pub(super) fn nonces(&self) -> PathBuf {
        self.path.join("nonces")
    }

    /// Where the clients are that somebody has made.
    pub(super) fn clients(&self) -> PathBuf {
        self.path.join("clients.json")
    }

    /// Writes down how to reach and use the queue.
    pub(super) fn write_credentials(&self, root_url: &str, root: &Credentials) -> Result<(), StartError> {
        let path = self.path.join("credentials.json");
        let file = CredentialsFile {
            root_url: root_url.to_owned(),
            client_id: root.client_id.clone(),
            access_token: root.access_token.clone(),
        };
        write_private(&path, &file).map_err(|source| failed("write", &path, source))
    }
}

/// Writes JSON for the owner only: all of it or nothing, and so that it outlives a power loss, since everything that was
/// signed with a token would be lost with it.
pub(super) fn write_private(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    let fresh = path.with_extension("json.new");
    let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&fresh)?;
    io::Write::write_all(&mut file, &text)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    // The name is a thing of the directory, and as lost as the content would be without this.
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A secret for somebody to sign with.
pub(super) fn new_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 33]>())
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> StartError {
    StartError::Files {
        action,
        path: path.to_owned(),
        source,
    }
}

/// A new file for the owner only.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().write(true).create_new(true)).open(path)
}

/// For the owner only.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    #[cfg(unix)]
    {
        // Also when somebody else has made it, more open.
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}
