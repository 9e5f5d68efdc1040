//! The connection of a command to the cluster: which nodes it asks, for how long, and the message for a failed call.

use std::ffi::OsString;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;

use super::contexts::{self, Contexts};
use super::credentials::Credentials;
use super::failure::Failure;
use super::format::Format;
use super::output::Output;
use super::place::Place;
use crate::client::{self, Builder, Client, Error, NodeStatus, ReadOptions, Role};
use crate::config::parse_time;
use crate::rt;

/// The endpoint used when none is given.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:8400";

/// The variable with the endpoints for all commands of a shell.
const ENDPOINTS_VARIABLE: &str = "MOKV_ENDPOINTS";

/// The variable with the context for all commands of a shell.
const CONTEXT_VARIABLE: &str = "MOKV_CONTEXT";

/// The endpoints that a command asks, and its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    endpoints: Vec<String>,
    credentials: Credentials,
    /// The context from which some of it came.
    context: Option<String>,
}

/// Shortest timeout of a whole listing, which may be long although each of its parts is quick.
const LIST_PATIENCE: Duration = Duration::from_secs(60);

/// Flags of every command that talks to a cluster.
#[derive(Debug, Args)]
pub struct Connect {
    /// Nodes to ask, comma-separated; one that answers is enough, the others are found through it. Else those of --context,
    /// of the variable MOKV_ENDPOINTS, of the context that MOKV_CONTEXT names or that is in use, or 127.0.0.1:8400
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// The context whose nodes are asked, with its credentials: 'mokv context' adds and lists them
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Found out once.
    #[arg(skip)]
    target: OnceLock<Target>,
    /// How long to try, all in all
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub timeout: Duration,
    /// How to write results; where it is not said, whatever suits the command and its reader
    #[arg(long, short, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
    #[command(flatten)]
    pub credentials: Credentials,
}

impl Connect {
    /// Returns a client for these endpoints. Does not connect yet.
    ///
    /// # Errors
    /// If an endpoint is not `HOST:PORT`, or a certificate, a key or a token is invalid.
    pub fn client(&self) -> Result<Client, Failure> {
        self.build(Client::builder())
    }

    /// Returns a client whose writes are sent once and belong to no session.
    ///
    /// # Errors
    /// As [`Connect::client`].
    pub fn client_without_session(&self) -> Result<Client, Failure> {
        self.build(Client::builder().sessions(false))
    }

    /// Returns a client for a command that makes several calls, with one timeout for all of them.
    ///
    /// # Errors
    /// As [`Connect::client`].
    pub fn client_for_all(&self) -> Result<Client, Failure> {
        Ok(self.client()?.with_total_timeout(self.timeout))
    }

    /// Returns stdout, for a table unless another format was given.
    pub fn output(&self) -> Output {
        self.output_or(Format::Table)
    }

    /// Returns stdout, for results in `format` unless another one was given.
    pub fn output_or(&self, format: Format) -> Output {
        Output::new(self.output.unwrap_or(format))
    }

    /// Returns the endpoints to ask.
    ///
    /// # Errors
    /// If the context does not exist, or the contexts file is invalid.
    pub fn endpoints(&self) -> Result<&[String], Failure> {
        Ok(&self.target()?.endpoints)
    }

    fn target(&self) -> Result<&Target, Failure> {
        if let Some(target) = self.target.get() {
            return Ok(target);
        }
        let target = self.find_target(|name| std::env::var_os(name))?;
        Ok(self.target.get_or_init(|| target))
    }

    fn find_target(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Target, Failure> {
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            Some(Err(_)) => {
                Err(Failure::usage(format!("{name}: the value is no text"), "set it to text, or unset it"))
            }
        };
        let mut endpoints = checked(&self.endpoints)?;
        // A context that is in use by default gives no credentials to a command that names its endpoints itself.
        let mut named = self.context.clone();
        if endpoints.is_empty() && named.is_none() {
            match text(ENDPOINTS_VARIABLE)? {
                Some(given) => endpoints = checked(given.split(','))?,
                None => named = text(CONTEXT_VARIABLE)?,
            }
        }
        let mut credentials = self.credentials.clone();
        if named.is_some() || endpoints.is_empty() {
            // Without a home directory no context is in use.
            let path = contexts::path(&variable).map_or_else(
                || if named.is_some() { contexts::own_path().map(Some) } else { Ok(None) },
                |path| Ok(Some(path)),
            )?;
            if let Some(path) = path {
                let contexts = Contexts::read(&path)?;
                named = named.or_else(|| contexts.current.clone());
                if let Some(name) = &named {
                    let context = contexts.get(name, &path)?;
                    credentials = credentials.or(context.credentials());
                    if endpoints.is_empty() {
                        endpoints = checked(&context.endpoints)?;
                    }
                }
            }
        }
        if endpoints.is_empty() {
            endpoints.push(DEFAULT_ENDPOINT.to_owned());
        }
        Ok(Target { endpoints, credentials, context: named })
    }

