//! The handshake of a peer connection: both sides identify themselves, and prove that they hold the cluster's key if
//! there is one.
//!
//! `Hello ->`, `<- Welcome`, `Proof ->`, `<- Accepted`. The dialer checks that it reached the intended node; the
//! listener checks that it is the intended node. Both ask [`PeerAdmission`] whether they admit the other. The refused
//! node receives the reason, whether it dialed or was dialed.

use std::borrow::Cow;
use std::io;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use mokv_proto::raft::{self, Accepted, Channel, Hello, Proof, Refusal, Welcome};
use prost::Message;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::PROTOCOL;
use super::admission::{Dialer, HandshakeError, Introduction, LocalNode, PeerAdmission, refuse};
use super::frame::{FrameReader, put_frame};
use crate::config::ClusterKey;
use crate::incarnations::Incarnation;
use crate::node_id::{Named, NodeId};
use crate::positions::Start;
use crate::rt;

/// The longest message of a handshake: the peer has proved nothing yet, so little is read.
const MAX_HELLO_BYTES: usize = 4 << 10;

/// Runs the dialer's side of the handshake on a new connection, beginning with [`super::FIRST_BYTE`].
///
/// # Errors
/// If the connection breaks or either side refuses.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    admission: &PeerAdmission,
    to: NodeId,
    channel: Channel,
) -> Result<(), HandshakeError> {
    let hello = hello(admission.local(), to, channel);
    stream.write_all(&[super::FIRST_BYTE]).await?;
    send(stream, &hello).await?;
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let greeting =
        Greeting { key: admission.local().key.as_ref(), hello, welcome: receive(&mut reader).await? };
    check_welcome(&greeting, admission)?;
    let refusal = admission.admit(greeting.listener()).err();
    send(reader.get_mut(), &greeting.proof(refusal.clone())).await?;
    refused(refusal)?;
    let accepted: Accepted = receive(&mut reader).await?;
    accepted.refusal.map_or(Ok(()), |refusal| Err(admission.note_refusal(refusal)))
}

/// Checks that the dialer has reached the intended node, which holds the cluster's key and does not refuse.
fn check_welcome(greeting: &Greeting, admission: &PeerAdmission) -> Result<(), HandshakeError> {
    let (hello, welcome) = (&greeting.hello, &greeting.welcome);
    if let Some(refusal) = &welcome.refusal {
        // With a key, only a refusal with a proof excludes this process, and a `Welcome` that refuses has none.
        return Err(match greeting.key {
            None => admission.note_refusal(refusal.clone()),
            Some(_) => HandshakeError::RefusedByPeer(refusal.reason.clone()),
        });
    }
    if welcome.id != hello.to {
        return Err(HandshakeError::Refused(format!(
            "{} answers where node id {} was expected",
            Named(None, NodeId(welcome.id)),
            NodeId(hello.to)
        )));
    }
    match greeting.listener_has_key() {
        true => Ok(()),
        false => Err(HandshakeError::Refused("the peer does not know this cluster's key".into())),
    }
}

/// Runs the listener's side of the handshake on a connection whose first byte was read.
///
/// # Errors
/// If the connection breaks or either side refuses; a refused dialer has received the reason.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    admission: &PeerAdmission,
) -> Result<Dialer, HandshakeError> {
    let local = admission.local();
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let hello: Hello = receive(&mut reader).await?;
    let mut greeting = Greeting { key: local.key.as_ref(), hello, welcome: welcome(local) };
    match check_hello(&greeting, admission) {
        Ok(()) => greeting.prove_welcome(),
        Err(refusal) => greeting.welcome.refusal = Some(refusal),
    }
    send(reader.get_mut(), &greeting.welcome).await?;
    refused(greeting.welcome.refusal.clone())?;
    let proof: Proof = receive(&mut reader).await?;
    let refusal = check_proof(&greeting, proof, admission)?.err();
    send(reader.get_mut(), &Accepted { refusal: refusal.clone() }).await?;
    refused(refusal)?;
    Ok(greeting.into_dialer())
}

