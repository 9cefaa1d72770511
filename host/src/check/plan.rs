//! Which cases there are for a library, and what becomes of them before anything runs.

use std::fmt;

use serde_json::Value;
use tcw_abi::engine::EngineDescription;
use tcw_abi::testing::conformance::{self, Drive};

use super::job::{Outcome, Task};
use crate::schema::nearest;

/// One case for one library.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `log/live`; of a plugin `plugin/whole-life`, with the plugin's name in brackets if there are several.
    pub name: String,
    /// One line: what has to happen.
    pub about: &'static str,
    /// What is known without running it.
    pub decided: Option<Outcome>,
    pub(super) task: Task,
    pub(super) stages: usize,
}

/// All cases for a library, in their order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The cases.
    pub entries: Vec<Entry>,
}

/// A name that is none of a case or of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCase {
    /// What was asked for.
    pub name: String,
    /// What was probably meant.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no case or group of cases named '{}'", self.name)?;
        match &self.nearest {
            Some(meant) => write!(f, "; did you mean '{meant}'?"),
            None => write!(f, "; --list shows all"),
        }
    }
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// As expected.
    pub passed: usize,
    /// Not so.
    pub failed: usize,
    /// Left out by the check file.
    pub skipped: usize,
    /// For want of a feature or a payload.
    pub not_applicable: usize,
}

impl Totals {
    /// Counts one more.
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
            Outcome::NotApplicable(_) => self.not_applicable += 1,
        }
    }
}

impl Plan {
    /// The cases for a library with this engine (its description, or why it could not be made) and these plugins.
    pub(super) fn new(
        engine: Option<&Result<Value, String>>,
        plugins: &[String],
        drive: &Drive,
    ) -> Result<Plan, UnknownCase> {
        let mut entries = Vec::new();
        if let Some(engine) = engine {
            entries.extend(conformance::cases().map(|case| {
                Entry {
                    name: case.name.to_owned(),
                    about: case.about,
                    decided: match engine {
                        Ok(description) => serde_json::from_value::<EngineDescription>(description.clone())
                            .map_err(|error| Outcome::Failed(format!("the engine's description: {error}")))
                            .map_or_else(Some, |description| {
                                case.lacks(&description, drive).map(Outcome::NotApplicable)
                            }),
                        Err(error) => Some(Outcome::Failed(error.clone())),
                    },
                    task: Task::Engine {
                        case: case.name.to_owned(),
                    },
                    stages: case.stages.len(),
                }
            }));
        }
        for plugin in plugins {
            entries.extend(conformance::plugin_cases().map(|case| Entry {
                name: match plugins {
                    [_] => case.name.to_owned(),
                    _ => format!("{}[{plugin}]", case.name),
                },
                about: case.about,
                decided: None,
                task: Task::Plugin {
                    case: case.name.to_owned(),
                    plugin: plugin.clone(),
                },
                stages: 1,
            }));
        }
        let mut plan = Plan { entries };
        for skip in &drive.skip {
            plan.known(&skip.case)?;
            for entry in plan
                .entries
                .iter_mut()
                .filter(|entry| matches(&entry.name, &skip.case))
            {
                entry.decided = Some(Outcome::Skipped(skip.why.clone()));
            }
        }
        Ok(plan)
    }

    /// Keeps the cases with these names, or in these groups.
    pub fn only(&mut self, names: &[String]) -> Result<(), UnknownCase> {
        for name in names {
            self.known(name)?;
        }
        if !names.is_empty() {
            self.entries
                .retain(|entry| names.iter().any(|name| matches(&entry.name, name)));
        }
        Ok(())
    }

    /// A case that exists but is not for this library is known, and matches nothing.
    fn known(&self, name: &str) -> Result<(), UnknownCase> {
        let all = || {
            conformance::cases()
                .map(|case| case.name)
                .chain(conformance::plugin_cases().map(|case| case.name))
                .chain(self.entries.iter().map(|entry| entry.name.as_str()))
        };
        if all().any(|known| matches(known, name)) {
            return Ok(());
        }
        let groups = all().filter_map(|known| Some(known.split_once('/')?.0));
        Err(UnknownCase {
            name: name.to_owned(),
            nearest: nearest(name, all().chain(groups)).map(str::to_owned),
        })
    }
}

/// Whether a case is meant by a name: its own, with or without the plugin in brackets, or that of its group.
fn matches(case: &str, name: &str) -> bool {
    let name = name.strip_suffix('/').unwrap_or(name);
    let bare = case.split('[').next().unwrap_or(case);
    case == name || bare == name || case.split('/').next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_meant_by_its_name_or_its_group_and_a_slip_is_found() {
        let mut plan = Plan::new(
            Some(&Ok(serde_json::json!({}))),
            &["a".into(), "b".into()],
            &Drive::default(),
        )
        .unwrap();
        let error = plan.only(&["log/liev".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no case or group of cases named 'log/liev'; did you mean 'log/live'?"
        );
        plan.only(&["log/live".into(), "plugin/malformed".into()])
            .unwrap();
        let names: Vec<&str> = plan.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["log/live", "plugin/malformed[a]", "plugin/malformed[b]"]);
        plan.only(&["log/".into()]).unwrap();
        assert_eq!(plan.entries.len(), 1);
    }
}
