//! What the ends of tasks mean for the worker, and the worker's own end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tcw_abi::ErrorKind;
use tcw_abi::plugin::Plugin;

use super::{Key, State, Worker};
use crate::task::{Alarm, TaskControl, TaskReport, WorkerEffect};
use crate::worker::options::Exit;

/// How long the engine, or a plugin, may take for its last call when the worker ends.
const DISPOSAL: Duration = Duration::from_secs(30);

/// What a task's end has meant for the worker. It is looked at twice, when the task is resolved and when it is cleaned
/// up, in either order: writing down that it is resolved can take longer than cleaning up.
#[derive(Default)]
pub(super) struct Applied(HashMap<Key, WorkerEffect>);

impl Applied {
    /// What counted at the first look; nothing is remembered after the second.
    fn before(&mut self, key: &Key, effect: WorkerEffect) -> WorkerEffect {
        match self.0.remove(key) {
            Some(before) => before,
            None => {
                self.0.insert(key.clone(), effect);
                WorkerEffect::None
            }
        }
    }
}

impl Worker {
    pub(super) async fn resolved(
        &self,
        state: &mut State,
        ended: Result<(Key, Option<TaskReport>), tokio::task::JoinError>,
    ) {
        let Ok((key, report)) = ended else {
            tracing::error!("a task's supervisor failed; the worker stops so that its claim is looked after");
            self.stop_now(state, "a task's supervisor failed", None);
            state.fatal = Some(Exit::Fatal("a task's supervisor failed".into()));
            return;
        };
        state.running.remove(&key);
        self.board.remove(&key.0, key.1);
        if state.running.is_empty() {
            state.idle_since = Instant::now();
        }
        let Some(report) = report else {
            self.report_non_fatal(state);
            return;
        };
        let before = state.applied.before(&key, report.effect);
        self.apply(state, &key, &report, before);
    }

    /// A task has cleaned up, and what went wrong in that counts too.
    pub(super) fn cleaned(
        &self,
        state: &mut State,
        cleaned: Result<(Key, Result<TaskReport, tokio::task::JoinError>), tokio::task::JoinError>,
    ) {
        let Ok((key, ended)) = cleaned else { return };
        let Ok(report) = ended else {
            state.applied.0.remove(&key);
            return;
        };
        let before = state.applied.before(&key, report.effect);
        self.apply(state, &key, &report, before);
    }

    /// What has happened in a task means something for the worker, however long the task takes to end.
    pub(super) fn alarmed(
        &self,
        state: &mut State,
        alarmed: Result<(Key, TaskControl, Option<Alarm>), tokio::task::JoinError>,
    ) {
        let Ok((key, control, Some(alarm))) = alarmed else {
            return;
        };
        match &alarm {
            Alarm::Unhealthy(library) => self.unhealthy(state, library),
            Alarm::Fatal => self.fatal(state, &key),
        }
        self.listen(state, key, control, Some(alarm));
    }

    /// Waits for alarms of a task beyond this one.
    pub(super) fn listen(&self, state: &mut State, key: Key, control: TaskControl, beyond: Option<Alarm>) {
        state.alarms.spawn(async move {
            let alarm = control.alarmed(beyond).await;
            (key, control, alarm)
        });
    }

    /// A task has met an error after which the worker cannot go on.
    pub(super) fn fatal(&self, state: &mut State, key: &Key) {
        if matches!(state.fatal, Some(Exit::Fatal(_))) {
            return;
        }
        tracing::error!(task_id = %key.0, "a library reported a fatal error: the worker stops now");
        let reason = format!(
            "a library reported a fatal error in task {} (see the log above)",
            key.0
        );
        state.fatal = Some(Exit::Fatal(reason.clone()));
        self.stop_now(state, &reason, Some(key));
    }

    /// What a task's end means for the worker, beyond what it has meant `before`.
    pub(super) fn apply(&self, state: &mut State, key: &Key, report: &TaskReport, before: WorkerEffect) {
        match report.effect {
            effect if effect <= before => {}
            WorkerEffect::None => {}
            WorkerEffect::NonFatal => self.report_non_fatal(state),
            WorkerEffect::Fatal => self.fatal(state, key),
        }
        if let Some(library) = report.unhealthy.first() {
            self.unhealthy(state, library);
        }
    }