/// Checks that this is the intended node, and without a key admits the dialer. If there is a key, only a dialer that
/// has proved it changes what this node records: admission then waits for the proof.
fn check_hello(greeting: &Greeting, admission: &PeerAdmission) -> Result<(), Refusal> {
    let local = admission.local();
    if NodeId(greeting.hello.to) != local.node_id {
        return Err(refuse(format!(
            "this is {}, not node id {}",
            Named(Some(&local.name), local.node_id),
            NodeId(greeting.hello.to)
        )));
    }
    match greeting.key {
        None => admission.admit(greeting.dialer()),
        Some(_) => Ok(()),
    }
}

/// Checks the dialer's proof, and with a key admits the dialer. The inner error is for the dialer; the outer one is the
/// dialer's own refusal.
fn check_proof(
    greeting: &Greeting,
    proof: Proof,
    admission: &PeerAdmission,
) -> Result<Result<(), Refusal>, HandshakeError> {
    if !greeting.dialer_has_key(&proof) {
        return Ok(Err(refuse("the dialer does not know this cluster's key")));
    }
    match (proof.refusal, greeting.key) {
        (Some(refusal), _) => Err(admission.note_refusal(refusal)),
        (None, Some(_)) => Ok(admission.admit(greeting.dialer())),
        (None, None) => Ok(Ok(())),
    }
}

fn refused(refusal: Option<Refusal>) -> Result<(), HandshakeError> {
    refusal.map_or(Ok(()), |refusal| Err(HandshakeError::Refused(refusal.reason)))
}

fn hello(local: &LocalNode, to: NodeId, channel: Channel) -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&local.cluster_id),
        from: local.node_id.0,
        to: to.0,
        boot: local.boot,
        channel: channel.into(),
        nonce: nonce(),
        from_name: local.name.clone(),
        supports: local.supports,
        incarnation: local.incarnation,
        past: local.past.clone(),
        starts: starts_to_wire(&local.starts),
    }
}

fn welcome(local: &LocalNode) -> Welcome {
    Welcome {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&local.cluster_id),
        id: local.node_id.0,
        boot: local.boot,
        nonce: nonce(),
        incarnation: local.incarnation,
        past: local.past.clone(),
        starts: starts_to_wire(&local.starts),
        ..Default::default()
    }
}

/// The first two messages of a handshake: what both sides state about themselves, and what their proofs cover. Without
/// a key every proof is empty and holds.
struct Greeting<'a> {
    key: Option<&'a ClusterKey>,
    hello: Hello,
    welcome: Welcome,
}

