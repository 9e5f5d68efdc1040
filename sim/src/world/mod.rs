//! The world of a seed: number of nodes, speeds, kinds and rates of faults. Drawn first, printed with every failure.
//!
//! Swarm testing: each seed leaves some faults out altogether, because frequent faults hide what only runs with few
//! faults find. Pure: drawing a world starts nothing.

pub mod dice;
pub mod encounters;
pub mod fault_budget;
mod kinds;
mod mix;

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use dice::Dice;
pub use kinds::FaultKind;
pub use mix::{Doing, WorkloadMix};

/// Probabilities, each from 0 to 1, of what may happen to a datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Datagrams {
    /// It is lost.
    pub loss: f64,
    /// It arrives twice.
    pub duplication: f64,
    /// The next one overtakes it.
    pub reordering: f64,
}

/// Bounds of what nodes hold and do at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions the cluster keeps.
    pub sessions: u64,
    /// Size of one log file.
    pub log_segment_bytes: u64,
    /// Memory for recent entries.
    pub log_cache_bytes: u64,
    /// Requests a node serves at a time.
    pub requests_in_flight: usize,
}

/// How much of the past can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBounds {
    /// For how long, in seconds; `None`: no matter how long.
    pub seconds: Option<u64>,
    /// How many bytes; `None`: any.
    pub bytes: Option<u64>,
    /// How many revisions at least.
    pub revisions: u64,
}

/// The world that a seed draws.
#[derive(Debug, Clone)]
pub struct World {
    /// How many nodes form the cluster.
    pub nodes: usize,
    /// Latency of every packet.
    pub network_latency: Range<Duration>,
    /// Share of packets that are lost, from 0 to 1; TCP retransmits them.
    pub packet_loss: f64,
    /// Faults of datagrams, which gossip uses.
    pub datagrams: Datagrams,
    /// Whether nodes advertise numeric addresses, which may change, or names, which stay.
    pub numeric_addresses: bool,
    /// The rate of every node's clock, in thousandths of true time; the clock of a node that is not listed is exact.
    pub clocks: Vec<u32>,
    /// Latency of a write to disk.
    pub write_latency: Range<Duration>,
    /// Latency of a sync.
    pub sync_latency: Range<Duration>,
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election: Duration,
    /// Bytes of the log after which a snapshot is taken; where between the bounds follows from the last one's size.
    pub snapshot_log_bytes: RangeInclusive<u64>,
    /// Interval at which nodes scrub data that is otherwise not read; `None`: never.
    pub scrub: Option<Duration>,
    /// The nodes' bounds.
    pub limits: Limits,
    /// The replicated bounds of the history.
    pub history: HistoryBounds,
    /// Number of clients.
    pub clients: u32,
    /// Number of keys that the clients share.
    pub keys: u64,
    /// Pause between two operations of a client.
    pub think_time: Range<Duration>,
    /// A client's timeout for one operation.
    pub patience: Duration,
    /// What the clients do.
    pub workload: WorkloadMix,
    /// How long faults are injected.
    pub faults_last: Duration,
    /// Time between the beginnings of two faults.
    pub fault_pause: Range<Duration>,
    /// How long one fault lasts.
    pub fault_length: Range<Duration>,
    /// Which faults, and the weight of each.
    pub faults: Vec<(FaultKind, u32)>,
}

