//! Cases run inside a process, as in a vendor's own tests, against small libraries that do wrong.
#![cfg(feature = "testing")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tcw_abi::engine::*;
use tcw_abi::io::Handle;
use tcw_abi::plugin::*;
use tcw_abi::services::{LeaseRequest, Services, TaskContext};
use tcw_abi::testing::conformance::{
    Drive, Failure, Setting, cases, plugin_cases, run_engine_case, run_plugin_case,
};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

/// Removed when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn setting(drive: Value) -> (Directory, Setting) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tcw-conformance-{}-{number}", std::process::id());
    let directory = Directory(std::env::temp_dir().join(name));
    let drive: Drive = serde_json::from_value(drive).unwrap();
    let setting = Setting::new(drive, directory.0.clone());
    (directory, setting)
}

/// How a plugin does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    KeepsFolder,
    KeepsLease,
    KeepsLog,
    KeepsDescriptor,
    Violates,
    Differs,
}

struct Careless(Wrong);

#[async_trait]
impl PluginProvider for Careless {
    async fn new_plugin(
        &self,
        services: Arc<dyn Services>,
        _engine: Arc<dyn EngineHandle>,
        _configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(CarelessPlugin {
            wrong: self.0,
            services,
            kept: Arc::default(),
            asked: Mutex::new(0),
        }))
    }
}

type Kept = Arc<Mutex<Vec<Handle>>>;

struct CarelessPlugin {
    wrong: Wrong,
    services: Arc<dyn Services>,
    kept: Kept,
    asked: Mutex<u32>,
}

#[async_trait]
impl Plugin for CarelessPlugin {
    fn description(&self) -> PluginDescription {
        let mut asked = self.asked.lock().unwrap();
        *asked += u32::from(self.wrong == Wrong::Differs);
        PluginDescription {
            payload_schema: json!({ "type": "object", "title": asked.to_string() }),
            documentation: Vec::new(),
        }
    }

    async fn new_task_plugin(&self, task: Arc<dyn TaskContext>, _: Value) -> Result<Arc<dyn TaskPlugin>> {
        Ok(Arc::new(CarelessTask {
            wrong: self.wrong,
            services: Arc::clone(&self.services),
            kept: Arc::clone(&self.kept),
            task,
        }))
    }
}

struct CarelessTask {
    wrong: Wrong,
    services: Arc<dyn Services>,
    kept: Kept,
    task: Arc<dyn TaskContext>,
}

#[async_trait]
impl TaskPlugin for CarelessTask {
    async fn prepare(&self) -> Result<()> {
        match self.wrong {
            Wrong::KeepsFolder => self.services.temporary_folder().await.map(drop),
            Wrong::KeepsLease => self.services.lease(LeaseRequest::default()).await.map(drop),
            Wrong::KeepsLog => {
                let log = self.task.log_handle().await?;
                self.kept.lock().unwrap().push(log);
                Ok(())
            }
            Wrong::KeepsDescriptor => {
                let file = std::fs::File::open("/dev/null")?;
                self.kept.lock().unwrap().push(file.into());
                Ok(())
            }
            Wrong::Violates => Err(Error::violation("twice")),
            Wrong::Nothing | Wrong::Differs => Ok(()),
        }
    }
}

async fn plugin(case: &str, wrong: Wrong) -> std::result::Result<(), Failure> {
    let case = plugin_cases()
        .find(|known| known.name == case)
        .expect("there is such a case");
    // Short, so that what has to be waited for in vain is.
    let (_directory, setting) = setting(json!({ "timeout": 2 }));
    run_plugin_case(case, "careless", Arc::new(Careless(wrong)), setting).await
}

