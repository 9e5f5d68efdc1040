//! The handshake of a peer connection: both sides identify themselves, and prove that they hold the cluster's key if
//! there is one.
//!
//! `Hello ->`, `<- Welcome`, `Proof ->`, `<- Accepted`. The dialer checks that it reached the intended node; the
//! listener checks that it is the intended node. Both refuse a node of another cluster; a removed node; an incarnation
//! that does not continue the boot history recorded for its data directory, which was then rolled back or copied (see
//! [`crate::incarnations`]); and a node that found less at its start than it had acknowledged before (see
//! [`crate::positions`]). The refused node receives the reason, whether it dialed or was dialed.

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use mokv_proto::raft::{self, Channel, Exclusion, Refusal};
use prost::Message;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{FrameReader, put_frame};
use crate::config::ClusterKey;
use crate::incarnations::{Incarnation, Incarnations, Objection};
use crate::node_id::{Named, NodeId};
use crate::positions::{GoneBack, Positions, Start};
use crate::rt::lock::{Mutex, MutexGuard};
use crate::rt::{self, watch};

/// The version of the handshake and of the frames.
const PROTOCOL: u32 = 1;
/// The longest message of a handshake: the peer has proved nothing yet, so little is read.
const MAX_HELLO_BYTES: usize = 4 << 10;

