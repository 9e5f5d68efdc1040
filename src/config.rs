//! Turns flags, environment variables and a YAML file into plain values, which are checked once, here.
//!
//! One table ([`settings::SETTINGS`]) defines all three and their documentation. A value is taken from the flag, else
//! from the environment (`MOKV_` and the key in upper snake case), else from the file, else from the default. Every
//! error names the flag, the variable, or file, line and key. No name is resolved and no port is opened here.

mod check;
mod layers;
pub mod settings;
mod yaml;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::{any_bytes as parse_bytes, time as parse_time};
pub use layers::{ConfigError, Given, Layer, Source, environment, flags};
use settings::{CONFIG_FILE, Kind, Setting};
pub(crate) use yaml::not_read as yaml_not_read;

/// Longest key, in bytes. Not a setting: clients may rely on it.
pub const MAX_KEY_BYTES: usize = 4096;

/// Bytes of a request besides the value: the longest key, session, framing.
const REQUEST_OVERHEAD_BYTES: u64 = 8 * 1024;

/// Shortest and longest cluster key, in bytes.
const CLUSTER_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;

/// One node's configuration: every value is valid, and the values are consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The directory of the log, the snapshots and the identity.
    pub data_dir: PathBuf,
    /// The node's name, unique in the cluster; safe as a file name.
    pub node_name: String,
    /// The address on which gossip (UDP) listens. RPC and metrics listen on the same IP address.
    pub bind_addr: SocketAddr,
    /// The host (name, or IP address without brackets) at which others reach this node; never unspecified.
    pub advertise_host: String,
    /// TCP port of gRPC and Raft.
    pub rpc_port: u16,
    /// TCP port of the metrics.
    pub metrics_port: u16,
    /// Gossip addresses `host:port` to join through, without duplicates; this node's own may be among them.
    pub start_join_addrs: Vec<String>,
    /// Form a cluster of one when pristine.
    pub bootstrap: bool,
    /// Form a cluster of this many pristine nodes; at least 1.
    pub bootstrap_expect: Option<usize>,
    /// The secret that all nodes of the cluster share.
    pub cluster_key: Option<ClusterKey>,
    /// The file from which the cluster key was read.
    pub cluster_key_file: Option<PathBuf>,
    /// The user explicitly allows listening beyond loopback without a key.
    pub allow_insecure: bool,
    /// On SIGTERM the node leaves the cluster for good.
    pub leave_on_terminate: bool,
    /// A node that is removed while it runs joins again by itself.
    pub rejoin: bool,
    /// The node is ready only with at most this many committed entries left to apply.
    pub ready_max_lag: u64,
    /// Replicated when this node forms a cluster: the most sessions at a time.
    pub initial_max_sessions: u64,
    /// Replicated when this node forms a cluster: the most bytes that the store must keep; 0: no bound.
    pub initial_max_store_bytes: u64,
    /// Valid directives for `tracing_subscriber::EnvFilter`.
    pub log_level: String,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Limits on requests. Checked only at admission; none affects how a log entry is applied.
    pub limits: Limits,
    /// Log, snapshots, disk.
    pub storage: StorageConfig,
    /// The leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout; the longest is twice this. At least three heartbeats.
    pub election_timeout: Duration,
    /// How long the old id of a name must be silent before a joining node of that name replaces it.
    pub replace_silence: Duration,
    /// A node with damaged data starts over as a new node, if the leader confirms that the others can do without it.
    pub replace_damaged: bool,
}

/// Limits on requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest value, in bytes.
    pub max_value_bytes: usize,
    /// Largest request that is read, in bytes; at least a value and a key with their framing.
    pub max_request_bytes: usize,
    /// The most requests served at a time.
    pub max_in_flight_requests: usize,
    /// The most client connections at a time.
    pub max_connections: usize,
    /// An idle connection is closed after this time.
    pub idle_timeout: Duration,
    /// The most bytes that one List stream sends.
    pub max_list_bytes: u64,
    /// The longest time of one List stream.
    pub max_list_time: Duration,
    /// The longest time of any other request.
    pub request_timeout: Duration,
    /// How long a stop waits for requests in flight.
    pub drain_timeout: Duration,
}

