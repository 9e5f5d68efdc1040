//! The envelope of every datagram: its sender, the sender's cluster, and a proof of integrity and origin.
//!
//! The proof is an HMAC with the cluster's key. Without a key it is one with a publicly known key: then it detects
//! damage only, and nodes with and without a key cannot read each other's datagrams. A counter per process protects
//! against replay. The payload is not interpreted here.

use std::collections::BTreeMap;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::claim::ClusterId;
use crate::node_id::NodeId;

/// The most bytes of one datagram, read or sent.
pub const MAX_BYTES: usize = 8 << 10;
/// The usual limit of a datagram in bytes, so that no link has to fragment it: the minimum MTU of IPv6 less headers.
pub const USUAL_BYTES: usize = 1200;
const MAGIC: [u8; 4] = *b"mkv~";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 50;
const PROOF_BYTES: usize = 16;
/// The bytes that the envelope adds to a payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + PROOF_BYTES;

/// The cluster's key, or the publicly known one.
#[derive(Clone)]
pub struct Key {
    mac: Hmac<Sha256>,
    secret: bool,
}

impl Key {
    /// The publicly known key, for a cluster without one.
    pub fn open() -> Key {
        Key { mac: mac(b"mokv: no cluster key"), secret: false }
    }

    /// The key in a `cluster-key-file`, from the file's content.
    pub fn secret(key: &[u8]) -> Key {
        Key { mac: mac(key), secret: true }
    }

    /// Returns `true` if datagrams prove that their sender has a secret key.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    fn prove(&self, bytes: &[u8]) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&self.mac.clone().chain_update(bytes).finalize().into_bytes()[..PROOF_BYTES]);
        proof
    }

    fn verifies(&self, bytes: &[u8], proof: &[u8]) -> bool {
        self.mac.clone().chain_update(bytes).verify_truncated_left(proof).is_ok()
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // Other uses of the same key, such as the handshake of Raft peers, yield other proofs.
    let outer = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let derived = outer.chain_update(b"mokv gossip datagrams 1").finalize().into_bytes();
    Hmac::<Sha256>::new_from_slice(&derived).expect("HMAC takes keys of any length")
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.secret { "Key(secret)" } else { "Key(open)" })
    }
}

/// The kind of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet of the failure detector; only within one cluster.
    Swim,
    /// An exchange of claims that requests an answer.
    Ask,
    /// The answer to an ask.
    Answer,
}

/// A datagram without its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The kind of the payload.
    pub kind: Kind,
    /// The sender's cluster; `None` if it belongs to none yet.
    pub cluster_id: Option<ClusterId>,
    /// The sender's node id.
    pub sender: NodeId,
    /// The sender's boot counter.
    pub boot: u64,
    /// Random per process: two processes that run with copies of one identity differ in it.
    pub instance: u32,
    /// Numbers the sender's datagrams of this boot.
    pub counter: u64,
    /// The payload, to be decoded by kind.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Encodes the datagram and its proof.
    pub fn seal(&self, key: &Key) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(OVERHEAD_BYTES + self.payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.push(match (self.kind, self.cluster_id.is_some()) {
            (Kind::Swim, member) => u8::from(member) << 7,
            (Kind::Ask, member) => 1 | u8::from(member) << 7,
            (Kind::Answer, member) => 2 | u8::from(member) << 7,
        });
        bytes.extend_from_slice(&self.cluster_id.map_or([0; 16], |id| id.0));
        bytes.extend_from_slice(&self.sender.0.to_le_bytes());
        bytes.extend_from_slice(&self.boot.to_le_bytes());
        bytes.extend_from_slice(&self.instance.to_le_bytes());
        bytes.extend_from_slice(&self.counter.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        let proof = key.prove(&bytes);
        bytes.extend_from_slice(&proof);
        bytes
    }

    /// Decodes a received datagram and verifies its proof.
    ///
    /// # Errors
    /// If it is no datagram of mokv, has another version, is damaged, or was sealed with another key.
    pub fn open(bytes: &[u8], key: &Key) -> Result<Datagram, Rejected> {
        if bytes.len() < OVERHEAD_BYTES || bytes[..4] != MAGIC {
            return Err(Rejected::Noise);
        }
        if bytes[4] != VERSION {
            return Err(Rejected::Version(bytes[4]));
        }
        let (sealed, proof) = bytes.split_at(bytes.len() - PROOF_BYTES);
        if !key.verifies(sealed, proof) {
            return Err(Rejected::Proof);
        }
        let kind = match sealed[5] & 0x7f {
            0 => Kind::Swim,
            1 => Kind::Ask,
            2 => Kind::Answer,
            _ => return Err(Rejected::Noise),
        };
        let number = |at: usize| u64::from_le_bytes(sealed[at..at + 8].try_into().expect("eight bytes"));
        let cluster_id: [u8; 16] = sealed[6..22].try_into().expect("sixteen bytes");
        Ok(Datagram {
            kind,
            cluster_id: (sealed[5] & 0x80 != 0).then_some(ClusterId(cluster_id)),
            sender: NodeId(number(22)),
            boot: number(30),
            instance: u32::from_le_bytes(sealed[38..42].try_into().expect("four bytes")),
            counter: number(42),
            payload: sealed[HEADER_BYTES..].to_vec(),
        })
    }
}