const fn millis(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

const fn micros(range: Range<u64>) -> Range<Duration> {
    Duration::from_micros(range.start)..Duration::from_micros(range.end)
}

/// Draws bounds, each of which decides in some worlds: the lower one, the size of the last snapshot, the upper one.
fn draw_snapshot_log_bytes(dice: &mut Dice) -> RangeInclusive<u64> {
    let least = *dice.one_of(&[2_000, 7_000, 20_000, 70_000, 350_000]);
    least..=least * *dice.one_of(&[1, 1, 4, 1_000])
}

impl World {
    /// A world without faults, in which scenarios run.
    pub fn calm(nodes: usize) -> World {
        World {
            nodes,
            network_latency: millis(1..4),
            packet_loss: 0.0,
            datagrams: Datagrams::default(),
            numeric_addresses: false,
            clocks: Vec::new(),
            write_latency: micros(10..60),
            sync_latency: micros(200..1_500),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(500),
            snapshot_log_bytes: 100_000..=100_000,
            scrub: None,
            limits: Limits {
                sessions: 10_000,
                log_segment_bytes: 256 << 10,
                log_cache_bytes: 64 << 10,
                requests_in_flight: 1_000,
            },
            history: HistoryBounds { seconds: Some(300), bytes: Some(128 << 20), revisions: 100 },
            clients: 3,
            keys: 6,
            think_time: millis(1..60),
            patience: Duration::from_secs(3),
            workload: WorkloadMix::default(),
            faults_last: Duration::ZERO,
            fault_pause: millis(500..2_500),
            fault_length: millis(200..4_000),
            faults: Vec::new(),
        }
    }

    /// The world of a chaos seed.
    pub fn draw(seed: u64) -> World {
        let mut dice = Dice::new(seed, "world");
        let slow_network = dice.chance(0.2);
        let slow_disk = dice.chance(0.2);
        let longest = if slow_network { 40 } else { dice.within(3..12) };
        let busy = dice.chance(0.5);
        let keys = dice.within(2..9);
        let heartbeat = Duration::from_millis(if slow_network { 200 } else { dice.within(60..150) });
        let nodes = *dice.weighted(&[(1, 1), (3, 8), (4, 2), (5, 5), (7, 2)]);
        let mut world = World {
            nodes,
            network_latency: millis(1..longest),
            packet_loss: if dice.chance(0.3) { 0.01 } else { 0.0 },
            datagrams: Datagrams::default(),
            numeric_addresses: false,
            clocks: Vec::new(),
            write_latency: micros(10..100),
            sync_latency: if slow_disk { millis(2..25) } else { micros(200..2_000) },
            heartbeat,
            election: heartbeat * dice.within(4..8) as u32,
            snapshot_log_bytes: draw_snapshot_log_bytes(&mut dice),
            scrub: None,
            limits: Limits::draw(seed),
            history: HistoryBounds::draw(seed),
            clients: dice.within(3..6) as u32,
            keys,
            think_time: if busy { millis(1..25) } else { millis(5..100) },
            patience: Duration::from_millis(dice.within(800..4_000)),
            workload: WorkloadMix::draw(seed, keys),
            faults_last: Duration::from_secs(dice.within(30..40)),
            fault_pause: millis(1_000..5_000),
            fault_length: millis(500..6_000),
            faults: Vec::new(),
        };
        world.draw_faults(&mut Dice::new(seed, "fault classes"));
        world.draw_encounters(&mut Dice::new(seed, "encounters"));
        world.draw_weather(&mut Dice::new(seed, "weather"));
        let mut dice = Dice::new(seed, "scrub");
        world.scrub = dice.chance(0.3).then(|| Duration::from_millis(dice.within(500..8_000)));
        world
    }

    /// Draws which faults happen, how often each and how close together: from a few to nearly all of them.
    fn draw_faults(&mut self, dice: &mut Dice) {
        while self.faults.len() < 2 {
            let share = *dice.one_of(&[0.08, 0.25, 0.5, 0.9]);
            let mut drawn = |kind: &FaultKind| {
                let often = *dice.one_of(&[1, 1, 1, 4]);
                dice.chance(share).then_some((*kind, kind.weight() * often))
            };
            let single = FaultKind::ALL.iter().filter(|kind| **kind != FaultKind::Encounter);
            self.faults = single.filter_map(&mut drawn).collect();
        }
        if self.nodes == 1 {
            // One node alone tests little.
            self.faults.push((FaultKind::Newcomer, 8));
        }
        self.fault_pause = dice
            .one_of(&[millis(300..1_500), millis(300..1_500), millis(1_000..5_000), millis(4_000..9_000)])
            .clone();
        self.fault_length = dice.one_of(&[millis(100..2_000), millis(500..6_000)]).clone();
    }

    /// In half of all worlds encounters take a share of the injections.
    fn draw_encounters(&mut self, dice: &mut Dice) {
        if dice.chance(0.5) {
            let all: u32 = self.faults.iter().map(|(_, weight)| weight).sum();
            let share = *dice.one_of(&[all / 4, all]);
            self.faults.push((FaultKind::Encounter, share.max(1)));
        }
    }

    fn draw_weather(&mut self, dice: &mut Dice) {
        if dice.chance(0.4) {
            let mut rate = || *dice.one_of(&[0.0, 0.02, 0.1]);
            self.datagrams = Datagrams { loss: rate(), duplication: rate(), reordering: rate() };
        }
        if dice.chance(0.4) {
            // Newcomers may have odd clocks, too.
            self.clocks = (0..self.nodes + 3).map(|_| dice.within(800..1_250) as u32).collect();
        }
        self.numeric_addresses = dice.chance(0.4);
    }
}

impl Limits {
    fn draw(seed: u64) -> Limits {
        let mut dice = Dice::new(seed, "limits");
        let most_sessions = if dice.chance(0.15) { dice.within(2..5) } else { 10_000 };
        Limits {
            sessions: most_sessions,
            log_segment_bytes: *dice.one_of(&[256 << 10, 256 << 10, 512 << 10, 4 << 20]),
            log_cache_bytes: *dice.one_of(&[64 << 10, 64 << 10, 1 << 20]),
            requests_in_flight: if dice.chance(0.1) { 2 } else { 1_000 },
        }
    }
}

impl HistoryBounds {
    fn draw(seed: u64) -> HistoryBounds {
        let mut dice = Dice::new(seed, "history");
        HistoryBounds {
            seconds: *dice.one_of(&[None, Some(1), Some(4), Some(20)]),
            bytes: *dice.one_of(&[None, Some(2_000), Some(20_000), Some(200_000)]),
            revisions: *dice.one_of(&[0, 0, 5, 100]),
        }
    }
}

impl fmt::Display for HistoryBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HistoryBounds { seconds, bytes, revisions } = self;
        let bound =
            |bound: Option<u64>, unit| bound.map_or("any".to_owned(), |bound| format!("{bound} {unit}"));
        write!(
            f,
            "a history of {}, {}, {revisions} revisions at least",
            bound(*seconds, "s"),
            bound(*bytes, "bytes")
        )
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes; packets take {:?}, {:.0}% lost; writes {:?}, syncs {:?}; heartbeat {:?}, election from {:?}; \
             snapshot every {} to {} bytes of log",
            self.nodes,
            self.network_latency,
            self.packet_loss * 100.0,
            self.write_latency,
            self.sync_latency,
            self.heartbeat,
            self.election,
            self.snapshot_log_bytes.start(),
            self.snapshot_log_bytes.end()
        )?;
        writeln!(
            f,
            "{} sessions, log files of {} KiB, {} KiB of log in memory, {} requests at a time",
            self.limits.sessions,
            self.limits.log_segment_bytes >> 10,
            self.limits.log_cache_bytes >> 10,
            self.limits.requests_in_flight
        )?;
        writeln!(f, "{}", self.history)?;
        if let Some(pause) = self.scrub {
            writeln!(f, "everything is read again every {pause:?}")?;
        }
        if self.datagrams != Datagrams::default() {
            writeln!(
                f,
                "datagrams: {:.0}% lost, {:.0}% doubled, {:.0}% overtaken",
                self.datagrams.loss * 100.0,
                self.datagrams.duplication * 100.0,
                self.datagrams.reordering * 100.0
            )?;
        }
        if self.numeric_addresses {
            writeln!(f, "nodes are known by numeric addresses")?;
        }
        if !self.clocks.is_empty() {
            writeln!(f, "clocks at {:?} thousandths of time", self.clocks)?;
        }
        write!(
            f,
            "{} clients on {} keys, think {:?}, wait {:?}: {}",
            self.clients, self.keys, self.think_time, self.patience, self.workload
        )?;
        if self.faults.is_empty() {
            return Ok(());
        }
        let kinds: Vec<String> =
            self.faults.iter().map(|(kind, weight)| format!("{} {weight}", kind.name())).collect();
        write!(
            f,
            "\nfaults for {:?}, one every {:?}, each {:?} long: {}",
            self.faults_last,
            self.fault_pause,
            self.fault_length,
            kinds.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn seeds_draw_different_worlds_and_between_them_every_fault() {
        let mut kinds = BTreeSet::new();
        let mut sizes = BTreeSet::new();
        for seed in 1..=50 {
            let world = World::draw(seed);
            assert_eq!(world.to_string(), World::draw(seed).to_string());
            assert!(world.faults_last >= Duration::from_secs(30));
            kinds.extend(world.faults.iter().map(|(kind, _)| *kind));
            sizes.insert(world.nodes);
        }
        assert_eq!(kinds.len(), FaultKind::ALL.len());
        assert_eq!(sizes, BTreeSet::from([1, 3, 4, 5, 7]));
    }
}
