//! The way from a command to the cluster: which nodes to ask and for how long, and what a failed call means to a
//! person.

use std::fmt;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;

use super::credentials::Credentials;
use super::failure::Failure;
use super::output::{Format, Output};
use crate::client::{Builder, Client, Error, NodeStatus, Server};
use crate::config::parse_time;
use crate::rt;

/// The node that is asked when none is named.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:8400";

/// Names nodes for all commands of a shell.
const ENDPOINTS_VARIABLE: &str = "MOKV_ENDPOINTS";

/// The nodes that are asked when no flag names any.
fn default_endpoints() -> Vec<String> {
    let given = std::env::var(ENDPOINTS_VARIABLE).ok().filter(|given| !given.trim().is_empty());
    let given = given.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    given.split(',').map(|endpoint| endpoint.trim().to_owned()).collect()
}

/// Least time for a whole listing, which may be long although each of its parts is quick.
const LIST_PATIENCE: Duration = Duration::from_secs(60);

/// Flags of every command that talks to a cluster.
#[derive(Debug, Args)]
pub struct Connect {
    /// Nodes to ask, comma-separated; one that answers is enough, the others are found through it. The variable
    /// MOKV_ENDPOINTS names others than the default for all commands
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_values_t = default_endpoints())]
    pub endpoints: Vec<String>,
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
    /// A client of these nodes. Connects to nobody yet.
    ///
    /// # Errors
    /// If an endpoint is not `HOST:PORT`, or a certificate, a key or a token is not what it should be.
    pub fn client(&self) -> Result<Client, Failure> {
        self.build(Client::builder())
    }

    /// A client whose writes are sent once and belong to no session.
    ///
    /// # Errors
    /// As [`Connect::client`].
    pub fn client_without_session(&self) -> Result<Client, Failure> {
        self.build(Client::builder().sessions(false))
    }

    /// A client for a command that makes several calls, all of them within the one time that was given.
    ///
    /// # Errors
    /// As [`Connect::client`].
    pub fn client_for_all(&self) -> Result<Client, Failure> {
        Ok(self.client()?.with_total_timeout(self.timeout))
    }

    /// stdout, for results in columns unless something else was asked for.
    pub fn output(&self) -> Output {
        self.output_or(Format::Table)
    }

    /// stdout, for results in this format unless something else was asked for.
    pub fn output_or(&self, format: Format) -> Output {
        Output::new(self.output.unwrap_or(format))
    }

    fn build(&self, builder: Builder) -> Result<Client, Failure> {
        let list_timeout = self.timeout.max(LIST_PATIENCE);
        let builder = builder.endpoints(self.endpoints.iter().cloned()).timeout(self.timeout);
        let builder = self.credentials.give(builder.list_timeout(list_timeout))?;
        builder.build().map_err(|error| {
            Failure::usage(
                format!("cannot make a client: {error}"),
                "endpoints are HOST:PORT, with commas between; certificates, keys and tokens are files of text",
            )
        })
    }

    /// What it means to the user that `action` (such as "read 'greeting'") failed so.
    pub fn failure(&self, action: &str, error: Error) -> Failure {
        let what = format!("cannot {action} (asked {}): {error}", self.endpoints.join(", "));
        let failure = match &error {
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
            Error::RevisionGone(_) => Failure::error(what, "list again from the start"),
            Error::Unavailable(_) => Failure::error(
                what,
                "start nodes with 'mokv dev', name nodes that run with --endpoints, or give more --timeout",
            ),
            Error::Refused(_) => Failure::error(what, "'mokv status' shows the state of the nodes"),
        };
        failure.of_call(&error)
    }

    /// All members as the cluster knows them, by name; the endpoints themselves while there is no cluster to ask. Half of the time at most is spent on that: the nodes themselves are still to be asked.
    pub async fn all_nodes(&self, client: &Client) -> Vec<Place> {
        let mut places: Vec<Place> = match client.with_timeout(self.timeout / 2).servers().await {
            Ok(servers) if !servers.is_empty() => servers.into_iter().map(Place::from).collect(),
            _ => self.endpoints.iter().map(|address| Place::unnamed(address)).collect(),
        };
        places.sort();
        places.dedup();
        places
    }
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its name, where that is known.
    pub name: Option<String>,
    /// Its RPC address.
    pub address: String,
}

impl Place {
    /// A node of which nothing but its address is known.
    pub fn unnamed(address: &str) -> Place {
        Place { name: None, address: address.to_owned() }
    }

    /// Its name as a cell of a table.
    pub fn cell(&self) -> String {
        self.name.clone().unwrap_or_else(|| "-".to_owned())
    }
}

impl From<Server> for Place {
    fn from(server: Server) -> Place {
        Place { name: Some(server.id).filter(|name| !name.is_empty()), address: server.rpc_addr }
    }
}

/// In a sentence.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// Tells in `news` the name of each new leader, asking every `interval`. Runs until nobody listens.
///
/// A leader counts when it says itself that it leads; of two, which a partition can bring about for a while, the
/// one of the higher term.
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
    answers.filter(|status| status.role == "leader").max_by_key(|status| status.term)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(endpoints: &[&str]) -> Connect {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Connect {
            endpoints,
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

    #[test]
    fn failures_say_what_was_tried_where_and_what_to_do() {
        let connect = connect(&["a:1", "b:2"]);
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
        let status = |name: &str, role: &str, term| NodeStatus {
            name: name.to_owned(),
            role: role.to_owned(),
            term,
            ..NodeStatus::default()
        };
        let answers =
            [status("old", "leader", 3), status("new", "leader", 4), status("other", "follower", 5)];
        assert_eq!(leader(answers.iter()).map(|status| status.name.as_str()), Some("new"));
        assert!(leader(answers[2..].iter()).is_none());
    }
}
