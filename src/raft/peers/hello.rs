//! The hello of a peer connection: both sides learn who the other is, and prove the cluster's key if there is one.
//!
//! `Hello ->`, `<- Welcome`, `Proof ->`, `<- Accepted`. The dialer checks that it reached whom it meant; the
//! listener checks that it was meant. Both refuse another cluster, a lower boot counter than they have seen of the
//! same id (a data directory rolled back) and a second process of the same boot (a data directory copied).

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use mokv_proto::raft::{self, Channel};
use prost::Message;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{FrameReader, put_frame};
use crate::config::ClusterKey;
use crate::rt::{self, watch};

/// The version of hello and frames that this code speaks.
const PROTOCOL: u32 = 1;
/// Nobody has proved anything yet: little is read.
const MAX_HELLO_BYTES: usize = 4 << 10;

fn mac(key: &ClusterKey, domain: &str, parts: [&[u8]; 2]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in [domain.as_bytes(), parts[0], parts[1]] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

/// Who this process is.
#[derive(Debug, Clone)]
pub struct Me {
    /// The cluster it belongs to.
    pub cluster_id: [u8; 16],
    /// Its Raft node id.
    pub node_id: u64,
    /// Its name, for messages.
    pub name: String,
    /// How often its data directory was started.
    pub boot: u64,
    /// Drawn at the start of this process.
    pub incarnation: u64,
    /// The highest cluster version it supports.
    pub supports: u32,
    /// The cluster's key, if there is one.
    pub key: Option<ClusterKey>,
}

/// Why a hello failed.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection broke or the bytes made no sense.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// This side refuses the other.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side refuses this one.
    #[error("the peer refuses: {0}")]
    RefusedByPeer(String),
}

/// Who is let in. Remembers the newest start it has heard of, of each node.
pub struct Gate {
    me: Me,
    newest: Mutex<BTreeMap<u64, Start>>,
    /// The boot counters of `newest`.
    lives: watch::Sender<BTreeMap<u64, u64>>,
    is_removed: Box<dyn Fn(u64) -> bool + Send + Sync>,
    /// Turns true when a peer says that this very node was removed.
    removed: watch::Sender<bool>,
}

/// One start of a node.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    boot: u64,
    /// `None`: nobody of this start has come by yet.
    incarnation: Option<u64>,
}

/// Why the other side is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    reason: String,
    removed: bool,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal { reason, removed: false }
    }
}