/// Why a datagram was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not a datagram of mokv.
    #[error("it is no datagram of mokv")]
    Noise,
    /// Another version of the envelope.
    #[error("its version is {0} and this build reads {VERSION}")]
    Version(u8),
    /// Damaged, or sealed with another key.
    #[error("it was damaged, or sealed with another cluster key")]
    Proof,
}

/// The key and identity with which a process seals its datagrams, and its counter.
#[derive(Debug)]
pub struct Sealer {
    key: Arc<Key>,
    sender: NodeId,
    boot: u64,
    instance: u32,
    counter: u64,
}

impl Sealer {
    /// The sealer of this node's process in this boot.
    pub fn new(key: Arc<Key>, sender: NodeId, boot: u64) -> Sealer {
        let instance = crate::rt::random::random_u64() as u32;
        Sealer { key, sender, boot, instance, counter: 0 }
    }

    /// Encodes the next datagram.
    pub fn seal(&mut self, kind: Kind, cluster_id: Option<ClusterId>, payload: Vec<u8>) -> Vec<u8> {
        self.counter += 1;
        let Sealer { sender, boot, instance, counter, .. } = *self;
        Datagram { kind, cluster_id, sender, boot, instance, counter, payload }.seal(&self.key)
    }

    /// Random; distinguishes this process from one that runs with a copy of its identity.
    pub fn instance(&self) -> u32 {
        self.instance
    }
}

/// The most senders that are remembered. A real cluster has few; the bound limits invented ones.
const MAX_SENDERS: usize = 1024;
/// How far behind the highest counter a late datagram may be.
const WINDOW: u64 = 64;

/// Accepts every datagram once, by its counter, and only those of the newest boot of each node.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    senders: BTreeMap<NodeId, Seen>,
    clock: u64,
}

#[derive(Debug)]
struct Seen {
    boot: u64,
    instance: u32,
    highest: u64,
    /// Bit n is set if counter `highest - n` was seen.
    bits: u64,
    last_received: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before.
    Fresh,
    /// Seen before, too old to decide, or of an earlier boot.
    Stale,
    /// Two processes run with the same identity and boot counter.
    Twin,
}

impl ReplayGuard {
    /// Checks a datagram for replay and records it.
    pub fn check(&mut self, datagram: &Datagram) -> Verdict {
        self.clock += 1;
        let Datagram { sender, boot, instance, counter, .. } = *datagram;
        let clock = self.clock;
        let begin = Seen { boot, instance, highest: counter, bits: 1, last_received: clock };
        let Some(seen) = self.senders.get_mut(&sender) else {
            self.make_room();
            self.senders.insert(sender, begin);
            return Verdict::Fresh;
        };
        if boot < seen.boot {
            return Verdict::Stale;
        }
        if boot > seen.boot {
            *seen = begin;
            return Verdict::Fresh;
        }
        if instance != seen.instance {
            return Verdict::Twin;
        }
        seen.last_received = clock;
        if counter > seen.highest {
            let ahead = counter - seen.highest;
            seen.bits = if ahead < WINDOW { seen.bits << ahead | 1 } else { 1 };
            seen.highest = counter;
            return Verdict::Fresh;
        }
        let behind = seen.highest - counter;
        if behind >= WINDOW || seen.bits >> behind & 1 == 1 {
            return Verdict::Stale;
        }
        seen.bits |= 1 << behind;
        Verdict::Fresh
    }