fn mac(key: &ClusterKey, domain: &str, parts: [&[u8]; 2]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in [domain.as_bytes(), parts[0], parts[1]] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

/// The identity of this process.
#[derive(Debug, Clone)]
pub struct LocalNode {
    /// The cluster it belongs to.
    pub cluster_id: [u8; 16],
    /// Its Raft node id.
    pub node_id: u64,
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

/// Decides which peers are admitted. Records the incarnations of each node, and how far members have acknowledged.
pub struct PeerAdmission {
    local: LocalNode,
    incarnations: watch::Sender<BTreeMap<u64, Incarnations>>,
    positions: Mutex<Positions>,
    is_removed: Box<dyn Fn(u64) -> bool + Send + Sync>,
    /// Set when a peer reports that this process must take no further part.
    excluded: watch::Sender<Option<Refusal>>,
}

/// A refusal after which the peer may try again.
fn refuse(reason: impl Into<String>) -> Refusal {
    Refusal { reason: reason.into(), exclusion: Exclusion::NotExcluded.into() }
}

/// What to do with a data directory that was rolled back or copied. How many others were rolled back with it is not
/// known here.
const WHAT_TO_DO: &str = "If a majority of the voters goes on without it, restore it with 'mokv serve --wipe'; if not, keep \
    the data directories of all nodes and wipe none: 'Two histories' in docs/operate.md says what to do";

/// The refusal of an incarnation that does not continue the recorded ones. Of two that run at once it is not known
/// which one is the copy.
fn refuse_incarnation(node_id: u64, boot: u64, objection: Objection) -> Refusal {
    let outlived = |words| Refusal {
        reason: format!(
            "node id {} {words}: its data directory was rolled back or copied. {WHAT_TO_DO}",
            NodeId(node_id)
        ),
        exclusion: Exclusion::Outlived.into(),
    };
    match objection {
        Objection::Outlived(heard) => {
            rt::sometimes("older boot counter refused");
            outlived(format!("was seen with boot counter {heard}, now {boot}"))
        }
        Objection::Forked(at) => {
            rt::sometimes("another past refused");
            outlived(format!("was another one at boot counter {at}, now {boot}"))
        }
        Objection::Twin => {
            rt::sometimes("second live copy refused");
            refuse(format!(
                "node id {} runs twice: its data directory was copied; stop one and wipe it with 'mokv serve --wipe'",
                NodeId(node_id)
            ))
        }
    }
}

/// The refusal of a node that lacks what it had acknowledged, by the records of this node, `local`.
fn refuse_gone_back(local: &LocalNode, node_id: u64, gone_back: GoneBack) -> Refusal {
    Refusal {
        reason: format!(
            "node '{}' knows that node id {} {gone_back}: its data directory was put back to an older state, or copied while \
             it ran. {WHAT_TO_DO}",
            local.name,
            NodeId(node_id)
        ),
        exclusion: Exclusion::GoneBack.into(),
    }
}

/// What a peer states about itself.
struct Introduction<'a> {
    protocol: u32,
    cluster_id: &'a [u8],
    node_id: u64,
    incarnation: Incarnation,
    past: &'a [u64],
    starts: &'a [Start],
}

impl PeerAdmission {
    /// The admission of this process. `incarnations` and `positions` are what its earlier starts recorded; `is_removed`
    /// returns `true` for a node id that was removed from the cluster for good, by the entries that this node has
    /// applied.
    pub fn new(
        local: LocalNode,
        incarnations: BTreeMap<u64, Incarnations>,
        positions: Positions,
        is_removed: impl Fn(u64) -> bool + Send + Sync + 'static,
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
    pub fn incarnations(&self) -> watch::Receiver<BTreeMap<u64, Incarnations>> {
        self.incarnations.subscribe()
    }

    /// The records of how far members have acknowledged.
    pub fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock()
    }

    /// Records a node's boot counter that another source reports. Ignored for a node that has gone back: its right data
    /// directory has started less often than the wrong one, and must be admitted.
    pub fn hear_of(&self, node_id: u64, boot: u64) {
        if self.positions().refused().contains_key(&node_id) {
            return;
        }
        self.incarnations
            .send_if_modified(|incarnations| incarnations.entry(node_id).or_default().hear_of(boot));
    }

    /// Records the refusal that a peer sent to this process, and returns it as an error. The first exclusion is kept.
    fn note_refusal(&self, refusal: Refusal) -> HandshakeError {
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
            starts: &peer.starts,
        });
        admitted.map_err(|refusal| HandshakeError::Refused(refusal.reason))
    }

    /// Checks what a peer states about itself.
    fn admit(&self, introduction: Introduction) -> Result<(), Refusal> {
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
                reason: format!("node id {} was removed from the cluster", NodeId(node_id)),
                exclusion: Exclusion::Removed.into(),
            });
        }
        let judged = self.positions().check(node_id, starts);
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

    /// The dialer's proof that it holds the key, and that it continues or refuses. The two proofs differ, so that an
    /// attacker on the path cannot turn one into the other.
    fn proof(&self, hello: &raft::Hello, welcome: &raft::Welcome, refusal: Option<Refusal>) -> raft::Proof {
        let proof = self.local.key.as_ref().map(|key| {
            let mac = proof_of_dialer(key, hello, welcome, refusal.is_some());
            Bytes::copy_from_slice(&mac.finalize().into_bytes())
        });
        raft::Proof { proof: proof.unwrap_or_default(), refusal }
    }
}

fn proof_of_dialer(
    key: &ClusterKey,
    hello: &raft::Hello,
    welcome: &raft::Welcome,
    refuses: bool,
) -> Hmac<Sha256> {
    let domain = if refuses { "mokv peer refusal" } else { "mokv peer proof" };
    mac(key, domain, [&hello.encode_to_vec(), &welcome.encode_to_vec()])
}