// One test: the descriptors of the process are counted, and another test would open some.
#[tokio::test(flavor = "multi_thread")]
async fn a_careless_plugin_fails_the_case_that_looks_for_it_and_a_careful_one_fails_none() {
    for case in plugin_cases() {
        plugin(case.name, Wrong::Nothing).await.unwrap();
    }
    for (case, wrong, start) in [
        (
            "plugin/nothing-left",
            Wrong::KeepsFolder,
            "temporary folders after the tasks were disposed of: expected [], seen [\"folder-",
        ),
        (
            "plugin/nothing-left",
            Wrong::KeepsLease,
            "leases after the tasks were disposed of: expected [], seen [\"lease-",
        ),
        (
            "plugin/nothing-left",
            Wrong::KeepsDescriptor,
            "16 tasks left 16 descriptors open that were not open before",
        ),
        (
            "plugin/whole-life",
            Wrong::KeepsLog,
            "after TaskPlugin.dispose somebody still holds the task's output open",
        ),
        (
            "plugin/whole-life",
            Wrong::Violates,
            "TaskPlugin.prepare answered: twice (ContractViolation)",
        ),
        (
            "plugin/described",
            Wrong::Differs,
            "the description, asked again: expected ",
        ),
    ] {
        let failure = plugin(case, wrong).await.unwrap_err().to_string();
        assert!(failure.starts_with(start), "{case}: {failure}");
    }
    engines().await;
}

/// An engine whose tasks end at once, in a way that its payload says.
struct Hasty;

#[async_trait]
impl EngineProvider for Hasty {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription::default()
    }

    async fn new_engine(&self, _: Arc<dyn Services>, _: Value) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(Hasty))
    }
}

#[async_trait]
impl Engine for Hasty {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: vec!["kill".into(), "kill".into()],
            payload_schema: json!({ "type": "object" }),
            ..EngineDescription::default()
        }
    }

    async fn new_sandbox_builder(
        &self,
        _: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        Ok(Arc::new(HastyTask(
            payload["wrong"].as_str().unwrap_or_default().to_owned(),
        )))
    }
}

#[derive(Clone)]
struct HastyTask(String);

#[async_trait]
impl SandboxBuilder for HastyTask {
    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(self.clone()))
    }

    async fn discard(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Sandbox for HastyTask {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        Ok(Arc::new(self.clone()))
    }

    async fn kill(&self, _: String, _: u64) -> Result<()> {
        match self.0.as_str() {
            "late-kill" => Ok(()),
            _ => Err(Error::new(ErrorKind::SandboxTerminated, "it has ended")),
        }
    }

    async fn abort(&self) -> Result<()> {
        match self.0.as_str() {
            "late-abort" => Ok(()),
            _ => Err(Error::new(ErrorKind::SandboxTerminated, "it has ended")),
        }
    }
}

#[async_trait]
impl ResultSet for HastyTask {
    fn report(&self) -> Report {
        Report {
            success: true,
            ..Report::default()
        }
    }

    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

async fn engines() {
    for (case, wrong, start) in [
        ("log/silent-task", "", None),
        ("kill/after-the-end", "", None),
        (
            "kill/after-the-end",
            "late-kill",
            Some("Sandbox.kill after the end has to answer SandboxTerminated, and succeeded"),
        ),
        (
            "log/silent-task",
            "late-abort",
            Some("Sandbox.abort after the end has to answer SandboxTerminated, and succeeded"),
        ),
        (
            "engine/starts-once",
            "",
            Some("SandboxBuilder.start, the second time has to answer ContractViolation, and succeeded"),
        ),
        (
            "engine/described",
            "",
            Some("distinct features: expected 2, seen 1"),
        ),
    ] {
        let known = cases()
            .find(|known| known.name == case)
            .expect("there is such a case");
        let (_directory, setting) = setting(json!({ "payloads": { "silent": { "wrong": wrong } } }));
        let outcome = run_engine_case(known, 0, Arc::new(Hasty), setting).await;
        match start {
            None => outcome.unwrap(),
            Some(start) => {
                let failure = outcome.unwrap_err().to_string();
                assert!(failure.starts_with(start), "{case}: {failure}");
            }
        }
    }
}
