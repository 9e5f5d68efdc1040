//! How an unsuccessful command ends: what failed, on what, what to do next, and the exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};

use serde_json::json;

use super::format::Format;
use super::place::Place;
use crate::client::Error;
use crate::config::ConfigError;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const NEXT: Style = AnsiColor::Cyan.on_default().bold();

/// The exit codes of `mokv`, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The reader of the output closed it, as in `mokv list | head`: no failure.
    ReaderGone = 0,
    /// The command failed.
    Error = 1,
    /// The command line or the configuration is invalid.
    Usage = 2,
    /// The key or the member does not exist.
    NotFound = 3,
    /// The condition of a write did not hold; nothing was changed.
    ConditionFailed = 4,
    /// A write may or may not have been executed.
    Unknown = 5,
    /// No node could serve the request in time. Nothing was changed, and trying again may help.
    Unreachable = 6,
    /// The nodes were asked for their health, and not all are healthy.
    Unhealthy = 7,
}

/// The exit codes in `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0 done
  1 failed or refused
  2 wrong usage
  3 not found
  4 condition failed
  5 outcome unknown: it may have been done
  6 no node could serve it: nothing was done
  7 not all nodes are healthy (status, probe)";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    /// What failed, on what, and why.
    what: String,
    /// What to do next.
    next: String,
    /// Code and outcome of the client call that failed.
    call: Option<(&'static str, Outcome)>,
    /// The context that had a part in it.
    context: Option<String>,
    /// If several nodes were asked: the nodes that failed, with their failures.
    nodes: Box<[(Place, Failure)]>,
}

/// What a failed call has done, in the terms of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A node rejected the call and changed nothing.
    Refused,
    /// The call changed nothing and never will.
    NotExecuted,
    /// The call may have been executed or may still be.
    Unknown,
}

/// Writes a line to stderr. If that fails, the exit code still reports the failure.
pub fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Writes a warning to stderr, in the format of the command's errors.
pub fn warn(output: Option<Format>, text: &str) {
    match output {
        Some(Format::Json) => complain(format_args!("{}", json!({ "warning": text }))),
        _ => complain(format_args!("{WARNING}warning:{WARNING:#} {text}")),
    }
}

impl Failure {
    fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Failure {
        let (what, next) = (what.into(), next.into());
        Failure { exit, what, next, call: None, context: None, nodes: Box::default() }
    }

    /// The command failed.
    pub fn error(what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure::new(Exit::Error, what, next)
    }