/// Runs the dialer's side of the handshake on a new connection, beginning with [`super::FIRST_BYTE`].
///
/// # Errors
/// If the connection breaks or either side refuses.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    admission: &PeerAdmission,
    to: u64,
    channel: Channel,
) -> Result<(), HandshakeError> {
    let local = &admission.local;
    let hello = raft::Hello {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&local.cluster_id),
        from: local.node_id,
        to,
        boot: local.boot,
        channel: channel.into(),
        nonce: nonce(),
        from_name: local.name.clone(),
        supports: local.supports,
        incarnation: local.incarnation,
        past: local.past.clone(),
        starts: starts_to_wire(&local.starts),
    };
    stream.write_all(&[super::FIRST_BYTE]).await?;
    send(stream, &hello).await?;
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let welcome: raft::Welcome = receive(&mut reader).await?;
    if let Some(refusal) = welcome.refusal {
        // With a key, only a refusal with a proof excludes this process, and a `Welcome` that refuses has none.
        return Err(match local.key {
            None => admission.note_refusal(refusal),
            Some(_) => HandshakeError::RefusedByPeer(refusal.reason),
        });
    }
    if welcome.id != to {
        return Err(HandshakeError::Refused(format!(
            "{} answers where node id {} was expected",
            Named(None, welcome.id),
            NodeId(to)
        )));
    }
    if let Some(key) = &local.key {
        let unproved = raft::Welcome { proof: Bytes::new(), ..welcome.clone() };
        mac(key, "mokv peer welcome", [&hello.encode_to_vec(), &unproved.encode_to_vec()])
            .verify_slice(&welcome.proof)
            .map_err(|_| HandshakeError::Refused("the peer does not know this cluster's key".into()))?;
    }
    let introduction = Introduction {
        protocol: welcome.protocol,
        cluster_id: &welcome.cluster_id,
        node_id: welcome.id,
        incarnation: Incarnation { boot: welcome.boot, id: welcome.incarnation },
        past: &welcome.past,
        starts: &starts_from_wire(&welcome.starts),
    };
    let refusal = admission.admit(introduction).err();
    send(reader.get_mut(), &admission.proof(&hello, &welcome, refusal.clone())).await?;
    if let Some(refusal) = refusal {
        return Err(HandshakeError::Refused(refusal.reason));
    }
    let accepted: raft::Accepted = receive(&mut reader).await?;
    match accepted.refusal {
        None => Ok(()),
        Some(refusal) => Err(admission.note_refusal(refusal)),
    }
}

/// The identity of the dialer, after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialer {
    /// Its node id.
    pub node_id: u64,
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

fn starts_to_wire(starts: &[Start]) -> Vec<raft::Start> {
    starts.iter().map(|&start| start.into()).collect()
}

fn starts_from_wire(starts: &[raft::Start]) -> Vec<Start> {
    starts.iter().map(Start::from).collect()
}

/// Runs the listener's side of the handshake on a connection whose first byte was read.
///
/// # Errors
/// If the connection breaks or either side refuses; a refused dialer has received the reason.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    admission: &PeerAdmission,
) -> Result<Dialer, HandshakeError> {
    let local = &admission.local;
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let hello: raft::Hello = receive(&mut reader).await?;
    let mut welcome = raft::Welcome {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&local.cluster_id),
        id: local.node_id,
        boot: local.boot,
        nonce: nonce(),
        incarnation: local.incarnation,
        past: local.past.clone(),
        starts: starts_to_wire(&local.starts),
        ..Default::default()
    };
    // If there is a key, only a dialer that has proved it changes what this node records: admission waits for the
    // proof.
    let meant = match hello.to == local.node_id {
        true => Ok(()),
        false => Err(refuse(format!(
            "this is {}, not node id {}",
            Named(Some(&local.name), local.node_id),
            NodeId(hello.to)
        ))),
    };
    let starts = starts_from_wire(&hello.starts);
    let admit = || {
        admission.admit(Introduction {
            protocol: hello.protocol,
            cluster_id: &hello.cluster_id,
            node_id: hello.from,
            incarnation: Incarnation { boot: hello.boot, id: hello.incarnation },
            past: &hello.past,
            starts: &starts,
        })
    };
    let admitted = meant.and_then(|()| if local.key.is_none() { admit() } else { Ok(()) });
    if let Err(refusal) = admitted {
        let reason = refusal.reason.clone();
        welcome.refusal = Some(refusal);
        send(reader.get_mut(), &welcome).await?;
        return Err(HandshakeError::Refused(reason));
    }
    if let Some(key) = &local.key {
        let mac = mac(key, "mokv peer welcome", [&hello.encode_to_vec(), &welcome.encode_to_vec()]);
        welcome.proof = Bytes::copy_from_slice(&mac.finalize().into_bytes());
    }
    send(reader.get_mut(), &welcome).await?;
    let proof: raft::Proof = receive(&mut reader).await?;
    let proved = local.key.as_ref().is_none_or(|key| {
        proof_of_dialer(key, &hello, &welcome, proof.refusal.is_some()).verify_slice(&proof.proof).is_ok()
    });
    let verdict = match proof.refusal {
        _ if !proved => Err(refuse("the dialer does not know this cluster's key")),
        Some(refusal) => return Err(admission.note_refusal(refusal)),
        None if local.key.is_some() => admit(),
        None => Ok(()),
    };
    let refusal = verdict.err();
    send(reader.get_mut(), &raft::Accepted { refusal: refusal.clone() }).await?;
    if let Some(refusal) = refusal {
        return Err(HandshakeError::Refused(refusal.reason));
    }
    Ok(Dialer {
        node_id: hello.from,
        channel: hello.channel(),
        name: hello.from_name,
        boot: hello.boot,
        incarnation: hello.incarnation,
        starts,
    })
}