    fn make_room(&mut self) {
        if self.senders.len() >= MAX_SENDERS
            && let Some((&quietest, _)) = self.senders.iter().min_by_key(|(_, seen)| seen.last_received)
        {
            self.senders.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagrams() -> impl Strategy<Value = Datagram> {
        let kinds = prop_oneof![Just(Kind::Swim), Just(Kind::Ask), Just(Kind::Answer)];
        let cluster = prop::option::of(any::<[u8; 16]>().prop_map(ClusterId));
        let numbers = (any::<u64>().prop_map(NodeId), any::<u64>(), any::<u32>(), any::<u64>());
        (kinds, cluster, numbers, prop::collection::vec(any::<u8>(), 0..200)).prop_map(
            |(kind, cluster_id, (sender, boot, instance, counter), payload)| Datagram {
                kind,
                cluster_id,
                sender,
                boot,
                instance,
                counter,
                payload,
            },
        )
    }

    proptest! {
        #[test]
        fn a_datagram_survives_its_envelope(datagram in datagrams()) {
            let key = Key::secret(b"key");
            prop_assert_eq!(Datagram::open(&datagram.seal(&key), &key), Ok(datagram));
        }

        #[test]
        fn e9_one_changed_bit_or_another_key_is_noticed(datagram in datagrams(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            for key in [Key::open(), Key::secret(b"key")] {
                let mut bytes = datagram.seal(&key);
                prop_assert_eq!(Datagram::open(&bytes, &Key::secret(b"other")), Err(Rejected::Proof));
                let index = at.index(bytes.len());
                bytes[index] ^= 1_u8 << bit;
                prop_assert!(Datagram::open(&bytes, &key).is_err());
            }
        }

        #[test]
        fn noise_is_rejected_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Datagram::open(&noise, &Key::open()).is_err());
        }

        #[test]
        fn e9_no_datagram_is_let_through_twice(counters in prop::collection::vec(1..200_u64, 0..300)) {
            let mut guard = ReplayGuard::default();
            let mut let_through = std::collections::BTreeSet::new();
            for counter in counters {
                if guard.check(&sent(1, 7, counter)) == Verdict::Fresh {
                    prop_assert!(let_through.insert(counter), "{} twice", counter);
                }
            }
        }
    }

    fn sent(boot: u64, instance: u32, counter: u64) -> Datagram {
        Datagram {
            kind: Kind::Ask,
            cluster_id: None,
            sender: NodeId(5),
            boot,
            instance,
            counter,
            payload: Vec::new(),
        }
    }

    #[test]
    fn e9_late_datagrams_pass_once_and_very_late_ones_never() {
        let mut guard = ReplayGuard::default();
        assert_eq!(guard.check(&sent(1, 7, 100)), Verdict::Fresh);
        assert_eq!(guard.check(&sent(1, 7, 98)), Verdict::Fresh);
        assert_eq!(guard.check(&sent(1, 7, 98)), Verdict::Stale);
        assert_eq!(guard.check(&sent(1, 7, 36)), Verdict::Stale);
    }

    #[test]
    fn e1_an_earlier_boot_is_stale_and_a_second_process_of_the_same_boot_is_a_twin() {
        let mut guard = ReplayGuard::default();
        assert_eq!(guard.check(&sent(2, 7, 1)), Verdict::Fresh);
        assert_eq!(guard.check(&sent(1, 6, 9)), Verdict::Stale);
        assert_eq!(guard.check(&sent(2, 8, 2)), Verdict::Twin);
        assert_eq!(guard.check(&sent(3, 9, 1)), Verdict::Fresh);
    }

    #[test]
    fn made_up_senders_do_not_grow_the_guard() {
        let mut guard = ReplayGuard::default();
        for sender in (0..5000).map(NodeId) {
            guard.check(&Datagram { sender, ..sent(1, 1, 1) });
        }
        assert_eq!(guard.senders.len(), MAX_SENDERS);
    }
}