/// Sizes of the log and the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// A snapshot is taken when the log since the last one has so many bytes; where between the bounds follows from the last
    /// one's size.
    pub snapshot_log_bytes: RangeInclusive<u64>,
    /// Size of one log file, in bytes; at least twice `max_request_bytes`.
    pub log_segment_bytes: u64,
    /// Memory for recent log entries, in bytes.
    pub log_cache_bytes: u64,
    /// Free disk space in bytes below which client writes are refused.
    pub min_free_bytes: u64,
    /// Time between two scrubs, which read all data again; zero: no scrubs.
    pub scrub_interval: Duration,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The node's name, unique in its cluster.
    Text,
    /// One JSON object a line.
    Json,
}

/// The secret that all nodes of a cluster share. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(Vec<u8>);

impl ClusterKey {
    /// The secret.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for ClusterKey {
    fn from(secret: Vec<u8>) -> Self {
        ClusterKey(secret)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl NodeConfig {
    /// Returns the defaults for a node of this name that listens on `bind_addr`; everything else can be set on the
    /// value.
    ///
    /// # Panics
    /// If the name is not a node name, or the address is unspecified or has port 0. Values from a user go through
    /// [`load`].
    pub fn local(node_name: &str, bind_addr: SocketAddr) -> NodeConfig {
        let given = flags([
            ("node-name", vec![node_name.to_owned()]),
            ("bind-addr", vec![bind_addr.to_string()]),
            ("allow-insecure", vec!["true".to_owned()]),
        ]);
        Reader { layers: &[&given] }.read().expect("the defaults fit together")
    }

    /// Returns the address on which RPC listens.
    pub fn rpc_bind(&self) -> SocketAddr {
        SocketAddr::new(self.bind_addr.ip(), self.rpc_port)
    }

    /// Returns the address on which the metrics port listens.
    pub fn metrics_bind(&self) -> SocketAddr {
        SocketAddr::new(self.bind_addr.ip(), self.metrics_port)
    }

    /// Returns the `host:port` at which clients and Raft peers reach this node.
    pub fn advertised_rpc(&self) -> String {
        join_host_port(&self.advertise_host, self.rpc_port)
    }

    /// Returns the `host:port` at which gossip reaches this node.
    pub fn advertised_gossip(&self) -> String {
        join_host_port(&self.advertise_host, self.bind_addr.port())
    }
}

fn join_host_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Parses the text of the configuration file `path`. Returns the values by key, unchecked.
///
/// # Errors
/// If it is not a YAML mapping of known keys.
pub fn parse_file(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    yaml::parse(path, text)
}

/// Loads the configuration of a node: `flags` from the command line, `variable` reads the environment. Opens only the
/// configuration file and the cluster key's file.
///
/// # Errors
/// The first error found, with its place and what to do.
pub fn load(flags: &Layer, variable: impl Fn(&str) -> Option<String>) -> Result<NodeConfig, ConfigError> {
    let environment = environment(variable);
    let config_file = settings::find(CONFIG_FILE).expect("config-file is a setting");
    let file = match layers::winner(&[flags, &environment], config_file) {
        Some(given) => {
            let path = PathBuf::from(given.values.concat());
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let problem = format!("cannot read '{}': {error}", path.display());
                ConfigError::new(given.place(config_file), problem, "name a readable YAML file")
            })?;
            yaml::parse(&path, &text)?
        }
        None => Layer::new(),
    };
    Reader { layers: &[flags, &environment, &file] }.read()
}

/// As [`load`], with this process's environment. Refuses a variable that looks like a setting and is none.
///
/// # Errors
/// As [`load`].
pub fn load_here(flags: &Layer) -> Result<NodeConfig, ConfigError> {
    layers::check_variables(
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }),
    )?;
    load(flags, |name| std::env::var(name).ok())
}

