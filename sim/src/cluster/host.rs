//! What the harness keeps of a host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use mokv::config::NodeConfig;
use mokv::rt::disk::SimDisk;
use tokio::sync::oneshot;

use super::cause::{Cause, Proof};
use super::observer::Memory;

/// The power state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// No process runs.
    Off,
    /// The node runs.
    On,
    /// The node is paused.
    Paused,
}

/// A host that runs a node, or could.
pub struct Host {
    pub disk: SimDisk,
    /// Rises with every disk that is lost.
    pub disks: u64,
    /// How often the disk had been tampered with when the node was started last.
    pub tampered: u64,
    pub config: NodeConfig,
    pub power: Power,
    /// The host is gone for good.
    pub retired: bool,
    /// It runs a node of another cluster, which the checkers ignore.
    pub outsider: bool,
    /// Set when the present process is no longer recorded.
    pub record_is_over: Arc<AtomicBool>,
    /// The number of its present process: rises with every start.
    pub process_number: u64,
    pub stop: Option<oneshot::Sender<()>>,
    /// The log index of the last snapshot that was installed on its disk.
    pub installed: Arc<AtomicU64>,
    /// The state that its present process holds in memory.
    pub memory: Memory,
    /// What was done to the node that may make it exit by itself.
    pub causes: Vec<Cause>,
    /// Its exit message asked for it.
    pub has_to_be_wiped: bool,
    /// The id of the node on its disk, if that node is quarantined.
    pub doubted: Option<mokv::node_id::NodeId>,
    /// Its disk is slower than the world's.
    pub has_slow_disk: bool,
    /// Rises whenever it starts, is paused, or its clock's rate changes.
    pub disturbances: u64,
    /// Its clock's rate is not the world's.
    pub has_odd_clock: bool,
    /// The rate of its clock in this world, in thousandths of time.
    pub clock: u32,
    /// The highest cluster version its program supports.
    pub supports: u32,
}

impl Host {
    /// A host that was never started. `clock`: the rate of its clock, in thousandths of time. `supports`: the highest
    /// cluster version of its program.
    pub fn new(disk: SimDisk, config: NodeConfig, clock: u32, supports: u32) -> Host {
        Host {
            disk,
            disks: 1,
            tampered: 0,
            config,
            power: Power::Off,
            retired: false,
            outsider: false,
            record_is_over: Arc::default(),
            process_number: 0,
            stop: None,
            installed: Arc::default(),
            memory: Memory::default(),
            causes: Vec::new(),
            has_to_be_wiped: false,
            doubted: None,
            has_slow_disk: false,
            disturbances: 0,
            has_odd_clock: false,
            clock,
            supports,
        }
    }

    /// Drops the causes that happened while the node went down anyway.
    pub fn drop_past_causes(&mut self) {
        let disk = self.disk.clone();
        let lasts = |cause: &Cause| match cause.proof {
            Proof::Told | Proof::Damage | Proof::Copied | Proof::Full | Proof::Backlog => true,
            Proof::Errors(_) | Proof::Deaths(_) => !cause.has_happened(&disk),
        };
        if self.causes.iter().any(|cause| !lasts(cause)) {
            self.causes.retain(lasts);
            self.disk.on_call(None);
        }
    }
}
