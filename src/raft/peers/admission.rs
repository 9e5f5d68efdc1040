//! Which peers are admitted to this node.
//!
//! Refused are a node of another cluster; a removed node; an incarnation that does not continue the boot history
//! recorded for its data directory, which was then rolled back or copied (see [`crate::incarnations`]); and a node that
//! found less at its start than it had acknowledged before (see [`crate::positions`]). What a refusal decides is known
//! to this node only: how the reason reaches the peer is the handshake's part.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use mokv_proto::raft::{Channel, Exclusion, Refusal};

use super::PROTOCOL;
use crate::config::ClusterKey;
use crate::incarnations::{Incarnation, Incarnations, Objection};
use crate::node_id::NodeId;
use crate::positions::{GoneBack, Positions, Start};
use crate::rt::lock::{Mutex, MutexGuard};
use crate::rt::{self, watch};

/// The identity of this process.
#[derive(Debug, Clone)]
pub struct LocalNode {
    /// The cluster it belongs to.
    pub cluster_id: [u8; 16],
    /// Its Raft node id.
    pub node_id: NodeId,
    /// Its name, for messages.
    pub name: String,
    /// Its boot counter: how often its data directory was started.
    pub boot: u64,
    /// Its incarnation id, drawn at this start.
    pub incarnation: u64,
    /// The incarnation ids of earlier starts, the latest first.
    pub past: Vec<u64>,
    /// What this start and earlier ones found on the disk, the latest first.
    pub starts: Vec<Start>,
    /// The highest cluster version it supports.
    pub supports: u32,
    /// The cluster's key, if there is one.
    pub key: Option<ClusterKey>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke, or a message could not be parsed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// This side refuses the other.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side refuses this one.
    #[error("the peer refuses: {0}")]
    RefusedByPeer(String),
}

/// The identity of the dialer, after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialer {
    /// Its node id.
    pub node_id: NodeId,
    /// Its name, for messages.
    pub name: String,
    /// What the connection is for.
    pub channel: Channel,
    /// Its boot counter.
    pub boot: u64,
    /// Its incarnation id, drawn at the start of its process.
    pub incarnation: u64,
    /// What this and earlier starts of it found on its disk.
    pub starts: Vec<Start>,
}

#[cfg(test)]
impl LocalNode {
    /// A node in its third incarnation, for tests.
    pub fn example(node_id: u64, key: Option<&str>) -> LocalNode {
        LocalNode {
            cluster_id: [7; 16],
            node_id: NodeId(node_id),
            name: format!("n{node_id}"),
            boot: 3,
            incarnation: 100 + node_id,
            past: Vec::new(),
            starts: Vec::new(),
            supports: 1,
            key: key.map(|key| ClusterKey::from(key.as_bytes().to_vec())),
        }
    }
}

/// Decides which peers are admitted. Records the incarnations of each node, and how far members have acknowledged.
pub struct PeerAdmission {
    local: LocalNode,
    incarnations: watch::Sender<BTreeMap<NodeId, Incarnations>>,
    positions: Mutex<Positions>,
    is_removed: Box<dyn Fn(NodeId) -> bool + Send + Sync>,
    /// Set when a peer reports that this process must take no further part.
    excluded: watch::Sender<Option<Refusal>>,
}

/// A refusal after which the peer may try again.
pub(super) fn refuse(reason: impl Into<String>) -> Refusal {
    Refusal { reason: reason.into(), exclusion: Exclusion::NotExcluded.into() }
}

/// What to do with a data directory that was rolled back or copied. How many others were rolled back with it is not
/// known here.
const WHAT_TO_DO: &str = "If a majority of the voters goes on without it, restore it with 'mokv serve --wipe'; if not, keep \
    the data directories of all nodes and wipe none: 'Two histories' in docs/operate.md says what to do";

/// The refusal of an incarnation that does not continue the recorded ones. Of two that run at once it is not known
/// which one is the copy.
fn refuse_incarnation(node_id: NodeId, boot: u64, objection: Objection) -> Refusal {
    let outlived = |found: String| Refusal {
        reason: format!(
            "node id {node_id} {found}: its data directory was rolled back or copied. {WHAT_TO_DO}"
        ),
        exclusion: Exclusion::Outlived.into(),
    };
    match objection {
        Objection::Outlived(reported) => {
            rt::sometimes("older boot counter refused");
            outlived(format!("was seen with boot counter {reported}, now {boot}"))
        }
        Objection::Forked(at) => {
            rt::sometimes("another past refused");
            outlived(format!("was another one at boot counter {at}, now {boot}"))
        }
        Objection::Twin => {
            rt::sometimes("second live copy refused");
            refuse(format!(
                "node id {node_id} runs twice: its data directory was copied; stop one and wipe it with 'mokv serve --wipe'"
            ))
        }
    }
}

