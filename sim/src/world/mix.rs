//! The operations of clients and their weights: the workload's part of a world.

use std::fmt;

use crate::world::dice::Dice;

/// One kind of operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// Sets a key unconditionally.
    Set,
    /// Sets a key if it is at a revision.
    SetIf,
    /// Deletes a key unconditionally.
    Delete,
    /// Deletes a key if it is at a revision.
    DeleteIf,
    /// Reads a key, linearizably.
    Get,
    /// Reads a key from any node, possibly stale.
    StaleGet,
    /// Lists all keys, linearizably.
    List,
    /// Lists all keys from any node, possibly stale.
    StaleList,
}

impl Doing {
    /// All of them.
    pub const ALL: [Doing; 8] = [
        Doing::Set,
        Doing::SetIf,
        Doing::Delete,
        Doing::DeleteIf,
        Doing::Get,
        Doing::StaleGet,
        Doing::List,
        Doing::StaleList,
    ];
}

/// The workload of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadMix {
    /// The weight of each operation.
    pub operations: Vec<(Doing, u32)>,
    /// Bytes of most values.
    pub small_value: usize,
    /// Bytes of the large ones.
    pub large_value: usize,
    /// Share of large values among plain sets.
    pub large_values: f64,
    /// Number of hot keys: the first ones.
    pub hot_keys: u64,
    /// Share of operations that go to a hot key; the others go to any key.
    pub hot: f64,
    /// Share of clients whose writes belong to a session.
    pub sessions: f64,
    /// Share of clients that reach one node only: their writes are forwarded, unless it leads.
    pub one_node: f64,
    /// Share of operations in the middle of which a client dies; another takes its place.
    pub client_crashes: f64,
    /// Keys requested in one page of a list; 0: as many as the server returns.
    pub page: u32,
    /// Most operations that a client has under way at a time.
    pub in_flight: u64,
    /// Most sessions that the cluster keeps: with fewer than there are clients, some are evicted. `None`: enough for
    /// all.
    pub max_sessions: Option<u64>,
}

impl Default for WorkloadMix {
    /// The usual workload.
    fn default() -> WorkloadMix {
        let weights = [35, 13, 5, 3, 26, 13, 3, 2];
        WorkloadMix {
            operations: Doing::ALL.into_iter().zip(weights).collect(),
            small_value: 16,
            large_value: 4_000,
            large_values: 0.05,
            hot_keys: 1,
            hot: 0.4,
            sessions: 0.7,
            one_node: 0.0,
            client_crashes: 0.0,
            page: 0,
            in_flight: 1,
            max_sessions: None,
        }
    }
}

impl WorkloadMix {
    /// The workload of a chaos seed: the usual one for some, one-sided for others.
    pub fn draw(seed: u64, keys: u64) -> WorkloadMix {
        let mut dice = Dice::new(seed, "workload mix");
        let mut mix = WorkloadMix {
            sessions: *dice.one_of(&[0.5, 0.8, 1.0]),
            hot_keys: dice.within(1..3).min(keys),
            hot: *dice.one_of(&[0.0, 0.4, 0.4, 0.8]),
            one_node: *dice.one_of(&[0.0, 0.0, 0.4]),
            client_crashes: *dice.one_of(&[0.0, 0.0, 0.002, 0.01]),
            page: *dice.one_of(&[0, 0, 1, 3]),
            in_flight: *dice.one_of(&[1, 1, 4, 12]),
            max_sessions: *dice.one_of(&[None, None, None, Some(2)]),
            ..WorkloadMix::default()
        };
        if dice.chance(0.3) {
            mix.large_value = 60_000;
            mix.large_values = *dice.one_of(&[0.02, 0.2]);
        }
        // Balanced, mostly writes, or mostly reads.
        let (writes, reads) = *dice.one_of(&[(1, 1), (1, 1), (4, 1), (1, 4)]);
        for (doing, weight) in &mut mix.operations {
            *weight *= match doing {
                Doing::Set | Doing::SetIf | Doing::Delete | Doing::DeleteIf => writes,
                Doing::Get | Doing::StaleGet | Doing::List | Doing::StaleList => reads,
            };
        }
        mix
    }
}

impl fmt::Display for WorkloadMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights: Vec<String> =
            self.operations.iter().map(|(doing, weight)| format!("{doing:?} {weight}")).collect();
        write!(
            f,
            "{}; values of {} bytes, {:.0}% of {}; {:.0}% on {} hot keys; {:.0}% with sessions; \
             {:.1}% client crashes",
            weights.join(", "),
            self.small_value,
            self.large_values * 100.0,
            self.large_value,
            self.hot * 100.0,
            self.hot_keys,
            self.sessions * 100.0,
            self.client_crashes * 100.0
        )?;
        if self.page > 0 {
            write!(f, "; pages of {}", self.page)?;
        }
        if self.one_node > 0.0 {
            write!(f, "; {:.0}% reach one node only", self.one_node * 100.0)?;
        }
        if self.in_flight > 1 {
            write!(f, "; up to {} at a time", self.in_flight)?;
        }
        match self.max_sessions {
            Some(most) => write!(f, "; {most} sessions at most"),
            None => Ok(()),
        }
    }
}