impl Gate {
    /// A gate of this process, which has heard in earlier ones how often others had started; `is_removed` says which
    /// node ids were removed from the cluster for good, by what this node has applied.
    pub fn new(
        me: Me,
        lives: BTreeMap<u64, u64>,
        is_removed: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Gate {
        let heard_of = |(&node_id, &boot): (&u64, &u64)| (node_id, Start { boot, incarnation: None });
        Gate {
            me,
            newest: Mutex::new(lives.iter().map(heard_of).collect()),
            lives: watch::channel(lives).0,
            is_removed: Box::new(is_removed),
            removed: watch::channel(false).0,
        }
    }

    /// Turns true when a peer of this cluster says that it has applied this node's removal. Such a thing is never
    /// undone, so the word of one is enough.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    /// The highest boot counter of each node, for whoever keeps it beyond this process.
    pub fn lives(&self) -> watch::Receiver<BTreeMap<u64, u64>> {
        self.lives.subscribe()
    }

    /// Hears from elsewhere how often a node has started.
    pub fn hear_of(&self, node_id: u64, boot: u64) {
        let mut newest = self.newest.lock().expect("no code panics while it holds this lock");
        self.note(newest.entry(node_id).or_default(), node_id, Start { boot, incarnation: None });
    }

    /// Remembers a start if it is a newer one.
    fn note(&self, newest: &mut Start, node_id: u64, start: Start) {
        if newest.boot < start.boot {
            *newest = start;
            self.lives.send_if_modified(|lives| lives.insert(node_id, start.boot) != Some(start.boot));
        }
    }

    fn refused_by_peer(&self, reason: String, removed: bool) -> HelloError {
        if removed {
            self.removed.send(true);
        }
        HelloError::RefusedByPeer(reason)
    }

    /// Who this process is.
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// Checks a peer again that was let in before. Meanwhile it may have been removed, or a later start of its data
    /// directory may have been seen: its connection then ends, and the next hello tells it why.
    ///
    /// # Errors
    /// [`HelloError::Refused`].
    pub fn admit_again(&self, peer: &Dialer) -> Result<(), HelloError> {
        let me = &self.me;
        let admitted = self.admit(PROTOCOL, &me.cluster_id, peer.node_id, peer.boot, peer.incarnation);
        admitted.map_err(|refusal| HelloError::Refused(refusal.reason))
    }

    /// Checks what the other side says of itself.
    fn admit(
        &self,
        protocol: u32,
        cluster_id: &[u8],
        node_id: u64,
        boot: u64,
        incarnation: u64,
    ) -> Result<(), Refusal> {
        if protocol != PROTOCOL {
            return Err(
                format!("protocol version {protocol} is not {PROTOCOL}: upgrade the older node").into()
            );
        }
        if cluster_id != self.me.cluster_id {
            return Err("this node belongs to another cluster: check the join addresses".to_string().into());
        }
        if (self.is_removed)(node_id) {
            rt::sometimes("removed node refused");
            let reason = format!("node id {node_id:016x} was removed from the cluster");
            return Err(Refusal { reason, removed: true });
        }
        let mut newest = self.newest.lock().expect("no code panics while it holds this lock");
        let newest = newest.entry(node_id).or_default();
        if boot < newest.boot {
            rt::sometimes("older boot counter refused");
            return Err(format!(
                "node id {node_id:016x} was seen with boot counter {}, now {boot}: its data directory was rolled back or copied; wipe it with 'mokv serve --wipe'",
                newest.boot
            )
            .into());
        }
        self.note(newest, node_id, Start { boot, incarnation: Some(incarnation) });
        if *newest.incarnation.get_or_insert(incarnation) != incarnation {
            rt::sometimes("second live copy refused");
            return Err(format!(
                "node id {node_id:016x} runs twice: its data directory was copied; stop one and wipe it with 'mokv serve --wipe'"
            )
            .into());
        }
        Ok(())
    }
}

/// Opens a connection that was just made: says the first byte and the hello.
///
/// # Errors
/// If the connection breaks or either side refuses.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    gate: &Gate,
    to: u64,
    channel: Channel,
) -> Result<(), HelloError> {
    let me = &gate.me;
    let hello = raft::Hello {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&me.cluster_id),
        from: me.node_id,
        to,
        boot: me.boot,
        channel: channel.into(),
        nonce: nonce(),
        from_name: me.name.clone(),
        supports: me.supports,
        incarnation: me.incarnation,
    };
    stream.write_all(&[super::FIRST_BYTE]).await?;
    send(stream, &hello).await?;
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let welcome: raft::Welcome = receive(&mut reader).await?;
    if !welcome.refused.is_empty() {
        return Err(gate.refused_by_peer(welcome.refused, welcome.removed));
    }
    if welcome.id != to {
        return Err(HelloError::Refused(format!(
            "node {:016x} answers where {to:016x} was expected",
            welcome.id
        )));
    }
    gate.admit(welcome.protocol, &welcome.cluster_id, welcome.id, welcome.boot, welcome.incarnation)
        .map_err(|refusal| HelloError::Refused(refusal.reason))?;
    if let Some(key) = &me.key {
        let unproved = raft::Welcome { proof: Bytes::new(), ..welcome.clone() };
        mac(key, "mokv peer welcome", [&hello.encode_to_vec(), &unproved.encode_to_vec()])
            .verify_slice(&welcome.proof)
            .map_err(|_| HelloError::Refused("the peer does not know this cluster's key".into()))?;
    }
    let proof = me.key.as_ref().map(|key| {
        let mac = mac(key, "mokv peer proof", [&hello.encode_to_vec(), &welcome.encode_to_vec()]);
        Bytes::copy_from_slice(&mac.finalize().into_bytes())
    });
    send(reader.get_mut(), &raft::Proof { proof: proof.unwrap_or_default() }).await?;
    let accepted: raft::Accepted = receive(&mut reader).await?;
    if !accepted.refused.is_empty() {
        return Err(gate.refused_by_peer(accepted.refused, accepted.removed));
    }
    Ok(())
}

