//! The world of a seed: how many nodes, how fast, what goes wrong how often. Drawn first, printed with every failure.
//!
//! Swarm testing: each seed leaves some faults out altogether, so that some runs are calm enough to find what storms
//! hide. Pure: drawing a world starts nothing.

mod kinds;
mod mix;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::dice::Dice;
pub use kinds::FaultKind;
pub use mix::{Doing, WorkloadMix};

/// What a seed drew.
#[derive(Debug, Clone)]
pub struct World {
    /// How many nodes form the cluster.
    pub nodes: usize,
    /// Of every packet.
    pub network_latency: Range<Duration>,
    /// Share of packets lost; TCP retries them.
    pub packet_loss: f64,
    /// Of a write to disk.
    pub write_latency: Range<Duration>,
    /// Of a sync.
    pub sync_latency: Range<Duration>,
    /// The leader's heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election: Duration,
    /// A snapshot is taken after this many entries.
    pub snapshot_entries: u64,
    /// How many clients.
    pub clients: u32,
    /// How many keys they share.
    pub keys: u64,
    /// Between two operations of a client.
    pub think_time: Range<Duration>,
    /// How long a client waits for one operation.
    pub patience: Duration,
    /// What they do.
    pub workload: WorkloadMix,
    /// How long faults rage.
    pub faults_last: Duration,
    /// Between the beginnings of two faults.
    pub fault_pause: Range<Duration>,
    /// How long one fault lasts.
    pub fault_length: Range<Duration>,
    /// Which faults, and how likely each is.
    pub faults: Vec<(FaultKind, u32)>,
}

const fn millis(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

const fn micros(range: Range<u64>) -> Range<Duration> {
    Duration::from_micros(range.start)..Duration::from_micros(range.end)
}

impl World {
    /// A fair day: what scenarios play in.
    pub fn calm(nodes: usize) -> World {
        World {
            nodes,
            network_latency: millis(1..4),
            packet_loss: 0.0,
            write_latency: micros(10..60),
            sync_latency: micros(200..1_500),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(500),
            snapshot_entries: 1_000,
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
        let faults: Vec<(FaultKind, u32)> = loop {
            let share = *dice.one_of(&[0.25, 0.5, 0.9]);
            let drawn: Vec<_> = FaultKind::ALL
                .iter()
                .filter(|_| dice.chance(share))
                .map(|kind| (*kind, kind.weight()))
                .collect();
            if drawn.len() > 1 {
                break drawn;
            }
        };
        let busy = dice.chance(0.5);
        let keys = dice.within(2..9);
        let heartbeat = Duration::from_millis(if slow_network { 200 } else { dice.within(60..150) });
        World {
            nodes: *dice.weighted(&[(3, 3), (5, 2)]),
            network_latency: millis(1..longest),
            packet_loss: if dice.chance(0.3) { 0.01 } else { 0.0 },
            write_latency: micros(10..100),
            sync_latency: if slow_disk { millis(2..25) } else { micros(200..2_000) },
            heartbeat,
            election: heartbeat * dice.within(4..8) as u32,
            snapshot_entries: *dice.one_of(&[100, 300, 1_000, 5_000]),
            clients: dice.within(3..6) as u32,
            keys,
            think_time: if busy { millis(1..25) } else { millis(5..100) },
            patience: Duration::from_millis(dice.within(800..4_000)),
            workload: WorkloadMix::draw(seed, keys),
            faults_last: Duration::from_secs(dice.within(30..40)),
            fault_pause: if dice.chance(0.5) { millis(300..1_500) } else { millis(1_000..5_000) },
            fault_length: if dice.chance(0.5) { millis(100..2_000) } else { millis(500..6_000) },
            faults,
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes; packets take {:?}, {:.0}% lost; writes {:?}, syncs {:?}; heartbeat {:?}, election from {:?}; \
             snapshot every {} entries",
            self.nodes,
            self.network_latency,
            self.packet_loss * 100.0,
            self.write_latency,
            self.sync_latency,
            self.heartbeat,
            self.election,
            self.snapshot_entries
        )?;
        write!(
            f,
            "{} clients on {} keys, think {:?}, wait {:?}: {}",
            self.clients, self.keys, self.think_time, self.patience, self.workload
        )?;
        if self.faults.is_empty() {
            return Ok(());
        }
        let kinds: Vec<&str> = self.faults.iter().map(|(kind, _)| kind.name()).collect();
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
        assert_eq!(sizes, BTreeSet::from([3, 5]));
    }
}
