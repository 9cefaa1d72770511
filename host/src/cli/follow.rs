//! What a person sees of a task that has ended: its outcome, and what it left.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::outcome::Failure;
use crate::queue::{Artifact, Queue as _, QueueClient, TaskId};

/// The artifacts of a task's last run. Fetches those with content into `directory`, if one is given.
pub(super) async fn artifacts(
    queue: &QueueClient,
    task: &TaskId,
    directory: Option<&Path>,
) -> Result<Vec<Artifact>, Failure> {
    let artifacts = queue.list_artifacts(task, None).await?;
    let Some(directory) = directory else {
        return Ok(artifacts);
    };
    for artifact in &artifacts {
        if artifact.storage_type != "s3" && artifact.storage_type != "object" {
            continue;
        }
        let bytes = content(queue, task, &artifact.name).await?;
        let path = beneath(directory, &artifact.name)
            .ok_or_else(|| Failure::general(format!("the artifact name '{}' is no path", artifact.name)))?;
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, &bytes));
        written.map_err(|error| Failure::general(format!("{}: {error}", path.display())))?;
    }
    Ok(artifacts)
}

/// An artifact in a list of them.
pub(super) fn line(artifact: &Artifact) -> String {
    match artifact.storage_type.as_str() {
        "error" => format!("  {}: not there; the task's log says why", artifact.name),
        _ => format!("  {} ({})", artifact.name, artifact.content_type),
    }
}

/// An artifact's bytes, decoded.
pub(super) async fn content(queue: &QueueClient, task: &TaskId, name: &str) -> Result<Vec<u8>, Failure> {
    let url = queue.latest_artifact_url(task, name).await?;
    let failed = |error: reqwest::Error| {
        Failure::general(format!(
            "the artifact '{name}' cannot be fetched: {}",
            error.without_url()
        ))
    };
    let response = queue.download(&url).await?;
    let response = response.error_for_status().map_err(failed)?;
    let gzip = response
        .headers()
        .get("content-encoding")
        .is_some_and(|encoding| encoding == "gzip");
    let bytes = response.bytes().await.map_err(failed)?;
    if !gzip {
        return Ok(bytes.into());
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(&*bytes)
        .read_to_end(&mut plain)
        .map_err(|error| Failure::general(format!("the artifact '{name}' is damaged: {error}")))?;
    Ok(plain)
}

/// A name as a path that stays in the directory.
fn beneath(directory: &Path, name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then(|| directory.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_beneath() {
        let directory = Path::new("/d");
        assert_eq!(
            beneath(directory, "public/a.txt"),
            Some(PathBuf::from("/d/public/a.txt"))
        );
        assert_eq!(beneath(directory, "../a"), None);
        assert_eq!(beneath(directory, "/etc/passwd"), None);
    }
}