/// Reads typed values from the layers.
struct Reader<'a> {
    layers: &'a [&'a Layer],
}

impl Reader<'_> {
    fn read(&self) -> Result<NodeConfig, ConfigError> {
        let node_name = self.node_name()?;
        let bind_addr = self.required("bind-addr", |_, text| check::socket_address(text))?;
        let data_dir = match self.optional("data-dir", |_, text| path(text))? {
            Some(directory) => directory,
            None => Path::new("mokv-data").join(&node_name),
        };
        let config = NodeConfig {
            data_dir,
            node_name,
            bind_addr,
            advertise_host: self.advertise_host(bind_addr)?,
            rpc_port: self.required("rpc-port", |_, text| check::port(text))?,
            metrics_port: self.required("metrics-port", |_, text| check::port(text))?,
            start_join_addrs: self.host_ports("start-join-addrs")?,
            bootstrap: self.switch("bootstrap")?,
            bootstrap_expect: self.optional("bootstrap-expect", number)?.map(as_size),
            cluster_key: self.cluster_key()?,
            cluster_key_file: self.cluster_key_file()?,
            allow_insecure: self.switch("allow-insecure")?,
            leave_on_terminate: self.switch("leave-on-terminate")?,
            rejoin: self.switch("rejoin")?,
            ready_max_lag: self.required("ready-max-lag", number)?,
            initial_max_sessions: self.required("initial-max-sessions", number)?,
            initial_max_store_bytes: self.required("initial-max-store-bytes", number)?,
            log_level: self.required("log-level", |_, text| check::log_filter(text))?,
            log_format: self.required("log-format", log_format)?,
            limits: Limits {
                max_value_bytes: as_size(self.required("max-value-bytes", number)?),
                max_request_bytes: as_size(self.required("max-request-bytes", number)?),
                max_in_flight_requests: as_size(self.required("max-in-flight-requests", number)?),
                max_connections: as_size(self.required("max-connections", number)?),
                idle_timeout: self.required("idle-timeout", duration)?,
                max_list_bytes: self.required("max-list-bytes", number)?,
                max_list_time: self.required("max-list-time", duration)?,
                request_timeout: self.required("request-timeout", duration)?,
                drain_timeout: self.required("drain-timeout", duration)?,
            },
            storage: StorageConfig {
                snapshot_log_bytes: self.required("snapshot-log-bytes", number)?
                    ..=self.required("snapshot-log-max-bytes", number)?,
                log_segment_bytes: self.required("log-segment-bytes", number)?,
                log_cache_bytes: self.required("log-cache-bytes", number)?,
                min_free_bytes: self.required("min-free-bytes", number)?,
                scrub_interval: self.required("scrub-interval", duration)?,
            },
            heartbeat_interval: self.required("heartbeat-interval", duration)?,
            election_timeout: self.required("election-timeout", duration)?,
            replace_silence: self.required("replace-silence", duration)?,
            replace_damaged: self.switch("replace-damaged")?,
        };
        self.check_together(&config)?;
        Ok(config)
    }

    fn node_name(&self) -> Result<String, ConfigError> {
        if let Some(name) = self.optional("node-name", |_, text| check::name(text))? {
            return Ok(name);
        }
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        check::name(&host_name).map_err(|refusal| {
            let problem = format!("not set, and the host name cannot be used: {}", refusal.problem);
            ConfigError::new("node-name", problem, refusal.remedy)
        })
    }

    fn advertise_host(&self, bind_addr: SocketAddr) -> Result<String, ConfigError> {
        match self.optional("advertise-addr", |_, text| check::host(text))? {
            Some(host) => Ok(host),
            None if bind_addr.ip().is_unspecified() => Err(self.refuse(
                "bind-addr",
                format!("no other machine can reach '{}'", bind_addr.ip()),
                "set advertise-addr to this node's host name or IP address",
            )),
            None => Ok(bind_addr.ip().to_string()),
        }
    }

    fn cluster_key_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        self.optional("cluster-key-file", |_, text| path(text))
    }

    fn cluster_key(&self) -> Result<Option<ClusterKey>, ConfigError> {
        let Some(path) = self.cluster_key_file()? else { return Ok(None) };
        let bytes = std::fs::read(&path).map_err(|error| {
            let problem = format!("cannot read '{}': {error}", path.display());
            self.refuse("cluster-key-file", problem, "name a readable file with the cluster's secret")
        })?;
        // Editors and `echo` end a file with a newline, which is no part of the secret.
        let secret = bytes.trim_ascii_end();
        if !CLUSTER_KEY_BYTES.contains(&secret.len()) {
            let problem = format!("'{}' holds {} bytes", path.display(), secret.len());
            let remedy = "a cluster key has 16 to 4096 bytes; 'openssl rand -hex 32' makes a good one";
            return Err(self.refuse("cluster-key-file", problem, remedy));
        }
        Ok(Some(ClusterKey(secret.to_vec())))
    }

    fn host_ports(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        let (setting, given) = self.look_up(key);
        let Some(given) = given else { return Ok(Vec::new()) };
        let mut seen = BTreeSet::new();
        let mut addresses = Vec::new();
        let values = given.values.iter().flat_map(|value| value.split(',')).map(str::trim);
        for value in values.filter(|value| !value.is_empty()) {
            let address = check::host_port(value).map_err(|refusal| refused(setting, &given, refusal))?;
            if seen.insert(address.clone()) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn switch(&self, key: &'static str) -> Result<bool, ConfigError> {
        self.required(key, |_, text| check::switch(text))
    }

    fn required<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Setting, &str) -> Result<T, check::Refusal>,
    ) -> Result<T, ConfigError> {
        Ok(self.optional(key, parse)?.expect("the setting has a default"))
    }

    fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Setting, &str) -> Result<T, check::Refusal>,
    ) -> Result<Option<T>, ConfigError> {
        let (setting, given) = self.look_up(key);
        let Some(given) = given else { return Ok(None) };
        let parsed = match given.values.as_slice() {
            [value] => parse(setting, value),
            values => check::refuse(
                format!("has {} values", values.len()),
                format!("give one {}", setting.kind.placeholder()),
            ),
        };
        parsed.map(Some).map_err(|refusal| refused(setting, &given, refusal))
    }

    fn look_up(&self, key: &'static str) -> (&'static Setting, Option<Given>) {
        let setting = settings::find(key).expect("every key that is read is in the table");
        (setting, layers::winner(self.layers, setting))
    }

    /// Returns an error at the place where `key` was given.
    fn refuse(
        &self,
        key: &'static str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let (setting, given) = self.look_up(key);
        let place = given.map_or_else(|| key.to_owned(), |given| given.place(setting));
        ConfigError::new(place, problem, remedy)
    }

    /// Checks the values that depend on each other.
    fn check_together(&self, config: &NodeConfig) -> Result<(), ConfigError> {
        if config.rpc_port == config.metrics_port {
            let problem = format!("{} is rpc-port too", config.metrics_port);
            return Err(self.refuse("metrics-port", problem, "give each a port of its own"));
        }
        if !config.bind_addr.ip().is_loopback() && config.cluster_key.is_none() && !config.allow_insecure {
            return Err(self.refuse(
                "bind-addr",
                format!("'{}' is open to other machines and no cluster-key-file is set", config.bind_addr),
                "set cluster-key-file, or allow-insecure: true if every machine that reaches it may join",
            ));
        }
        self.check_formation(config)?;
        let (value, request) = (config.limits.max_value_bytes as u64, config.limits.max_request_bytes as u64);
        if request < value + REQUEST_OVERHEAD_BYTES {
            let least = check::show_bytes(value + REQUEST_OVERHEAD_BYTES);
            let problem = "a value of max-value-bytes does not fit into a request";
            return Err(self.refuse("max-request-bytes", problem, format!("give at least {least}")));
        }
        if config.storage.log_segment_bytes < 2 * request {
            let problem = "a request of max-request-bytes fills more than half of a log file";
            let remedy = format!("give at least {}", check::show_bytes(2 * request));
            return Err(self.refuse("log-segment-bytes", problem, remedy));
        }
        if config.storage.snapshot_log_bytes.is_empty() {
            let (least, most) = config.storage.snapshot_log_bytes.clone().into_inner();
            let problem = format!("less than snapshot-log-bytes, {}", check::show_bytes(least));
            let remedy =
                format!("give at least that, or a snapshot-log-bytes of at most {}", check::show_bytes(most));
            return Err(self.refuse("snapshot-log-max-bytes", problem, remedy));
        }
        if config.election_timeout < 3 * config.heartbeat_interval {
            let problem = "one lost heartbeat would start an election";
            let remedy = format!("give at least {:?}, three heartbeats", 3 * config.heartbeat_interval);
            return Err(self.refuse("election-timeout", problem, remedy));
        }
        if config.replace_silence < 2 * config.election_timeout {
            let problem = "a member could be replaced before the cluster notices that it is silent";
            let remedy = format!("give at least {:?}, two election timeouts", 2 * config.election_timeout);
            return Err(self.refuse("replace-silence", problem, remedy));
        }
        Ok(())
    }

    fn check_formation(&self, config: &NodeConfig) -> Result<(), ConfigError> {
        let Some(expected) = config.bootstrap_expect else { return Ok(()) };
        if config.bootstrap && expected > 1 {
            return Err(self.refuse(
                "bootstrap-expect",
                format!("{expected} nodes contradict bootstrap, which forms a cluster of one"),
                "set one of the two",
            ));
        }
        // A name may resolve to many nodes, so only a list of addresses can be too short.
        let own = config.advertised_gossip();
        let others = config.start_join_addrs.iter().filter(|address| **address != own).count();
        let all_addresses =
            config.start_join_addrs.iter().all(|address| address.parse::<SocketAddr>().is_ok());
        if all_addresses && others + 1 < expected {
            return Err(self.refuse(
                "bootstrap-expect",
                format!(
                    "{expected} nodes are expected and start-join-addrs names {others} other than this one"
                ),
                "list the gossip addresses of all of them",
            ));
        }
        Ok(())
    }
}