    fn build(&self, builder: Builder) -> Result<Client, Failure> {
        let target = self.target()?;
        self.build_for(target, builder).map_err(|failure| self.in_context(failure))
    }

    /// Returns the failure with the name of the context that was used, if any.
    pub fn in_context(&self, failure: Failure) -> Failure {
        match self.target.get().and_then(|target| target.context.as_ref()) {
            Some(name) => failure.with_context(name),
            None => failure,
        }
    }

    fn build_for(&self, target: &Target, builder: Builder) -> Result<Client, Failure> {
        let list_timeout = self.timeout.max(LIST_PATIENCE);
        let builder = builder.endpoints(target.endpoints.iter().cloned()).timeout(self.timeout);
        let builder = target.credentials.give(builder.list_timeout(list_timeout), self.output)?;
        builder.build().map_err(|error| {
            Failure::usage(
                format!("cannot make a client: {error}"),
                "certificates, keys and tokens are files of text",
            )
        })
    }

    /// Returns the failure to report when `action` (such as "read 'greeting'") failed with `error`.
    pub fn failure(&self, action: &str, error: Error) -> Failure {
        // Set: a command that called a node has found its target.
        let asked = self.target.get().map(|target| target.endpoints.join(", ")).unwrap_or_default();
        let what = format!("cannot {action} (asked {asked}): {error}");
        self.in_context(meaning(what, &error))
    }

    /// Returns the failure of one node, at `place`, of several that were asked.
    pub fn failure_at(&self, place: &Place, error: &Error) -> Failure {
        let why = error.to_string();
        // The error begins with the node's address.
        let what = why.strip_prefix(&format!("{}: ", place.address)).unwrap_or(&why);
        meaning(what.to_owned(), error)
    }

    /// Returns all members as the cluster lists them, sorted by name; the endpoints if there is no cluster to ask.
    /// Takes at most half of the timeout, because the nodes themselves are asked afterwards.
    pub async fn all_nodes(&self, client: &Client) -> Vec<Place> {
        let mut places: Vec<Place> = match client
            .with_timeout(self.timeout / 2)
            .members_with(ReadOptions::stale())
            .await
        {
            Ok(members) if !members.members.is_empty() => {
                members.members.into_iter().map(Place::from).collect()
            }
            _ => self.endpoints().unwrap_or_default().iter().map(|address| Place::unnamed(address)).collect(),
        };
        places.sort();
        places.dedup();
        places
    }
}

/// Returns the failure `what` with the advice and the exit code for `error`.
fn meaning(what: String, error: &Error) -> Failure {
    let failure = match error {
        Error::NotFound(_) => Failure::not_found(what, "'mokv members' lists the members"),
        Error::ConditionFailed { .. } => {
            Failure::error(what, "read the key again with 'mokv get --output json' and decide anew")
        }
        Error::NotExecuted(_) => {
            Failure::error(what, "nothing was changed: try again; 'mokv status' shows the nodes")
        }
        Error::Unknown(_) => Failure::error(what, "read what is there now, then decide"),
        Error::Invalid(_) => Failure::error(what, "nothing was changed: correct the request"),
        Error::ResourceExhausted(_) => {
            Failure::error(what, "nothing was changed: delete keys or raise the limit")
        }
        Error::RevisionGone(_) => {
            Failure::error(what, "read the present revision, or list again from the start")
        }
        Error::Unavailable(_) => Failure::error(
            what,
            "start nodes with 'mokv dev', name nodes that run with --endpoints, or give more --timeout",
        ),
        Error::Refused(_) => Failure::error(what, "'mokv status' shows the state of the nodes"),
    };
    failure.of_call(error)
}

/// Returns the endpoints as given, without surrounding blanks.
///
/// # Errors
/// If one is not `HOST:PORT`.
pub fn checked(given: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<String>, Failure> {
    let checked = given.into_iter().map(|given| client::endpoint(given.as_ref()).map(str::to_owned));
    checked
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::usage(error.to_string(), "endpoints are HOST:PORT, with commas between"))
}

/// Sends the name of each new leader to `news`, polling every `interval`. Returns when the receiver is dropped.
///
/// A node counts as leader when its own status says so; of two, which a partition can cause for a while, the one of the
/// higher term.
pub async fn watch_leader(endpoints: Vec<String>, interval: Duration, news: mpsc::Sender<String>) {
    let client = Client::builder()
        .endpoints(endpoints.iter().cloned())
        .timeout(interval)
        .build()
        .expect("the addresses are our own");
    let mut known = None;
    loop {
        let answers = endpoints.iter().map(|address| client.status(address));
        let answers = futures_util::future::join_all(answers).await;
        let leader = leader(answers.iter().flatten()).map(|status| (status.term, status.name.clone()));
        if leader.is_some() && leader != known {
            let (_, name) = leader.clone().expect("it was just looked at");
            if news.send(name).await.is_err() {
                return;
            }
            known = leader;
        }
        rt::sleep(interval).await;
    }
}

fn leader<'a>(answers: impl Iterator<Item = &'a NodeStatus>) -> Option<&'a NodeStatus> {
    answers.filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)
}