fn nonce() -> Bytes {
    let mut nonce = [0; 32];
    rand::Rng::fill_bytes(&mut rt::random::rng(), &mut nonce);
    Bytes::copy_from_slice(&nonce)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Message) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, message);
    stream.write_all(&buffer).await?;
    stream.flush().await
}

async fn receive<S: AsyncRead + Unpin, M: Message + Default>(reader: &mut FrameReader<S>) -> io::Result<M> {
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed during the hello");
    reader.next().await?.ok_or_else(closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::positions::{Acknowledgement, Reach};

    fn local(node_id: u64, key: Option<&str>) -> LocalNode {
        LocalNode {
            cluster_id: [7; 16],
            node_id,
            name: format!("n{node_id}"),
            boot: 3,
            incarnation: 100 + node_id,
            past: Vec::new(),
            starts: Vec::new(),
            supports: 1,
            key: key.map(|key| ClusterKey::from(key.as_bytes().to_vec())),
        }
    }

    fn admission(local: LocalNode) -> PeerAdmission {
        PeerAdmission::new(local, BTreeMap::new(), Positions::default(), |id| id == 666)
    }

    #[test]
    fn who_was_let_in_is_checked_again() {
        let removed = std::sync::Arc::new(std::sync::Mutex::new(false));
        let seen = removed.clone();
        let admission =
            PeerAdmission::new(local(1, None), BTreeMap::new(), Positions::default(), move |_| {
                *seen.lock().unwrap()
            });
        let peer = Dialer {
            node_id: 2,
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

    /// Lets `from` dial `at`, and returns the results of both.
    async fn meet(
        from: &PeerAdmission,
        to: u64,
        at: &PeerAdmission,
    ) -> (Result<(), HandshakeError>, Result<Dialer, HandshakeError>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let answering = async {
            let mut first = [0];
            tokio::io::AsyncReadExt::read_exact(&mut far, &mut first).await.unwrap();
            assert_eq!(first[0], super::super::FIRST_BYTE);
            let result = answer(&mut far, at).await;
            drop(far);
            result
        };
        let dialing = async {
            let result = dial(&mut near, from, to, Channel::Log).await;
            drop(near);
            result
        };
        futures_util::future::join(dialing, answering).await
    }

    /// What is recorded of a peer outlasts the process: a rolled-back node must not meet one that has forgotten.
    #[test]
    fn a_life_that_was_only_heard_of_counts_and_so_does_one_of_before_a_restart() {
        let admit = |admission: &PeerAdmission, boot, incarnation, past: &[u64]| {
            let incarnation = Incarnation { boot, id: incarnation };
            let cluster_id = &[7; 16];
            admission.admit(Introduction {
                protocol: PROTOCOL,
                cluster_id,
                node_id: 2,
                incarnation,
                past,
                starts: &[],
            })
        };
        let before = admission(local(1, None));
        admit(&before, 3, 30, &[]).unwrap();
        before.hear_of(2, 5);
        before.hear_of(2, 4);
        assert!(admit(&before, 3, 30, &[]).unwrap_err().reason.contains("boot counter 5"));
        let after = PeerAdmission::new(
            local(1, None),
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

    /// A volume was rolled back: its node is excluded, whether it dials or is dialed.
    #[tokio::test]
    async fn who_was_outlived_is_told_whether_it_dials_or_is_dialed() {
        for key in [None, Some("a")] {
            let rolled_back = admission(local(1, key));
            let peer = PeerAdmission::new(
                local(2, key),
                BTreeMap::from([(1, Incarnations::heard_of(9))]),
                Positions::default(),
                |_| false,
            );
            let said =
                |admission: &PeerAdmission| admission.excluded().borrow().as_ref().map(Refusal::exclusion);
            assert!(meet(&rolled_back, 2, &peer).await.0.is_err());
            assert_eq!(said(&rolled_back), Some(Exclusion::Outlived), "it dials, key {key:?}");
            let rolled_back = admission(local(1, key));
            let (dialed, answered) = meet(&peer, 1, &rolled_back).await;
            assert!(matches!(dialed, Err(HandshakeError::Refused(_))), "{dialed:?}");
            assert!(matches!(answered, Err(HandshakeError::RefusedByPeer(_))), "{answered:?}");
            assert_eq!(said(&rolled_back), Some(Exclusion::Outlived), "it is dialed, key {key:?}");
            assert_eq!(said(&peer), None, "who was not refused goes on");
        }
    }

    /// The directory was put back to a copy of the incarnation that had acknowledged: its boot counter and its past are
    /// right.
    #[tokio::test]
    async fn who_lacks_what_it_acknowledged_is_told_and_comes_back_with_the_right_directory() {
        let found = |boot, index| Start { boot, found: Reach { term: 5, index: Some(index) } };
        let started = |index, incarnation| LocalNode {
            boot: 4,
            incarnation,
            past: vec![101],
            starts: vec![found(4, index), found(3, 2)],
            ..local(1, Some("a"))
        };
        let mut positions = Positions::default();
        let acknowledged = Acknowledgement { boot: 3, upto: Reach { term: 5, index: Some(20) } };
        positions.remember(1, acknowledged);
        let peer = PeerAdmission::new(local(2, Some("a")), BTreeMap::new(), positions, |_| false);
        let said = |admission: &PeerAdmission| admission.excluded().borrow().clone();
        let back = admission(started(19, 50));
        assert!(meet(&back, 2, &peer).await.1.is_err());
        let refusal = said(&back).unwrap();
        assert_eq!(refusal.exclusion(), Exclusion::GoneBack, "it dials");
        assert!(
            refusal.reason.contains("node 'n2' knows that node id 0000000000000001"),
            "{}",
            refusal.reason
        );
        assert!(refusal.reason.contains("log index 20 in term 5"), "{}", refusal.reason);
        let back = admission(started(19, 50));
        assert!(meet(&peer, 1, &back).await.0.is_err());
        assert_eq!(said(&back).map(|refusal| refusal.exclusion()), Some(Exclusion::GoneBack), "it is dialed");
        assert_eq!(peer.positions().refused().len(), 1);
        // The wrong directory is started again and again, and gossip reports its boot counter.
        peer.hear_of(1, 9);
        let right = admission(started(20, 60));
        let (dialed, answered) = meet(&right, 2, &peer).await;
        dialed.unwrap();
        // Later a leader reports that it acknowledged more.
        let later = Acknowledgement { boot: 3, upto: Reach { term: 5, index: Some(21) } };
        let dialer = answered.unwrap();
        peer.admit_again(&dialer).unwrap();
        assert_eq!(peer.positions().refused().len(), 0);
        peer.positions().remember(1, later);
        assert!(peer.admit_again(&dialer).unwrap_err().to_string().contains("older state"));
    }

    /// The peer reads at most `MAX_HELLO_BYTES`; the longest `Hello` fits.
    #[test]
    fn the_longest_hello_fits() {
        let start = wire_start(u64::MAX);
        let hello = raft::Hello {
            protocol: u32::MAX,
            cluster_id: Bytes::from_static(&[1; 16]),
            from: u64::MAX,
            to: u64::MAX,
            boot: u64::MAX,
            channel: Channel::Forward.into(),
            nonce: nonce(),
            from_name: "n".repeat(crate::membership::claim::MAX_NAME_BYTES),
            supports: u32::MAX,
            incarnation: u64::MAX,
            past: vec![u64::MAX; crate::incarnations::REMEMBERED],
            starts: vec![start; crate::incarnations::REMEMBERED],
        };
        assert!(hello.encoded_len() < MAX_HELLO_BYTES, "{} bytes", hello.encoded_len());
    }

    fn wire_start(most: u64) -> raft::Start {
        raft::Start { boot: most, term: most, index: Some(most) }
    }

    /// Any process that answers at a peer's address may refuse. Only one that holds the key can exclude this process,
    /// or have its boot counter recorded.
    #[tokio::test]
    async fn without_the_key_nobody_is_excluded_and_nothing_is_remembered() {
        let knows = admission(local(1, Some("a")));
        let heard = BTreeMap::from([(1, Incarnations::heard_of(9))]);
        let stranger = PeerAdmission::new(
            LocalNode { boot: 1 << 40, ..local(2, None) },
            heard,
            Positions::default(),
            |_| true,
        );
        assert!(meet(&knows, 2, &stranger).await.0.is_err());
        assert!(meet(&stranger, 1, &knows).await.1.is_err());
        assert_eq!(*knows.excluded().borrow(), None);
        assert_eq!(*knows.incarnations().borrow(), BTreeMap::new());
    }

    #[tokio::test]
    async fn peers_with_the_same_key_meet_and_others_do_not() {
        for (near, far, fine) in [
            (None, None, true),
            (Some("a"), Some("a"), true),
            (Some("a"), Some("b"), false),
            (None, Some("a"), false),
            (Some("a"), None, false),
        ] {
            let (dialed, answered) = meet(&admission(local(1, near)), 2, &admission(local(2, far))).await;
            assert_eq!(dialed.is_ok() && answered.is_ok(), fine, "{near:?} meets {far:?}");
        }
    }

    #[tokio::test]
    async fn another_cluster_another_node_and_the_removed_are_refused() {
        let stranger = LocalNode { cluster_id: [8; 16], ..local(1, None) };
        assert!(matches!(
            meet(&admission(stranger), 2, &admission(local(2, None))).await.1,
            Err(HandshakeError::Refused(_))
        ));
        assert!(matches!(
            meet(&admission(local(1, None)), 3, &admission(local(2, None))).await.1,
            Err(HandshakeError::Refused(_))
        ));
        assert!(matches!(
            meet(&admission(local(666, None)), 2, &admission(local(2, None))).await.1,
            Err(HandshakeError::Refused(_))
        ));
    }

    #[tokio::test]
    async fn a_directory_rolled_back_or_copied_is_refused_and_a_restart_is_not() {
        let at = admission(local(2, None));
        assert!(meet(&admission(local(1, None)), 2, &at).await.1.is_ok());
        let restarted = LocalNode { boot: 4, incarnation: 5, ..local(1, None) };
        assert!(meet(&admission(restarted.clone()), 2, &at).await.1.is_ok());
        assert!(
            meet(&admission(restarted.clone()), 2, &at).await.1.is_ok(),
            "a second connection of the same process"
        );
        let rolled_back = meet(&admission(local(1, None)), 2, &at).await.1.unwrap_err().to_string();
        assert!(rolled_back.contains("rolled back"), "{rolled_back}");
        let twin = LocalNode { incarnation: 6, ..restarted };
        let twin = meet(&admission(twin), 2, &at).await.1.unwrap_err().to_string();
        assert!(twin.contains("copied"), "{twin}");
    }
}