/// The refusal of a node that lacks what it had acknowledged, by the records of this node, `local`.
fn refuse_gone_back(local: &LocalNode, node_id: NodeId, gone_back: GoneBack) -> Refusal {
    Refusal {
        reason: format!(
            "node '{}' knows that node id {node_id} {gone_back}: its data directory was put back to an older state, or copied \
             while it ran. {WHAT_TO_DO}",
            local.name
        ),
        exclusion: Exclusion::GoneBack.into(),
    }
}

/// What a peer states about itself.
pub(super) struct Introduction<'a> {
    pub protocol: u32,
    pub cluster_id: &'a [u8],
    pub node_id: NodeId,
    pub incarnation: Incarnation,
    pub past: &'a [u64],
    pub starts: Cow<'a, [Start]>,
}

impl PeerAdmission {
    /// The admission of this process. `incarnations` and `positions` are what its earlier starts recorded; `is_removed`
    /// returns `true` for a node id that was removed from the cluster for good, by the entries that this node has
    /// applied.
    pub fn new(
        local: LocalNode,
        incarnations: BTreeMap<NodeId, Incarnations>,
        positions: Positions,
        is_removed: impl Fn(NodeId) -> bool + Send + Sync + 'static,
    ) -> PeerAdmission {
        PeerAdmission {
            local,
            incarnations: watch::channel(incarnations).0,
            positions: Mutex::new(positions),
            is_removed: Box::new(is_removed),
            excluded: watch::channel(None).0,
        }
    }

    /// Set once a peer of this cluster reports that this process must take no further part: the peer has applied this
    /// node's removal, has recorded a later incarnation of this data directory, or has recorded that this node lost
    /// what it had acknowledged. None of these is ever undone, so the report of one peer is enough.
    pub fn excluded(&self) -> watch::Receiver<Option<Refusal>> {
        self.excluded.subscribe()
    }

    /// The recorded incarnations of each node.
    pub fn incarnations(&self) -> watch::Receiver<BTreeMap<NodeId, Incarnations>> {
        self.incarnations.subscribe()
    }