impl Greeting<'_> {
    fn dialer(&self) -> Introduction<'_> {
        Introduction {
            protocol: self.hello.protocol,
            cluster_id: &self.hello.cluster_id,
            node_id: NodeId(self.hello.from),
            incarnation: Incarnation { boot: self.hello.boot, id: self.hello.incarnation },
            past: &self.hello.past,
            starts: Cow::Owned(starts_from_wire(&self.hello.starts)),
        }
    }

    fn listener(&self) -> Introduction<'_> {
        Introduction {
            protocol: self.welcome.protocol,
            cluster_id: &self.welcome.cluster_id,
            node_id: NodeId(self.welcome.id),
            incarnation: Incarnation { boot: self.welcome.boot, id: self.welcome.incarnation },
            past: &self.welcome.past,
            starts: Cow::Owned(starts_from_wire(&self.welcome.starts)),
        }
    }

    fn into_dialer(self) -> Dialer {
        Dialer {
            node_id: NodeId(self.hello.from),
            channel: self.hello.channel(),
            boot: self.hello.boot,
            incarnation: self.hello.incarnation,
            starts: starts_from_wire(&self.hello.starts),
            name: self.hello.from_name,
        }
    }

    /// Adds the listener's proof that it holds the key.
    fn prove_welcome(&mut self) {
        if let Some(mac) = self.mac_of_welcome() {
            self.welcome.proof = Bytes::copy_from_slice(&mac.finalize().into_bytes());
        }
    }

    fn listener_has_key(&self) -> bool {
        self.mac_of_welcome().is_none_or(|mac| mac.verify_slice(&self.welcome.proof).is_ok())
    }

    fn mac_of_welcome(&self) -> Option<Hmac<Sha256>> {
        let unproved = Welcome { proof: Bytes::new(), ..self.welcome.clone() };
        self.mac("mokv peer welcome", &unproved)
    }

    /// The dialer's proof that it holds the key, and that it continues or refuses.
    fn proof(&self, refusal: Option<Refusal>) -> Proof {
        let mac = self.mac_of_proof(refusal.is_some());
        let proof = mac.map(|mac| Bytes::copy_from_slice(&mac.finalize().into_bytes()));
        Proof { proof: proof.unwrap_or_default(), refusal }
    }

    fn dialer_has_key(&self, proof: &Proof) -> bool {
        self.mac_of_proof(proof.refusal.is_some()).is_none_or(|mac| mac.verify_slice(&proof.proof).is_ok())
    }

    /// The two proofs differ, so that an attacker on the path cannot turn one into the other.
    fn mac_of_proof(&self, refuses: bool) -> Option<Hmac<Sha256>> {
        self.mac(if refuses { "mokv peer refusal" } else { "mokv peer proof" }, &self.welcome)
    }

    fn mac(&self, domain: &str, welcome: &Welcome) -> Option<Hmac<Sha256>> {
        let key = self.key?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
        for part in [domain.as_bytes(), &self.hello.encode_to_vec(), &welcome.encode_to_vec()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Some(mac)
    }
}

fn starts_to_wire(starts: &[Start]) -> Vec<raft::Start> {
    starts.iter().map(|&start| start.into()).collect()
}

