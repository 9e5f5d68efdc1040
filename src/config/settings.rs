//! The table of all settings of a node. Flags, environment variables, the keys of the configuration file, defaults and
//! help texts all come from this table; no value is read here.

use std::time::Duration;

use crate::membership::MAX_PLEDGED;
use crate::raft::peers::frame::{MAX_FRAME_BYTES, MAX_VALUE_BYTES};
use crate::replicated_settings::MAX_SESSIONS;
use crate::storage::SEGMENT_BYTES;

/// One setting: `--KEY`, `MOKV_KEY` (upper snake case) and `KEY:` in the configuration file.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name: lower case, words joined by `-`.
    pub key: &'static str,
    /// The kind of its values.
    pub kind: Kind,
    /// The default as a user would write it; empty: none, or derived from other settings as `help` describes.
    pub default: &'static str,
    /// Its heading in `--help` and in the documentation.
    pub group: Group,
    /// Its effect, in one or two sentences.
    pub help: &'static str,
}

impl Setting {
    /// Returns the name of the environment variable: `MOKV_RPC_PORT` for `rpc-port`.
    pub fn variable(&self) -> String {
        format!("MOKV_{}", self.key.to_uppercase().replace('-', "_"))
    }

    /// Whether it is allowed in the configuration file: all settings except the file's own name.
    pub fn in_file(&self) -> bool {
        self.key != CONFIG_FILE
    }
}

/// The key of the configuration file itself.
pub const CONFIG_FILE: &str = "config-file";

/// The heading of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The node's name, addresses and directory.
    Node,
    /// How the node finds and forms its cluster.
    Cluster,
    /// The node's log lines.
    Logging,
    /// Limits on requests.
    Limits,
    /// Log, snapshots, disk.
    Storage,
    /// Raft's timeouts.
    Timing,
}

impl Group {
    /// Returns the heading's text.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Node => "Node",
            Group::Cluster => "Cluster",
            Group::Logging => "Logging",
            Group::Limits => "Limits",
            Group::Storage => "Storage",
            Group::Timing => "Timing",
        }
    }
}

/// The kind of a setting's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A path in the file system, relative to the working directory.
    Path,
    /// A node name.
    Name,
    /// `IP:PORT`.
    SocketAddress,
    /// A host name or an IP address, without a port.
    Host,
    /// A list of `HOST:PORT`.
    HostPorts,
    /// A TCP port.
    Port,
    /// True or false.
    Switch,
    /// A whole number within bounds.
    Count {
        /// The smallest value.
        least: u64,
        /// The largest value.
        most: u64,
    },
    /// A number of bytes within bounds: `65536`, `64KiB`, `1MiB`, `2GiB`.
    Bytes {
        /// The smallest value.
        least: u64,
        /// The largest value.
        most: u64,
    },
    /// A length of time within bounds: `500ms`, `5s`, `2m`.
    Time {
        /// The smallest value.
        least: Duration,
        /// The largest value.
        most: Duration,
    },
    /// One of a fixed set of values.
    Choice(&'static [&'static str]),
    /// A log level or tracing directives.
    LogFilter,
}

impl Kind {
    /// Returns the placeholder of the value in help texts.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Path => "PATH",
            Kind::Name => "NAME",
            Kind::SocketAddress => "IP:PORT",
            Kind::Host => "HOST",
            Kind::HostPorts => "HOST:PORT",
            Kind::Port => "PORT",
            Kind::Switch => "BOOL",
            Kind::Count { .. } => "N",
            Kind::Bytes { .. } => "BYTES",
            Kind::Time { .. } => "TIME",
            Kind::Choice(_) => "WORD",
            Kind::LogFilter => "LEVEL",
        }
    }
}

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

const fn bytes(least: u64, most: u64) -> Kind {
    Kind::Bytes { least, most }
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Count { least, most }
}

const fn millis(least: u64, most: u64) -> Kind {
    Kind::Time { least: Duration::from_millis(least), most: Duration::from_millis(most) }
}

const fn setting(
    group: Group,
    key: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind, default, group, help }
}