    /// The records of how far members have acknowledged.
    pub fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock()
    }

    /// Records a node's boot counter that another source reports. Ignored for a node that has gone back: its right data
    /// directory has started less often than the wrong one, and must be admitted.
    pub fn record_report(&self, node_id: NodeId, boot: u64) {
        if self.positions().refused().contains_key(&node_id) {
            return;
        }
        self.incarnations
            .send_if_modified(|incarnations| incarnations.entry(node_id).or_default().record_report(boot));
    }

    /// Records the refusal that a peer sent to this process, and returns it as an error. The first exclusion is kept.
    pub(super) fn note_refusal(&self, refusal: Refusal) -> HandshakeError {
        if refusal.exclusion() != Exclusion::NotExcluded {
            self.excluded.send_if_modified(|excluded| {
                let is_first = excluded.is_none();
                excluded.get_or_insert(refusal.clone());
                is_first
            });
        }
        HandshakeError::RefusedByPeer(refusal.reason)
    }

    /// The identity of this process.
    pub fn local(&self) -> &LocalNode {
        &self.local
    }

    /// Checks an admitted peer again. Meanwhile it may have been removed, a later start of its data directory may have
    /// been recorded, or a leader may have reported what it had acknowledged: its connection then ends, and the next
    /// handshake gives it the reason.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`].
    pub fn admit_again(&self, peer: &Dialer) -> Result<(), HandshakeError> {
        let admitted = self.admit(Introduction {
            protocol: PROTOCOL,
            cluster_id: &self.local.cluster_id,
            node_id: peer.node_id,
            incarnation: Incarnation { boot: peer.boot, id: peer.incarnation },
            past: &[],
            starts: Cow::Borrowed(&peer.starts),
        });
        admitted.map_err(|refusal| HandshakeError::Refused(refusal.reason))
    }

    /// Checks what a peer states about itself.
    pub(super) fn admit(&self, introduction: Introduction) -> Result<(), Refusal> {
        let Introduction { protocol, cluster_id, node_id, incarnation, past, starts } = introduction;
        if protocol != PROTOCOL {
            return Err(refuse(format!(
                "protocol version {protocol} is not {PROTOCOL}: upgrade the older node"
            )));
        }
        if cluster_id != self.local.cluster_id {
            return Err(refuse("this node belongs to another cluster: check the join addresses"));
        }
        if (self.is_removed)(node_id) {
            rt::sometimes("removed node refused");
            return Err(Refusal {
                reason: format!("node id {node_id} was removed from the cluster"),
                exclusion: Exclusion::Removed.into(),
            });
        }
        let judged = self.positions().check(node_id, &starts);
        let mut met = Ok(false);
        self.incarnations.send_if_modified(|incarnations| {
            let known = incarnations.entry(node_id).or_default();
            let mut then = *known;
            met = then.meet(incarnation, past);
            // An incarnation that has gone back is not recorded: the one with the right past may still come.
            if met.is_ok() && judged.is_ok() {
                *known = then;
            }
            met == Ok(true) && judged.is_ok()
        });
        met.map_err(|objection| refuse_incarnation(node_id, incarnation.boot, objection))?;
        judged.map_err(|refused| {
            rt::sometimes("member that has gone back refused");
            let refusal = refuse_gone_back(&self.local, node_id, refused.gone_back);
            // This recurs at every attempt to connect until an operator acts: it is logged once.
            if refused.is_news {
                tracing::error!("a member is refused: {}", refusal.reason);
            }
            refusal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admitted_peer_is_checked_again() {
        let removed = std::sync::Arc::new(std::sync::Mutex::new(false));
        let seen = removed.clone();
        let admission = PeerAdmission::new(
            LocalNode::example(1, None),
            BTreeMap::new(),
            Positions::default(),
            move |_| *seen.lock().unwrap(),
        );
        let peer = Dialer {
            node_id: NodeId(2),
            name: "n2".into(),
            channel: Channel::Control,
            boot: 3,
            incarnation: 9,
            starts: Vec::new(),
        };
        admission.admit_again(&peer).unwrap();
        *removed.lock().unwrap() = true;
        assert!(admission.admit_again(&peer).unwrap_err().to_string().contains("removed"));
        *removed.lock().unwrap() = false;
        admission.admit_again(&Dialer { boot: 4, incarnation: 10, ..peer.clone() }).unwrap();
        assert!(admission.admit_again(&peer).unwrap_err().to_string().contains("rolled back"));
    }

    /// What is recorded of a peer outlasts the process: a rolled-back node must not meet one that has forgotten.
    #[test]
    fn an_incarnation_known_only_from_gossip_counts_and_so_does_one_from_before_a_restart() {
        let admit = |admission: &PeerAdmission, boot, incarnation, past: &[u64]| {
            let incarnation = Incarnation { boot, id: incarnation };
            let cluster_id = &[7; 16];
            admission.admit(Introduction {
                protocol: PROTOCOL,
                cluster_id,
                node_id: NodeId(2),
                incarnation,
                past,
                starts: Cow::Borrowed(&[]),
            })
        };
        let before =
            PeerAdmission::new(LocalNode::example(1, None), BTreeMap::new(), Positions::default(), |_| false);
        admit(&before, 3, 30, &[]).unwrap();
        before.record_report(NodeId(2), 5);
        before.record_report(NodeId(2), 4);
        assert!(admit(&before, 3, 30, &[]).unwrap_err().reason.contains("boot counter 5"));
        let after = PeerAdmission::new(
            LocalNode::example(1, None),
            before.incarnations().borrow().clone(),
            Positions::default(),
            |_| false,
        );
        assert!(admit(&after, 4, 40, &[30]).unwrap_err().reason.contains("boot counter 5"));
        // Its boot counter fits the one that was reported, but its past contradicts the incarnation that was met.
        let forked = admit(&after, 5, 50, &[41, 31]).unwrap_err();
        assert_eq!(forked.exclusion(), Exclusion::Outlived, "{}", forked.reason);
        admit(&after, 5, 50, &[40, 30]).unwrap();
        assert!(admit(&after, 5, 51, &[40, 30]).unwrap_err().reason.contains("runs twice"));
        admit(&after, 6, 60, &[50, 40, 30]).unwrap();
    }
}