fn starts_from_wire(starts: &[raft::Start]) -> Vec<Start> {
    starts.iter().map(Start::from).collect()
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
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed during the handshake");
    reader.next().await?.ok_or_else(closed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mokv_proto::raft::Exclusion;

    use super::*;
    use crate::incarnations::Incarnations;
    use crate::positions::{Acknowledgement, Positions, Reach};

    fn admission(local: LocalNode) -> PeerAdmission {
        PeerAdmission::new(local, BTreeMap::new(), Positions::default(), |id| id == NodeId(666))
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
            let result = dial(&mut near, from, NodeId(to), Channel::Log).await;
            drop(near);
            result
        };
        futures_util::future::join(dialing, answering).await
    }

    /// A volume was rolled back: its node is excluded, whether it dials or is dialed.
    #[tokio::test]
    async fn an_outlived_node_is_refused_whether_it_dials_or_is_dialed() {
        for key in [None, Some("a")] {
            let rolled_back = admission(LocalNode::example(1, key));
            let peer = PeerAdmission::new(
                LocalNode::example(2, key),
                BTreeMap::from([(NodeId(1), Incarnations::from_report(9))]),
                Positions::default(),
                |_| false,
            );
            let said =
                |admission: &PeerAdmission| admission.excluded().borrow().as_ref().map(Refusal::exclusion);
            assert!(meet(&rolled_back, 2, &peer).await.0.is_err());
            assert_eq!(said(&rolled_back), Some(Exclusion::Outlived), "it dials, key {key:?}");
            let rolled_back = admission(LocalNode::example(1, key));
            let (dialed, answered) = meet(&peer, 1, &rolled_back).await;
            assert!(matches!(dialed, Err(HandshakeError::Refused(_))), "{dialed:?}");
            assert!(matches!(answered, Err(HandshakeError::RefusedByPeer(_))), "{answered:?}");
            assert_eq!(said(&rolled_back), Some(Exclusion::Outlived), "it is dialed, key {key:?}");
            assert_eq!(said(&peer), None, "a peer that was not refused goes on");
        }
    }

    /// The directory was put back to a copy of the incarnation that had acknowledged: its boot counter and its past are
    /// right.
    #[tokio::test]
    async fn a_node_that_lacks_what_it_acknowledged_is_refused_and_comes_back_with_the_right_directory() {
        let found = |boot, index| Start { boot, found: Reach { term: 5, index: Some(index) } };
        let started = |index, incarnation| LocalNode {
            boot: 4,
            incarnation,
            past: vec![101],
            starts: vec![found(4, index), found(3, 2)],
            ..LocalNode::example(1, Some("a"))
        };
        let mut positions = Positions::default();
        let acknowledged = Acknowledgement { boot: 3, upto: Reach { term: 5, index: Some(20) } };
        positions.remember(NodeId(1), acknowledged);
        let peer =
            PeerAdmission::new(LocalNode::example(2, Some("a")), BTreeMap::new(), positions, |_| false);
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
        peer.record_report(NodeId(1), 9);
        let right = admission(started(20, 60));
        let (dialed, answered) = meet(&right, 2, &peer).await;
        dialed.unwrap();
        // Later a leader reports that it acknowledged more.
        let later = Acknowledgement { boot: 3, upto: Reach { term: 5, index: Some(21) } };
        let dialer = answered.unwrap();
        peer.admit_again(&dialer).unwrap();
        assert_eq!(peer.positions().refused().len(), 0);
        peer.positions().remember(NodeId(1), later);
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
    async fn without_the_key_no_node_is_excluded_and_nothing_is_remembered() {
        let knows = admission(LocalNode::example(1, Some("a")));
        let reported = BTreeMap::from([(NodeId(1), Incarnations::from_report(9))]);
        let stranger = PeerAdmission::new(
            LocalNode { boot: 1 << 40, ..LocalNode::example(2, None) },
            reported,
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
            let (dialed, answered) =
                meet(&admission(LocalNode::example(1, near)), 2, &admission(LocalNode::example(2, far)))
                    .await;
            assert_eq!(dialed.is_ok() && answered.is_ok(), fine, "{near:?} meets {far:?}");
        }
    }

    #[tokio::test]
    async fn another_cluster_another_node_and_the_removed_are_refused() {
        let stranger = LocalNode { cluster_id: [8; 16], ..LocalNode::example(1, None) };
        assert!(matches!(
            meet(&admission(stranger), 2, &admission(LocalNode::example(2, None))).await.1,
            Err(HandshakeError::Refused(_))
        ));
        assert!(matches!(
            meet(&admission(LocalNode::example(1, None)), 3, &admission(LocalNode::example(2, None))).await.1,
            Err(HandshakeError::Refused(_))
        ));
        assert!(matches!(
            meet(&admission(LocalNode::example(666, None)), 2, &admission(LocalNode::example(2, None)))
                .await
                .1,
            Err(HandshakeError::Refused(_))
        ));
    }

    #[tokio::test]
    async fn a_directory_rolled_back_or_copied_is_refused_and_a_restart_is_not() {
        let at = admission(LocalNode::example(2, None));
        assert!(meet(&admission(LocalNode::example(1, None)), 2, &at).await.1.is_ok());
        let restarted = LocalNode { boot: 4, incarnation: 5, ..LocalNode::example(1, None) };
        assert!(meet(&admission(restarted.clone()), 2, &at).await.1.is_ok());
        assert!(
            meet(&admission(restarted.clone()), 2, &at).await.1.is_ok(),
            "a second connection of the same process"
        );
        let rolled_back =
            meet(&admission(LocalNode::example(1, None)), 2, &at).await.1.unwrap_err().to_string();
        assert!(rolled_back.contains("rolled back"), "{rolled_back}");
        let twin = LocalNode { incarnation: 6, ..restarted };
        let twin = meet(&admission(twin), 2, &at).await.1.unwrap_err().to_string();
        assert!(twin.contains("copied"), "{twin}");
    }
}
