//! Free space: a worker that cannot write claims nothing, until it can.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::config::Config;
use crate::worker::{Command, Control};

/// How often free space is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Who it is that pauses, in the log and for `tcw-host status`.
const NAME: &str = "free space";

/// What has to stay free, and where.
pub(super) struct Space {
    directory: PathBuf,
    required: u64,
}

impl Space {
    pub(super) fn of(config: &Config) -> Self {
        Space {
            directory: config.worker.state_directory.clone(),
            required: config.worker.required_disk_space,
        }
    }

    /// Why nothing should be claimed now.
    fn lacking(&self) -> Option<String> {
        if self.required == 0 {
            return None;
        }
        let system = rustix::fs::statvfs(&self.directory).ok()?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        let whole = system.f_blocks.saturating_mul(system.f_frsize);
        let mib = |bytes: u64| bytes / (1 << 20);
        (free < self.required).then(|| {
            format!(
                "{} MiB are free of the {} MiB at {}, and `worker.requiredDiskSpace` is {} MiB: free some, or lower it",
                mib(free),
                mib(whole),
                self.directory.display(),
                mib(self.required)
            )
        })
    }

    /// Pauses claiming before it begins, if there is too little space.
    pub(super) fn look(&self, control: &Control, about: &watch::Sender<Value>) {
        let lacking = self.lacking();
        let paused = about.borrow()["paused"].is_string();
        match &lacking {
            Some(reason) if !paused => {
                control.send(Command::Pause {
                    library: NAME.to_owned(),
                    reason: reason.clone(),
                });
            }
            None if paused => {
                control.send(Command::Resume {
                    library: NAME.to_owned(),
                });
            }
            _ => {}
        }
        if lacking.is_some() != paused {
            about.send_modify(|about| about["paused"] = lacking.map_or(Value::Null, Value::String));
        }
    }

    /// Looks again and again.
    pub(super) async fn watch<T>(&self, control: &Control, about: &watch::Sender<Value>) -> T {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.look(control, about);
        }
    }
}