    /// The command's arguments are invalid.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what, next)
    }

    /// What the command names does not exist.
    pub fn not_found(what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure::new(Exit::NotFound, what, next)
    }

    /// Returns the failure with another exit code.
    pub fn with_exit(self, exit: Exit) -> Failure {
        Failure { exit, ..self }
    }

    /// The output could not be written.
    pub fn output(error: &std::io::Error) -> Failure {
        let exit = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Exit::ReaderGone,
            _ => Exit::Error,
        };
        Failure::new(exit, format!("cannot write to stdout: {error}"), "check where the output goes")
    }

    /// Returns the failure with the name of the context that was used.
    pub fn with_context(self, name: &str) -> Failure {
        Failure { context: Some(name.to_owned()), ..self }
    }

    /// Returns the failure with other advice.
    pub fn with_next(self, next: impl Into<String>) -> Failure {
        Failure { next: next.into(), ..self }
    }

    /// `what` failed at some of several nodes. The gravest of their failures determines the exit code: a refusal is
    /// graver than an unknown outcome, which is graver than a call that did nothing and may succeed later.
    ///
    /// # Panics
    /// If `nodes` is empty.
    pub fn of_nodes(what: impl Into<String>, nodes: Vec<(Place, Failure)>) -> Failure {
        let gravity = |failure: &Failure| match failure.exit {
            Exit::Unreachable => 0,
            Exit::Unknown => 1,
            _ => 2,
        };
        let gravest = nodes.iter().map(|(_, failure)| failure).max_by_key(|failure| gravity(failure));
        let Failure { exit, next, call, .. } = gravest.expect("a node failed").clone();
        Failure { exit, call, nodes: nodes.into(), ..Failure::new(exit, what, next) }
    }

    /// Returns the failure with the exit code, code and outcome of the client's error.
    pub fn of_call(self, error: &Error) -> Failure {
        let (exit, code, outcome) = match error {
            Error::NotFound(_) => (Exit::NotFound, "not-found", Outcome::Refused),
            Error::ConditionFailed { .. } => (Exit::ConditionFailed, "condition-failed", Outcome::Refused),
            Error::NotExecuted(_) => (Exit::Unreachable, "not-executed", Outcome::NotExecuted),
            Error::Unknown(_) => (Exit::Unknown, "unknown", Outcome::Unknown),
            Error::Invalid(_) => (Exit::Error, "invalid", Outcome::Refused),
            Error::ResourceExhausted(_) => (Exit::Error, "resource-exhausted", Outcome::Refused),
            Error::RevisionGone(_) => (Exit::Error, "revision-gone", Outcome::Refused),
            Error::Unavailable(_) => (Exit::Unreachable, "unavailable", Outcome::NotExecuted),
            Error::Refused(_) => (Exit::Error, "refused", Outcome::Refused),
        };
        Failure { exit, call: Some((code, outcome)), ..self }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes the failure for programs to stderr: one JSON object on a line of its own.
    pub fn print_json(&self) {
        if self.exit != Exit::ReaderGone {
            complain(format_args!("{}", self.json()));
        }
    }

    fn json(&self) -> serde_json::Value {
        let (code, outcome) = self.code_and_outcome();
        let mut error = json!({
            "code": code,
            "message": self.message(),
            "outcome": outcome,
            "context": self.context,
            "next": self.next,
        });
        if !self.nodes.is_empty() {
            let nodes = self.nodes.iter().map(|(place, failure)| {
                let (code, outcome) = failure.code_and_outcome();
                json!({
                    "name": place.name,
                    "rpc_addr": place.address,
                    "code": code,
                    "message": failure.what,
                    "outcome": outcome,
                })
            });
            error["nodes"] = nodes.collect();
        }
        json!({ "error": error, "exit_code": self.exit as u8 })
    }

    /// Returns what failed, and in which context.
    fn message(&self) -> String {
        match &self.context {
            Some(name) => format!("context '{name}': {}", self.what),
            None => self.what.clone(),
        }
    }

    fn code_and_outcome(&self) -> (&'static str, Option<&'static str>) {
        let code = self.call.map_or_else(
            || match self.exit {
                Exit::ReaderGone => "reader-gone",
                Exit::Error => "failed",
                Exit::Usage => "usage",
                Exit::NotFound => "not-found",
                Exit::ConditionFailed => "condition-failed",
                Exit::Unknown => "unknown",
                Exit::Unreachable => "unreachable",
                Exit::Unhealthy => "unhealthy",
            },
            |(code, _)| code,
        );
        let outcome = self.call.map(|(_, outcome)| match outcome {
            Outcome::Refused => "refused",
            Outcome::NotExecuted => "not executed",
            Outcome::Unknown => "unknown",
        });
        (code, outcome)
    }

    /// Writes the failure as text to stderr, coloured on a terminal only.
    pub fn print(&self) {
        if self.exit == Exit::ReaderGone {
            return;
        }
        complain(format_args!("{ERROR}error:{ERROR:#} {}", self.message()));
        for (place, failure) in &self.nodes {
            complain(format_args!("  {place}: {}", failure.what));
        }
        complain(format_args!(" {NEXT}next:{NEXT:#} {}", self.next));
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())?;
        self.nodes.iter().try_for_each(|(place, failure)| write!(f, "; {place}: {}", failure.what))?;
        write!(f, "; {}", self.next)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::usage(format!("{}: {}", error.place, error.problem), error.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_contract() {
        use Exit::{ConditionFailed, Error, NotFound, Unhealthy, Unknown, Unreachable, Usage};
        let codes = [Error, Usage, NotFound, ConditionFailed, Unknown, Unreachable, Unhealthy];
        assert_eq!(codes.map(|exit| exit as u8), [1, 2, 3, 4, 5, 6, 7]);
        for code in codes.map(|exit| exit as u8) {
            assert!(EXIT_CODES.contains(&format!("\n  {code} ")), "--help lists {code}");
        }
        let is_short = |line: &str| line.len() < 60;
        assert!(EXIT_CODES.lines().all(is_short), "no terminal breaks a line of it");
    }

    #[test]
    fn a_program_gets_the_outcome_of_each_error() {
        let failure = Failure::error("what", "next");
        let call = |error: Error| failure.clone().of_call(&error).json();
        assert_eq!(
            call(Error::Unknown("lost".into())),
            json!({
                "error": {
                    "code": "unknown", "message": "what", "outcome": "unknown", "context": null, "next": "next",
                },
                "exit_code": 5,
            }),
        );
        let named = failure.clone().with_context("prod").json();
        assert_eq!(named["error"]["context"], "prod");
        assert_eq!(named["error"]["message"], "context 'prod': what");
        assert_eq!(call(Error::NotExecuted("no".into()))["error"]["outcome"], "not executed");
        assert_eq!(
            call(Error::ConditionFailed { present_revision: Some(1) })["error"]["code"],
            "condition-failed"
        );
        let local = Failure::usage("what", "next").json();
        assert_eq!((&local["error"]["code"], &local["exit_code"]), (&json!("usage"), &json!(2)));
        assert!(local["error"]["outcome"].is_null(), "no call was made");
    }

    #[test]
    fn of_several_nodes_each_is_reported_and_the_gravest_sets_the_exit_code() {
        let at = |name: &str, error: Error| {
            let place = Place { name: Some(name.to_owned()), address: format!("{name}:1") };
            (place, Failure::error(error.to_string(), format!("see {name}")).of_call(&error))
        };
        let absent = || at("n1", Error::NotExecuted("no connection".into()));
        let late = || at("n2", Error::Unknown("no answer".into()));
        let full = || at("n3", Error::ResourceExhausted("no room".into()));
        let of = |nodes: Vec<(Place, Failure)>| Failure::of_nodes("some failed", nodes);
        assert_eq!(of(vec![absent(), absent()]).exit(), Exit::Unreachable);
        assert_eq!(of(vec![late(), absent()]).exit(), Exit::Unknown);
        let all = of(vec![absent(), full(), late()]);
        let said = all.to_string();
        for word in [
            "some failed",
            "n1 (n1:1): no connection",
            "n2 (n2:1): no answer",
            "n3 (n3:1): no room",
            "see n3",
        ] {
            assert!(said.contains(word), "{said}");
        }
        let json = all.json();
        assert_eq!((&json["exit_code"], &json["error"]["code"]), (&json!(1), &json!("resource-exhausted")));
        let nodes = json["error"]["nodes"].as_array().unwrap();
        let reported = |node: &serde_json::Value| (node["name"].clone(), node["outcome"].clone());
        let expected = [("n1", "not executed"), ("n3", "refused"), ("n2", "unknown")];
        assert_eq!(
            nodes.iter().map(reported).collect::<Vec<_>>(),
            expected.map(|(name, outcome)| (json!(name), json!(outcome))),
        );
    }

    #[test]
    fn a_refused_configuration_is_a_usage_error_with_its_place() {
        let Err(error) =
            crate::config::load(&crate::config::flags([("rpc-port", vec!["none".to_owned()])]), |_| None)
        else {
            panic!("'none' is no port");
        };
        let failure = Failure::from(error);
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().starts_with("--rpc-port: 'none' is not a port; "));
    }
}