fn refused(setting: &Setting, given: &Given, refusal: check::Refusal) -> ConfigError {
    ConfigError::new(given.place(setting), refusal.problem, refusal.remedy)
}

fn path(text: &str) -> Result<PathBuf, check::Refusal> {
    if text.is_empty() { check::refuse("is empty", "give a path") } else { Ok(PathBuf::from(text)) }
}

fn log_format(setting: &Setting, text: &str) -> Result<LogFormat, check::Refusal> {
    let Kind::Choice(choices) = setting.kind else { unreachable!("log-format is a choice") };
    Ok(if check::choice(text, choices)? == "json" { LogFormat::Json } else { LogFormat::Text })
}

/// Reads a count or a number of bytes.
fn number(setting: &Setting, text: &str) -> Result<u64, check::Refusal> {
    match setting.kind {
        Kind::Count { least, most } => check::count(text, least, most),
        Kind::Bytes { least, most } => check::bytes(text, least, most),
        _ => unreachable!("{} is a number", setting.key),
    }
}

fn duration(setting: &Setting, text: &str) -> Result<Duration, check::Refusal> {
    match setting.kind {
        Kind::Time { least, most } => check::bounded_time(text, least, most),
        _ => unreachable!("{} is a time", setting.key),
    }
}

/// Cannot fail: the table bounds every such number far below what a `usize` holds.
fn as_size(number: u64) -> usize {
    usize::try_from(number).expect("the table bounds it")
}

#[cfg(test)]
mod tests;