/// Every setting, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    setting(
        Group::Node,
        CONFIG_FILE,
        Kind::Path,
        "",
        "YAML file with these settings, keys spelled as the flags are. Flags and environment variables win over it",
    ),
    setting(
        Group::Node,
        "data-dir",
        Kind::Path,
        "",
        "Directory of this node's log, snapshots and identity [default: ./mokv-data/<node-name>]",
    ),
    setting(
        Group::Node,
        "node-name",
        Kind::Name,
        "",
        "Name of this node, unique in the cluster [default: the host name]",
    ),
    setting(
        Group::Node,
        "bind-addr",
        Kind::SocketAddress,
        "127.0.0.1:8401",
        "IP address and UDP port for gossip. The RPC and metrics ports listen on the same IP address",
    ),
    setting(
        Group::Node,
        "advertise-addr",
        Kind::Host,
        "",
        "Host name or IP address under which other nodes and clients reach this one; names are resolved anew at every attempt [default: the host of bind-addr; needed when that is 0.0.0.0 or ::]",
    ),
    setting(Group::Node, "rpc-port", Kind::Port, "8400", "TCP port for clients (gRPC) and for Raft peers"),
    setting(Group::Node, "metrics-port", Kind::Port, "4000", "TCP port for Prometheus metrics over HTTP"),
    setting(
        Group::Node,
        "ready-max-lag",
        count(0, 1_000_000_000),
        "10000",
        "Call this node ready (/readyz, gRPC health) only while at most this many log entries that its leader has committed are still to be applied here",
    ),
    setting(
        Group::Cluster,
        "start-join-addrs",
        Kind::HostPorts,
        "",
        "Gossip addresses of other nodes, as a list, comma-separated or repeated. Names need not resolve yet, and the node's own address may be among them",
    ),
    setting(
        Group::Cluster,
        "bootstrap",
        Kind::Switch,
        "false",
        "On an empty data directory, form a new cluster of one: at once without start-join-addrs; with them, only when every one of them has answered and none knows a cluster (if one does, join it). Keep it off for a node that belongs to a cluster: without start-join-addrs, a lost disk would come back as a second cluster",
    ),
    setting(
        Group::Cluster,
        "bootstrap-expect",
        count(1, MAX_PLEDGED as u64),
        "",
        "On empty data directories, form a cluster of exactly this many nodes as soon as that many know of each other. Give the same number and the same start-join-addrs to all; safe to leave in place for ever",
    ),
    setting(
        Group::Cluster,
        "cluster-key-file",
        Kind::Path,
        "",
        "File with the secret that all nodes of the cluster share, 16 to 4096 bytes. Peers and gossip prove that they know it",
    ),
    setting(
        Group::Cluster,
        "allow-insecure",
        Kind::Switch,
        "false",
        "Listen beyond this machine although no cluster-key-file is set. Any machine that reaches the ports can then become a member",
    ),
    setting(
        Group::Cluster,
        "leave-on-terminate",
        Kind::Switch,
        "false",
        "On SIGTERM leave the cluster for good, instead of staying a member until the next start",
    ),
    setting(
        Group::Cluster,
        "rejoin",
        Kind::Switch,
        "true",
        "When this node is removed from its cluster while it runs, start over as a newcomer at once, which joins unless fewer members are wanted. Off: it waits outside until it is started again, for an orchestrator that is about to stop it. A node that was removed while it was stopped is a newcomer at its next start",
    ),
    setting(
        Group::Cluster,
        "replace-damaged",
        Kind::Switch,
        "false",
        "A node whose log, snapshots or state turn out to be damaged asks the leader. If every other voter answers and has all entries, and no other node is being replaced, it sets its files aside (left-...) and joins again as a new node, as after a lost disk. If not, it waits for an operator, as it does without this setting",
    ),
    setting(
        Group::Cluster,
        "initial-max-sessions",
        count(*MAX_SESSIONS.start(), *MAX_SESSIONS.end()),
        "10000",
        "Most client sessions kept at a time, for exactly-once writes. Replicated: a new cluster's leader sets its own value before the first write and the first change of a bound; later changed for all nodes at once",
    ),
    setting(
        Group::Cluster,
        "initial-max-store-bytes",
        bytes(0, 1 << 50),
        "0",
        "Most bytes that the store must keep: keys, values and sessions, each with what it takes besides, 0 for no bound. Replicated, as initial-max-sessions is",
    ),
    setting(
        Group::Logging,
        "log-level",
        Kind::LogFilter,
        "info,openraft=error",
        "error, warn, info, debug, trace, off, or tracing directives such as 'info,mokv::raft=debug'",
    ),
    setting(Group::Logging, "log-format", Kind::Choice(&["text", "json"]), "text", "text or json, on stderr"),
    setting(
        Group::Limits,
        "max-value-bytes",
        bytes(1, MAX_VALUE_BYTES),
        "1MiB",
        "Longest value. Raft carries values whole, so long ones delay everything behind them. (Keys: always 1 to 4096 bytes)",
    ),
    setting(
        Group::Limits,
        "max-request-bytes",
        bytes(16 * KIB, MAX_FRAME_BYTES as u64),
        "2MiB",
        "Largest gRPC request that is read from a client, so that none can fill the memory. At least max-value-bytes and 8 KiB",
    ),
    setting(
        Group::Limits,
        "max-in-flight-requests",
        count(1, 1_000_000),
        "4096",
        "Most requests being served at a time; more are refused as RESOURCE_EXHAUSTED",
    ),
    setting(
        Group::Limits,
        "max-connections",
        count(16, 1_000_000),
        "16384",
        "Most connections of clients at a time, and fewer where the limit on open files is lower. One address holds at most three quarters of them. Peers, operators and health have places of their own",
    ),
    setting(
        Group::Limits,
        "idle-timeout",
        millis(1_000, 86_400_000),
        "5m",
        "Close a client's connection on which nothing was under way for this long; one without any request is closed after 30s. Clients connect again by themselves",
    ),
    setting(
        Group::Limits,
        "max-list-bytes",
        bytes(64 * KIB, 1 << 50),
        "1GiB",
        "Most bytes one List stream sends before it is ended; page on with start_after",
    ),
    setting(
        Group::Limits,
        "max-list-time",
        millis(100, 86_400_000),
        "60s",
        "Longest time one stream of List, Versions or Changes may take. It keeps an old revision of the store in memory for as long",
    ),
    setting(
        Group::Limits,
        "request-timeout",
        millis(10, 3_600_000),
        "5s",
        "Longest time of a request whose client set no deadline, and the upper bound on the deadlines that clients set",
    ),
    setting(
        Group::Limits,
        "drain-timeout",
        millis(0, 3_600_000),
        "10s",
        "How long a node that is stopping waits for requests under way",
    ),
    setting(
        Group::Storage,
        "snapshot-log-bytes",
        bytes(4 * KIB, 1 << 40),
        "64MiB",
        "Take no snapshot before the log since the last one has this size. From there on one is taken when the log has twice the last one's size",
    ),
    setting(
        Group::Storage,
        "snapshot-log-max-bytes",
        bytes(4 * KIB, 1 << 50),
        "4GiB",
        "Take a snapshot when the log since the last one has this size, whatever the last one's. Less: faster restarts of large stores; more: less writing. At least snapshot-log-bytes",
    ),
    setting(
        Group::Storage,
        "log-segment-bytes",
        bytes(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
        "64MiB",
        "Size of one file of the write-ahead log, set aside in advance. At least twice max-request-bytes",
    ),
    setting(
        Group::Storage,
        "log-cache-bytes",
        bytes(64 * KIB, 64 * GIB),
        "32MiB",
        "Memory for recent log entries, from which followers are served without reading files",
    ),
    setting(
        Group::Storage,
        "min-free-bytes",
        bytes(0, 1 << 50),
        "256MiB",
        "Refuse writes of clients (not deletes) when less disk space than this is free, so that Raft itself never runs out of it",
    ),
    setting(
        Group::Storage,
        "scrub-interval",
        millis(0, 31_536_000_000),
        "24h",
        "Pause between two rounds of the background check of the old log, the snapshots and the state in memory, at 16 MiB a second. Damage is reported, and new snapshots of a sound state replace what is damaged. 0s: never",
    ),
    setting(
        Group::Timing,
        "heartbeat-interval",
        millis(10, 60_000),
        "100ms",
        "Interval between the heartbeats that the leader sends to its followers",
    ),
    setting(
        Group::Timing,
        "election-timeout",
        millis(50, 300_000),
        "500ms",
        "Followers stand for election when they have received nothing from a leader for this long, up to twice as long at random. At least three times heartbeat-interval",
    ),
    setting(
        Group::Timing,
        "replace-silence",
        millis(1_000, 86_400_000),
        "10s",
        "How long a member must have been silent before a node of the same name with an empty disk takes its place. At least twice election-timeout",
    ),
];