#[cfg(test)]
mod tests {
    use super::super::failure::Exit;
    use super::*;
    use mokv_proto::api::StatusResponse;

    fn connect(endpoints: &[&str]) -> Connect {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Connect {
            endpoints,
            context: None,
            target: OnceLock::new(),
            timeout: Duration::from_secs(1),
            output: None,
            credentials: Credentials::default(),
        }
    }

    #[test]
    fn a_bad_endpoint_is_a_usage_error() {
        let failure = connect(&["nonsense"]).client().expect_err("it has no port");
        assert_eq!(failure.exit(), Exit::Usage);
    }

    /// A home directory whose contexts file has 'prod' and 'test', of which 'test' is in use.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".config/mokv");
        std::fs::create_dir_all(&directory).unwrap();
        let text = "\
current: test
contexts:
  test: {endpoints: [t:1]}
  prod: {endpoints: [p:1, p:2], tls: true, token-file: /secret}
";
        std::fs::write(directory.join("contexts.yaml"), text).unwrap();
        home
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_a_context_over_the_default() {
        let home = home();
        let found = |endpoints: &[&str], context: Option<&str>, variables: &[(&str, &str)]| {
            let connect = Connect { context: context.map(str::to_owned), ..connect(endpoints) };
            let variable = |name: &str| match name {
                "HOME" => Some(home.path().into()),
                name => variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into()),
            };
            let target = connect.find_target(variable).map_err(|failure| failure.to_string())?;
            let token = target.credentials.token_file.is_some();
            Ok::<_, String>((target.endpoints.join(","), token))
        };
        let is = |endpoints: &str, token: bool| Ok((endpoints.to_owned(), token));
        let endpoints_variable = (ENDPOINTS_VARIABLE, "v:1, v:2");
        let context_variable = (CONTEXT_VARIABLE, "prod");
        assert_eq!(found(&[], None, &[]), is("t:1", false), "the context in use");
        assert_eq!(found(&[], None, &[context_variable]), is("p:1,p:2", true));
        assert_eq!(found(&[], None, &[endpoints_variable, context_variable]), is("v:1,v:2", false));
        assert_eq!(found(&[], Some("prod"), &[endpoints_variable]), is("p:1,p:2", true));
        assert_eq!(found(&["f:1"], None, &[endpoints_variable, context_variable]), is("f:1", false));
        assert_eq!(found(&["f:1"], Some("prod"), &[]), is("f:1", true), "its credentials were asked for");
        assert_eq!(found(&[], None, &[(ENDPOINTS_VARIABLE, " "), (CONTEXT_VARIABLE, "")]), is("t:1", false));
        let elsewhere = ("MOKV_CONFIG", "/nowhere/at/all");
        assert_eq!(found(&[], None, &[elsewhere]), is(DEFAULT_ENDPOINT, false));
        let unknown = found(&[], Some("pord"), &[]).unwrap_err();
        assert!(
            unknown.contains("no context 'pord'") && unknown.contains("'mokv context list'"),
            "{unknown}"
        );
        assert!(found(&[], None, &[elsewhere, context_variable]).is_err(), "what is named has to be there");
    }

    #[test]
    fn a_broken_file_stops_only_commands_that_need_it() {
        let home = home();
        let file = home.path().join(".config/mokv/contexts.yaml");
        std::fs::write(&file, "contexts:\n  a: {endpoint: [a:1]}\n").unwrap();
        let variable = |name: &str| (name == "HOME").then(|| home.path().into());
        assert!(connect(&["f:1"]).find_target(variable).is_ok());
        let failure = connect(&[]).find_target(variable).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let said = failure.to_string();
        assert!(said.starts_with(&format!("{} line 2: ", file.display())), "{said}");
    }

    #[test]
    fn failures_say_what_was_tried_where_and_what_to_do() {
        let connect = connect(&["a:1", "b:2"]);
        connect.client().expect("these are endpoints");
        let failure = connect.failure("write 'k'", Error::Unknown("the answer never came".into()));
        assert_eq!(failure.exit(), Exit::Unknown);
        let said = failure.to_string();
        assert!(said.starts_with("cannot write 'k' (asked a:1, b:2): the answer never came"), "{said}");
        assert!(
            said.contains("read what is there now"),
            "an unknown outcome is never called a failure: {said}"
        );
        assert_eq!(connect.failure("remove 'n'", Error::NotFound("no 'n'".into())).exit(), Exit::NotFound);
    }

    #[test]
    fn of_two_that_say_they_lead_the_higher_term_does() {
        let status = |name: &str, role: &str, term| {
            NodeStatus::from_wire(StatusResponse {
                name: name.to_owned(),
                role: role.to_owned(),
                term,
                ..StatusResponse::default()
            })
        };
        let answers =
            [status("old", "leader", 3), status("new", "leader", 4), status("other", "follower", 5)];
        assert_eq!(leader(answers.iter()).map(|status| status.name.as_str()), Some("new"));
        assert!(leader(answers[2..].iter()).is_none());
    }
}
