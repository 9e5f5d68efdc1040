//! The layers of the configuration and their precedence: flag, environment, file, default. Values are still text here
//! and are not checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::settings::{self, SETTINGS, Setting};

/// An invalid configuration: where, why, and what to do.
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
    pub(crate) fn new(
        place: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError { place: place.to_string(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// A line of the configuration file.
    File {
        /// The path as given.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
    },
    /// The table of settings.
    Default,
}

/// A value as given: text, or several for a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The values; exactly one, except for lists.
    pub values: Vec<String>,
    /// Its source.
    pub source: Source,
}

impl Given {
    /// Returns the place where `setting` was given this value, as shown in errors.
    pub(super) fn place(&self, setting: &Setting) -> String {
        match &self.source {
            Source::Flag => format!("--{}", setting.key),
            Source::Environment => setting.variable(),
            Source::File { path, line } => format!("{} line {line}: {}", path.display(), setting.key),
            Source::Default => setting.key.to_owned(),
        }
    }
}

/// The values of one source, by key.
pub type Layer = BTreeMap<&'static str, Given>;

/// The prefix of the variables of settings.
const PREFIX: &str = "MOKV_";

/// Variables with this prefix that are no settings: the commands' own, and those of the tests and the simulation.
const NOT_SETTINGS: [&str; 21] = [
    "MOKV_BINARY",
    "MOKV_CHART",
    "MOKV_CONFIG",
    "MOKV_CONTEXT",
    "MOKV_ENDPOINTS",
    "MOKV_FIRST_SEED",
    "MOKV_HISTORY",
    "MOKV_KUBERNETES_CACHE",
    "MOKV_OPERATIONS",
    "MOKV_PLANTED",
    "MOKV_REDUCE",
    "MOKV_SCENARIO",
    "MOKV_SEED",
    "MOKV_SEEDS",
    "MOKV_SIM_FROM",
    "MOKV_SIM_INSIDE",
    "MOKV_SIM_TARGET",
    "MOKV_TEST_PANIC_INSIDE",
    "MOKV_TIMEOUT",
    "MOKV_TRACE",
    "MOKV_UPDATE",
];

/// Refuses a variable that has the prefix of settings and names none.
///
/// # Errors
/// The first such variable, with the setting of the nearest name, if any is near.
pub(super) fn check_variables(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let known = SETTINGS.iter().any(|setting| setting.variable() == name);
        if known || value.is_empty() || NOT_SETTINGS.contains(&&*name) || is_link(rest, &value) {
            continue;
        }
        let remedy = match settings::nearest(rest) {
            Some(near) => format!("did you mean {}?", near.variable()),
            None => "unset it; 'mokv serve --help' lists the settings".to_owned(),
        };
        return Err(ConfigError::new(name, "there is no such setting", remedy));
    }
    Ok(())
}

/// Whether the variable was set by Kubernetes, for a service in the pod's namespace whose name begins with 'mokv'
/// (MOKV_SERVICE_HOST, MOKV_SERVICE_PORT_RPC, MOKV_PORT, MOKV_PORT_8400_TCP_ADDR), or by Docker's legacy container
/// links.
fn is_link(rest: &str, value: &str) -> bool {
    let url = value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
    let numbered = rest.split_once("PORT_").is_some_and(|(_, port)| {
        let mut parts = port.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
    });
    let service = rest.contains("SERVICE_HOST") || rest.contains("SERVICE_PORT");
    url || numbered || service || (rest == "NAME" && value.starts_with('/')) || rest.starts_with("ENV_")
}

/// Returns the layer of the environment. An empty variable counts as not set; `check_variables` refuses variables that
/// name no setting.
pub fn environment(variable: impl Fn(&str) -> Option<String>) -> Layer {
    SETTINGS
        .iter()
        .filter_map(|setting| {
            let text = variable(&setting.variable()).filter(|text| !text.is_empty())?;
            Some((setting.key, Given { values: vec![text], source: Source::Environment }))
        })
        .collect()
}

/// Returns the layer of the command line: the values given to each flag.
pub fn flags(given: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Layer {
    given.into_iter().map(|(key, values)| (key, Given { values, source: Source::Flag })).collect()
}

/// Returns the value of `setting`: from the first layer that has it, else its default.
pub(super) fn winner(layers: &[&Layer], setting: &Setting) -> Option<Given> {
    layers.iter().find_map(|layer| layer.get(setting.key).cloned()).or_else(|| {
        (!setting.default.is_empty())
            .then(|| Given { values: vec![setting.default.to_owned()], source: Source::Default })
    })
}