/// Returns the setting called `key`, if there is one.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Returns the setting whose name is nearest to the mistyped `key`, if any is near.
pub fn nearest(key: &str) -> Option<&'static Setting> {
    let spelled = key.to_lowercase().replace('_', "-");
    SETTINGS
        .iter()
        .filter(|setting| setting.in_file())
        .map(|setting| (strsim::jaro_winkler(&spelled, setting.key), setting))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_kebab_case() {
        for (position, setting) in SETTINGS.iter().enumerate() {
            assert!(setting.key.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", setting.key);
            assert!(SETTINGS[..position].iter().all(|other| other.key != setting.key), "{}", setting.key);
            assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}", setting.key);
        }
    }

    #[test]
    fn a_typo_finds_its_key_and_nonsense_finds_nothing() {
        assert_eq!(nearest("data_dir").map(|s| s.key), Some("data-dir"));
        assert_eq!(nearest("Bind-Adr").map(|s| s.key), Some("bind-addr"));
        assert_eq!(nearest("start-join-adress").map(|s| s.key), Some("start-join-addrs"));
        assert!(nearest("zebra").is_none());
    }

    #[test]
    fn variables_are_upper_snake_case() {
        assert_eq!(find("start-join-addrs").unwrap().variable(), "MOKV_START_JOIN_ADDRS");
    }
}
