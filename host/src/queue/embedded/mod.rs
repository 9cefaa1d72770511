//! The embedded queue: a server of the Taskcluster Queue API for one machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Credentials, WorkerPoolId};

/// How an embedded queue is to run.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Where it keeps everything; made at first start, for this user only.
    pub state_dir: PathBuf,
    /// Where it listens; port 0 takes any free port.
    pub listen: SocketAddr,
    /// How long a claim lasts.
    pub claim_timeout: Duration,
    /// How long a claim without work waits.
    pub poll_timeout: Duration,
    /// The most bytes one artifact may have.
    pub max_artifact_size: u64,
    /// The most bytes all artifacts together may have.
    pub max_storage_size: u64,
}

impl EmbeddedConfig {
    /// The usual: loopback, any port, claims of 20 minutes, artifacts of up to 100 GiB, as much storage as there is.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            claim_timeout: Duration::from_secs(20 * 60),
            poll_timeout: Duration::from_secs(20),
            max_artifact_size: 100 << 30,
            max_storage_size: u64::MAX,
        }
    }
}