/// Who dialed, once the hello is over.
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
    /// Drawn at the start of its process.
    pub incarnation: u64,
}

/// Answers the hello on a connection whose first byte was read.
///
/// # Errors
/// If the connection breaks or the dialer is refused; it has been told why.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    gate: &Gate,
) -> Result<Dialer, HelloError> {
    let me = &gate.me;
    let mut reader = FrameReader::new(stream, MAX_HELLO_BYTES);
    let hello: raft::Hello = receive(&mut reader).await?;
    let mut welcome = raft::Welcome {
        protocol: PROTOCOL,
        cluster_id: Bytes::copy_from_slice(&me.cluster_id),
        id: me.node_id,
        boot: me.boot,
        nonce: nonce(),
        incarnation: me.incarnation,
        ..Default::default()
    };
    // Without the key nobody changes what this node remembers; with one, admission waits for the proof.
    let meant = match hello.to == me.node_id {
        true => Ok(()),
        false => Err(Refusal::from(format!("this is node {:016x}, not {:016x}", me.node_id, hello.to))),
    };
    let admitted = meant.and_then(|()| match &me.key {
        None => gate.admit(hello.protocol, &hello.cluster_id, hello.from, hello.boot, hello.incarnation),
        Some(_) => Ok(()),
    });
    if let Err(Refusal { reason, removed }) = admitted {
        welcome.refused = reason.clone();
        welcome.removed = removed;
        send(reader.get_mut(), &welcome).await?;
        return Err(HelloError::Refused(reason));
    }
    if let Some(key) = &me.key {
        let mac = mac(key, "mokv peer welcome", [&hello.encode_to_vec(), &welcome.encode_to_vec()]);
        welcome.proof = Bytes::copy_from_slice(&mac.finalize().into_bytes());
    }
    send(reader.get_mut(), &welcome).await?;
    let proof: raft::Proof = receive(&mut reader).await?;
    let verdict = match &me.key {
        None => Ok(()),
        Some(key) => mac(key, "mokv peer proof", [&hello.encode_to_vec(), &welcome.encode_to_vec()])
            .verify_slice(&proof.proof)
            .map_err(|_| Refusal::from("the dialer does not know this cluster's key".to_string()))
            .and_then(|()| {
                gate.admit(hello.protocol, &hello.cluster_id, hello.from, hello.boot, hello.incarnation)
            }),
    };
    let accepted = match &verdict {
        Ok(()) => raft::Accepted::default(),
        Err(refusal) => raft::Accepted { refused: refusal.reason.clone(), removed: refusal.removed },
    };
    send(reader.get_mut(), &accepted).await?;
    verdict.map_err(|refusal| HelloError::Refused(refusal.reason))?;
    Ok(Dialer {
        node_id: hello.from,
        channel: hello.channel(),
        name: hello.from_name,
        boot: hello.boot,
        incarnation: hello.incarnation,
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

    fn me(node_id: u64, key: Option<&str>) -> Me {
        Me {
            cluster_id: [7; 16],
            node_id,
            name: format!("n{node_id}"),
            boot: 3,
            incarnation: 100 + node_id,
            supports: 1,
            key: key.map(|key| ClusterKey::from(key.as_bytes().to_vec())),
        }
    }

    fn gate(me: Me) -> Gate {
        Gate::new(me, BTreeMap::new(), |id| id == 666)
    }

    #[test]
    fn who_was_let_in_is_checked_again() {
        let removed = std::sync::Arc::new(Mutex::new(false));
        let seen = removed.clone();
        let gate = Gate::new(me(1, None), BTreeMap::new(), move |_| *seen.lock().unwrap());
        let peer =
            Dialer { node_id: 2, name: "n2".into(), channel: Channel::Control, boot: 3, incarnation: 9 };
        gate.admit_again(&peer).unwrap();
        *removed.lock().unwrap() = true;
        assert!(gate.admit_again(&peer).unwrap_err().to_string().contains("removed"));
        *removed.lock().unwrap() = false;
        gate.admit_again(&Dialer { boot: 4, incarnation: 10, ..peer.clone() }).unwrap();
        assert!(gate.admit_again(&peer).unwrap_err().to_string().contains("rolled back"));
    }

    /// Lets `from` dial `gate` and returns what both conclude.
    async fn meet(from: &Gate, to: u64, at: &Gate) -> (Result<(), HelloError>, Result<Dialer, HelloError>) {
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

    /// What a peer was heard to be is kept beyond this process: a rolled-back node must not find one that has forgotten.
    #[test]
    fn a_life_that_was_only_heard_of_counts_and_so_does_one_of_before_a_restart() {
        let admit = |gate: &Gate, boot, incarnation| gate.admit(PROTOCOL, &[7; 16], 2, boot, incarnation);
        let before = gate(me(1, None));
        admit(&before, 3, 30).unwrap();
        let mut lives = before.lives();
        before.hear_of(2, 5);
        before.hear_of(2, 4);
        assert_eq!(*lives.borrow_and_update(), BTreeMap::from([(2, 5)]));
        assert!(admit(&before, 3, 30).unwrap_err().reason.contains("boot counter 5"));
        let after = Gate::new(me(1, None), lives.borrow_and_update().clone(), |_| false);
        assert!(admit(&after, 4, 40).unwrap_err().reason.contains("boot counter 5"));
        admit(&after, 5, 50).unwrap();
        assert!(admit(&after, 5, 51).unwrap_err().reason.contains("runs twice"));
        admit(&after, 6, 60).unwrap();
        assert_eq!(*after.lives().borrow(), BTreeMap::from([(2, 6)]));
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
            let (dialed, answered) = meet(&gate(me(1, near)), 2, &gate(me(2, far))).await;
            assert_eq!(dialed.is_ok() && answered.is_ok(), fine, "{near:?} meets {far:?}");
        }
    }

    #[tokio::test]
    async fn another_cluster_another_node_and_the_removed_are_refused() {
        let stranger = Me { cluster_id: [8; 16], ..me(1, None) };
        assert!(matches!(meet(&gate(stranger), 2, &gate(me(2, None))).await.1, Err(HelloError::Refused(_))));
        assert!(matches!(
            meet(&gate(me(1, None)), 3, &gate(me(2, None))).await.1,
            Err(HelloError::Refused(_))
        ));
        assert!(matches!(
            meet(&gate(me(666, None)), 2, &gate(me(2, None))).await.1,
            Err(HelloError::Refused(_))
        ));
    }

    #[tokio::test]
    async fn a_directory_rolled_back_or_copied_is_refused_and_a_restart_is_not() {
        let at = gate(me(2, None));
        assert!(meet(&gate(me(1, None)), 2, &at).await.1.is_ok());
        let restarted = Me { boot: 4, incarnation: 5, ..me(1, None) };
        assert!(meet(&gate(restarted.clone()), 2, &at).await.1.is_ok());
        assert!(
            meet(&gate(restarted.clone()), 2, &at).await.1.is_ok(),
            "a second connection of the same process"
        );
        let rolled_back = meet(&gate(me(1, None)), 2, &at).await.1.unwrap_err().to_string();
        assert!(rolled_back.contains("rolled back"), "{rolled_back}");
        let twin = Me { incarnation: 6, ..restarted };
        let twin = meet(&gate(twin), 2, &at).await.1.unwrap_err().to_string();
        assert!(twin.contains("copied"), "{twin}");
    }
}
