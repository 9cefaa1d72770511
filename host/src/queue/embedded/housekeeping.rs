//! Deleting what has expired, now and then.

use std::sync::Arc;
use std::time::Duration;

use super::EmbeddedQueue;
use super::error::ApiError;
use super::record::Millis;
use super::server::Server;
use super::store_expiry::Expired;

/// How often what has expired is deleted.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long an expired artifact is still known, so that it is answered with "expired" rather than "never existed".
const ARTIFACT_KEPT: Millis = 24 * 3600 * 1000;
/// How long its bytes are kept: an artifact that has just expired may still be about to be uploaded.
const BYTES_KEPT: Millis = 15 * 60 * 1000;
/// How many things of each kind are forgotten between two calls of clients.
const PIECE: usize = 200;

pub(super) async fn keep_house(server: Arc<Server>) {
    loop {
        // What failed has been logged, and is attempted again the next time.
        let _ = forget_expired(&server).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn forget_expired(server: &Arc<Server>) -> Result<(), ApiError> {
    loop {
        let forgotten = server.core.write(|core| {
            let now = core.now();
            let expired = Expired {
                before: now,
                bytes_before: now - BYTES_KEPT,
                artifacts_before: now - ARTIFACT_KEPT,
            };
            let forgotten = core.store.forget(expired, PIECE)?;
            for task in &forgotten.tasks {
                core.index.remove(task);
            }
            Ok(forgotten)
        });
        let forgotten = forgotten.await?;
        if !forgotten.objects.is_empty() {
            let deleting = Arc::clone(server);
            tokio::task::spawn_blocking(move || deleting.storage.delete(&forgotten.objects))
                .await
                .map_err(ApiError::internal)?;
        }
        if !forgotten.more {
            return Ok(());
        }
    }
}

/// For those who do not want to wait for time to pass.
impl EmbeddedQueue {
    /// Moves the queue's own time on: deadlines, claims and expiry go by it. Answers when what is due by then has happened.
    /// The time of signatures stays that of the machine.
    ///
    /// # Errors
    /// If the queue is being stopped.
    pub async fn advance(&self, by: Duration) -> Result<(), String> {
        self.server.core.advance(by).await.map_err(|error| error.message)
    }

    /// Deletes what has expired now instead of within the hour, and answers when it is gone.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn forget_expired(&self) -> Result<(), String> {
        forget_expired(&self.server).await.map_err(|error| error.message)
    }
}
