//! Where a value was given, and which of several givers wins: flag, environment, file, default. Values are
//! still text here; nothing is judged but its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::settings::{SETTINGS, Setting};

/// A configuration was refused: where, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The flag, the variable, or file, line and key.
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl ConfigError {
    pub(super) fn new(
        place: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError { place: place.to_string(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
    },
    /// The table of settings.
    Default,
}

/// A value as it was given: text, or for lists several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The words of the value; one, except for lists.
    pub words: Vec<String>,
    /// Where it comes from.
    pub source: Source,
}

impl Given {
    /// Names the place where `setting` was given this value, as errors do.
    pub(super) fn place(&self, setting: &Setting) -> String {
        match &self.source {
            Source::Flag => format!("--{}", setting.key),
            Source::Environment => setting.variable(),
            Source::File { path, line } => format!("{} line {line}: {}", path.display(), setting.key),
            Source::Default => setting.key.to_owned(),
        }
    }
}

/// What one giver gave, by key.
pub type Layer = BTreeMap<&'static str, Given>;

/// The layer of the environment. An empty variable counts as not set, and variables that name no setting are
/// left alone: Kubernetes sets some of its own that begin with `MOKV_`.
pub fn environment(variable: impl Fn(&str) -> Option<String>) -> Layer {
    SETTINGS
        .iter()
        .filter_map(|setting| {
            let text = variable(&setting.variable()).filter(|text| !text.is_empty())?;
            Some((setting.key, Given { words: vec![text], source: Source::Environment }))
        })
        .collect()
}

/// The layer of the command line: the words given to each flag.
pub fn flags(given: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Layer {
    given.into_iter().map(|(key, words)| (key, Given { words, source: Source::Flag })).collect()
}

/// What holds for `setting`: the first layer that gives it, or its default.
pub(super) fn winner(layers: &[&Layer], setting: &Setting) -> Option<Given> {
    layers.iter().find_map(|layer| layer.get(setting.key).cloned()).or_else(|| {
        (!setting.default.is_empty())
            .then(|| Given { words: vec![setting.default.to_owned()], source: Source::Default })
    })
}