    /// A library panicked or hung.
    pub(super) fn unhealthy(&self, state: &mut State, library: &str) {
        if state.fatal.is_none() {
            let then = if self.options.reload {
                "fresh copies of all libraries are loaded after the running tasks"
            } else {
                "the worker leaves"
            };
            tracing::error!(
                library,
                "the library is unhealthy: nothing more is claimed, and {then}"
            );
            state.fatal = Some(Exit::Unhealthy(library.to_owned()));
        }
    }

    pub(super) fn report_idle(&self, state: &mut State, idle: Duration) {
        self.tell_plugins(state, "report_idle", move |plugin| async move {
            plugin.report_idle(idle).await
        });
    }

    pub(super) fn report_non_fatal(&self, state: &mut State) {
        self.tell_plugins(state, "report_non_fatal_error", |plugin| async move {
            plugin.report_non_fatal_error().await
        });
    }

    /// In the background; a plugin that does not return in time is left alone, and what it holds with it.
    pub(super) fn tell_plugins<F, Told>(&self, state: &mut State, what: &'static str, tell: F)
    where
        F: Fn(Arc<dyn Plugin>) -> Told,
        Told: Future<Output = tcw_abi::Result<()>> + Send + 'static,
    {
        let bound = self.environment.deadlines.query;
        for plugin in &self.environment.plugins {
            let (name, library) = (plugin.name.clone(), plugin.library.clone());
            let told = tell(Arc::clone(&plugin.plugin));
            state.telling.spawn(async move {
                match tokio::time::timeout(bound, told).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => {
                        tracing::warn!(plugin = name, %error, "{what} failed");
                        (error.kind() == ErrorKind::Panicked).then_some(library)
                    }
                    Err(_) => {
                        let seconds = bound.as_secs_f64();
                        tracing::warn!(plugin = name, "{what} did not return within {seconds} s");
                        Some(library)
                    }
                }
            });
        }
    }

    /// The end: clean-ups, plugins, engine, each within a bound.
    pub(super) async fn dispose(&mut self, state: &mut State) {
        let bound = state
            .stop_by
            .unwrap_or_else(|| tokio::time::Instant::now() + self.options.shutdown_bound);
        let bound = bound.max(tokio::time::Instant::now() + Duration::from_secs(5));
        let cleaned = tokio::time::timeout_at(bound, async {
            while !state.cleaning.is_empty() {
                tokio::select! {
                    // No task is left that could be told, but whoever asks is answered.
                    Some(command) = self.commands.recv() => self.obey(state, command),
                    Some(cleaned) = state.cleaning.join_next() => self.cleaned(state, cleaned),
                }
            }
        });
        if cleaned.await.is_err() {
            tracing::error!(
                left = state.cleaning.len(),
                "clean-ups did not end in time; the next start goes on with them"
            );
        }
        let bound = DISPOSAL.min(self.environment.deadlines.call);
        let disposals = self.environment.plugins.iter().map(|plugin| async move {
            dispose_of(&plugin.name, plugin.plugin.dispose(), bound).await;
        });
        futures_util::future::join_all(disposals).await;
        dispose_of(
            &self.environment.engine.name,
            self.environment.engine.engine.dispose(),
            bound,
        )
        .await;
    }
}

async fn dispose_of(name: &str, disposal: impl Future<Output = tcw_abi::Result<()>>, bound: Duration) {
    match tokio::time::timeout(bound, disposal).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(name, %error, "dispose failed"),
        Err(_) => tracing::error!(
            name,
            "dispose did not return within {} s; it is left to itself",
            bound.as_secs_f64()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{RunId, TaskId};

    #[test]
    fn what_a_task_has_meant_counts_once_and_is_forgotten_whichever_end_comes_first() {
        let mut applied = Applied::default();
        let key = (TaskId::random(), RunId(0));
        // Resolved, and then its clean-up fails.
        assert_eq!(applied.before(&key, WorkerEffect::None), WorkerEffect::None);
        assert_eq!(applied.before(&key, WorkerEffect::NonFatal), WorkerEffect::None);
        assert!(applied.0.is_empty());
        // Cleaned up before it is written down that it is resolved.
        assert_eq!(applied.before(&key, WorkerEffect::NonFatal), WorkerEffect::None);
        assert_eq!(
            applied.before(&key, WorkerEffect::NonFatal),
            WorkerEffect::NonFatal
        );
        assert!(applied.0.is_empty());
    }
}
