//! The encoding of a log entry: one type byte, then a protobuf message (`proto/mokv/internal/log.proto`).
//!
//! Two nodes that decode the same entry differently would diverge for ever, so decoding is strict: a node rejects an
//! unknown type, a malformed payload, and a payload with a field that this version does not know, and stops *before* it
//! applies the entry. New semantics get a new type byte, which is sent only once the cluster version allows it. The
//! bytes are stored and forwarded verbatim; an entry that was read is never encoded again.

use super::DigestKey;
use crate::node_id::NodeId;
use bytes::{BufMut as _, Bytes, BytesMut};
use mokv_proto::log;
use prost::Message;
use std::fmt;
use std::num::NonZeroU64;

use crate::replicated_settings::{SettingsChange, age_of_seconds, seconds_of_age};
use crate::transaction::Transaction;

/// One decoded log entry.
#[derive(Clone, PartialEq)]
pub enum Command {
    /// Raft's own: a new leader's first entry. Does not change the map.
    Blank,
    /// Raft's own: the members of the cluster. Does not change the map.
    Membership(log::Membership),
    /// Writes a value.
    Set(log::Set),
    /// Deletes a key.
    Delete(log::Delete),
    /// Opens a session; its id is this entry's log index.
    OpenSession,
    /// Closes a session and discards its answers.
    CloseSession {
        /// The session's id.
        session: u64,
    },
    /// Changes the bounds among the replicated settings. A maximum of 0 sessions is taken as 1.
    Configure(SettingsChange),
    /// Excludes a removed node id for ever.
    Tombstone {
        /// The Raft node id.
        node_id: NodeId,
        /// The node's name, for display only.
        name: String,
    },
    /// Every member supports this version; entries that require it may follow.
    ClusterVersion(u32),
    /// The number of voters that the cluster is to have; 0: as many as join. Valid from
    /// [`Command::WANTED_SIZE_VERSION`] on.
    WantedSize(u32),
    /// The key with which displayed digests are computed; the first one applied stays. Valid from
    /// [`Command::DIGEST_KEY_VERSION`] on.
    DigestKey(DigestKey),
    /// Revisions below this one cannot be read any more.
    Compact {
        /// The earliest revision that can be read from here on.
        revision: u64,
    },
    /// Removes versions that no revision shows any more, more of them than other entries do.
    Prune,
    /// Tests conditions, and reads and writes several keys.
    Transaction {
        /// What is tested and done.
        transaction: Transaction,
        /// `None`: applied once for each entry.
        session: Option<log::SessionWrite>,
    },
}

/// A log entry that this version cannot decode and must not guess at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCommand {
    /// The entry has no bytes at all.
    #[error("cannot apply a log entry: it is empty; restore this node from its peers")]
    Empty,
    /// The type byte is unknown to this version.
    #[error(
        "cannot apply a log entry: its type {0} is unknown to this version of mokv; \
         upgrade this node to its peers' version"
    )]
    Type(u8),
    /// The payload is malformed, or has fields that this version does not know.
    #[error(
        "cannot apply a log entry of type {0}: this version of mokv does not understand its \
         payload; upgrade this node to its peers' version, or restore it from them"
    )]
    Payload(u8),
}

const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 1;
const SET: u8 = 2;
const DELETE: u8 = 3;
const OPEN_SESSION: u8 = 4;
const CLOSE_SESSION: u8 = 5;
const CONFIGURE: u8 = 6;
const TOMBSTONE: u8 = 7;
const CLUSTER_VERSION: u8 = 8;
const WANTED_SIZE: u8 = 9;
const DIGEST_KEY: u8 = 10;
const COMPACT: u8 = 11;
const PRUNE: u8 = 12;
const TRANSACTION: u8 = 13;

impl Command {
    /// The first cluster version whose members all know [`Command::WantedSize`].
    pub const WANTED_SIZE_VERSION: u32 = 2;
    /// The first cluster version whose members all know [`Command::DigestKey`].
    pub const DIGEST_KEY_VERSION: u32 = 3;

    /// The encoded entry.
    pub fn encode(&self) -> Bytes {
        match self {
            Command::Blank => Bytes::from_static(&[BLANK]),
            Command::Membership(membership) => entry(MEMBERSHIP, membership),
            Command::Set(set) => entry(SET, set),
            Command::Delete(delete) => entry(DELETE, delete),
            Command::OpenSession => entry(OPEN_SESSION, &log::OpenSession {}),
            Command::CloseSession { session } => {
                entry(CLOSE_SESSION, &log::CloseSession { session: *session })
            }
            Command::Configure(change) => entry(CONFIGURE, &configure(change)),
            Command::Tombstone { node_id, name } => {
                entry(TOMBSTONE, &log::Tombstone { node_id: node_id.0, name: name.clone() })
            }
            Command::ClusterVersion(version) => {
                entry(CLUSTER_VERSION, &log::ClusterVersion { version: *version })
            }
            Command::WantedSize(voters) => entry(WANTED_SIZE, &log::WantedSize { voters: *voters }),
            Command::DigestKey(key) => {
                entry(DIGEST_KEY, &log::DigestKey { key: Bytes::copy_from_slice(key.bytes()) })
            }
            Command::Compact { revision } => entry(COMPACT, &log::Compact { revision: *revision }),
            Command::Prune => entry(PRUNE, &log::Prune {}),
            Command::Transaction { transaction, session } => entry(
                TRANSACTION,
                &log::Transaction { session: *session, choice: Some(transaction.encode()) },
            ),
        }
    }

    /// Whether an entry is one of Raft's own, which a node must decode before the entry is applied.
    pub fn is_rafts_own(bytes: &Bytes) -> bool {
        matches!(bytes.first(), Some(&(BLANK | MEMBERSHIP)))
    }

    /// Whether an entry is a tombstone: only the present leader decides on one, by the state with which it leads.
    pub fn is_a_tombstone(bytes: &Bytes) -> bool {
        bytes.first() == Some(&TOMBSTONE)
    }

    /// Whether an entry carries a client's value: such entries a cluster without free space rejects.
    pub fn carries_a_value(bytes: &Bytes) -> bool {
        match bytes.first() {
            Some(&SET) => true,
            Some(&TRANSACTION) => match Command::decode(bytes) {
                Ok(Command::Transaction { transaction, .. }) => transaction.may_set(),
                _ => false,
            },
            _ => false,
        }
    }

    /// Decodes an entry. Key and value are slices of `bytes`, not copies: a stored value keeps the whole buffer of its
    /// entry in memory, so that buffer should hold one entry only.
    ///
    /// # Errors
    /// [`UnknownCommand`] for everything that [`encode`](Command::encode) of this version would not write.
    pub fn decode(bytes: &Bytes) -> Result<Command, UnknownCommand> {
        let &type_byte = bytes.first().ok_or(UnknownCommand::Empty)?;
        let payload = bytes.slice(1..);
        Ok(match type_byte {
            BLANK if payload.is_empty() => Command::Blank,
            BLANK => return Err(UnknownCommand::Payload(BLANK)),
            MEMBERSHIP => Command::Membership(message(type_byte, payload)?),
            SET => Command::Set(message(type_byte, payload)?),
            DELETE => Command::Delete(message(type_byte, payload)?),
            OPEN_SESSION => {
                let log::OpenSession {} = message(type_byte, payload)?;
                Command::OpenSession
            }
            CLOSE_SESSION => {
                let log::CloseSession { session } = message(type_byte, payload)?;
                Command::CloseSession { session }
            }
            CONFIGURE => {
                let configure: log::Configure = message(type_byte, payload)?;
                Command::Configure(settings_change(&configure))
            }
            TOMBSTONE => {
                let log::Tombstone { node_id, name } = message(type_byte, payload)?;
                Command::Tombstone { node_id: NodeId(node_id), name }
            }
            CLUSTER_VERSION => {
                let log::ClusterVersion { version } = message(type_byte, payload)?;
                Command::ClusterVersion(version)
            }
            WANTED_SIZE => {
                let log::WantedSize { voters } = message(type_byte, payload)?;
                Command::WantedSize(voters)
            }
            DIGEST_KEY => {
                let log::DigestKey { key } = message(type_byte, payload)?;
                let key = key.as_ref().try_into().map_err(|_| UnknownCommand::Payload(type_byte))?;
                Command::DigestKey(DigestKey::new(key))
            }
            COMPACT => {
                let log::Compact { revision } = message(type_byte, payload)?;
                Command::Compact { revision }
            }
            PRUNE => {
                let log::Prune {} = message(type_byte, payload)?;
                Command::Prune
            }
            TRANSACTION => {
                let log::Transaction { session, choice } = message(type_byte, payload)?;
                let transaction = choice.and_then(|choice| Transaction::decode(choice).ok());
                let transaction = transaction.ok_or(UnknownCommand::Payload(type_byte))?;
                Command::Transaction { transaction, session }
            }
            unknown => return Err(UnknownCommand::Type(unknown)),
        })
    }
}

// In entries, 0 stands for the absence of a bound.

fn configure(change: &SettingsChange) -> log::Configure {
    let SettingsChange {
        max_sessions,
        max_store_bytes,
        history_max_age,
        history_max_bytes,
        history_min_revisions,
        max_transaction_changes,
        max_transaction_bytes,
    } = *change;
    let bytes = |bound: Option<Option<NonZeroU64>>| bound.map(|bytes| bytes.map_or(0, NonZeroU64::get));
    log::Configure {
        max_sessions,
        max_store_bytes: bytes(max_store_bytes),
        history_max_age_seconds: history_max_age.map(seconds_of_age),
        history_max_bytes: bytes(history_max_bytes),
        history_min_revisions,
        max_transaction_changes,
        max_transaction_bytes,
    }
}

fn settings_change(configure: &log::Configure) -> SettingsChange {
    let log::Configure {
        max_sessions,
        max_store_bytes,
        history_max_age_seconds,
        history_max_bytes,
        history_min_revisions,
        max_transaction_changes,
        max_transaction_bytes,
    } = *configure;
    SettingsChange {
        max_sessions,
        max_store_bytes: max_store_bytes.map(NonZeroU64::new),
        history_max_age: history_max_age_seconds.map(age_of_seconds),
        history_max_bytes: history_max_bytes.map(NonZeroU64::new),
        history_min_revisions,
        max_transaction_changes,
        max_transaction_bytes,
    }
}

fn entry(type_byte: u8, payload: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + payload.encoded_len());
    bytes.put_u8(type_byte);
    payload.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn message<M: Message + Default>(type_byte: u8, payload: Bytes) -> Result<M, UnknownCommand> {
    let length = payload.len();
    let message = M::decode(payload).map_err(|_| UnknownCommand::Payload(type_byte))?;
    // Protobuf skips unknown fields. A node that skips one would apply something other than what the writer meant. The
    // length shows it: the fields that were decoded take fewer bytes.
    if message.encoded_len() != length {
        return Err(UnknownCommand::Payload(type_byte));
    }
    Ok(message)
}

// Written by hand, because values and digest keys must not appear in messages or logs.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Blank => f.write_str("Blank"),
            Command::Membership(membership) => f.debug_tuple("Membership").field(membership).finish(),
            Command::Set(set) => f
                .debug_struct("Set")
                .field("key", &set.key)
                .field("value_bytes", &set.value.len())
                .field("if_revision", &set.if_revision)
                .field("session", &set.session)
                .finish(),
            Command::Delete(delete) => f.debug_tuple("Delete").field(delete).finish(),
            Command::OpenSession => f.write_str("OpenSession"),
            Command::CloseSession { session } => write!(f, "CloseSession({session})"),
            Command::Configure(change) => f.debug_tuple("Configure").field(change).finish(),
            Command::Tombstone { node_id, name } => write!(f, "Tombstone({node_id}, {name:?})"),
            Command::ClusterVersion(version) => write!(f, "ClusterVersion({version})"),
            Command::WantedSize(voters) => write!(f, "WantedSize({voters})"),
            Command::DigestKey(_) => f.write_str("DigestKey"),
            Command::Compact { revision } => write!(f, "Compact({revision})"),
            Command::Prune => f.write_str("Prune"),
            Command::Transaction { transaction, session } => {
                f.debug_tuple("Transaction").field(transaction).field(session).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::txn::testing::transaction;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..50).prop_map(Bytes::from)
    }

    fn session() -> impl Strategy<Value = Option<log::SessionWrite>> {
        option::of(any::<(u64, u64, u64)>().prop_map(|(session, sequence, lowest_unanswered)| {
            log::SessionWrite { session, sequence, lowest_unanswered }
        }))
    }

    fn membership() -> impl Strategy<Value = log::Membership> {
        let member = any::<(String, String)>().prop_map(|(name, rpc_addr)| log::Member { name, rpc_addr });
        let voters = vec(any::<u64>(), 0..4).prop_map(|ids| log::NodeSet { ids });
        (vec(voters, 0..3), prop::collection::btree_map(any::<u64>(), member, 0..4))
            .prop_map(|(voter_sets, nodes)| log::Membership { voter_sets, nodes })
    }

    fn command() -> impl Strategy<Value = Command> {
        let if_revision = || option::of(any::<u64>());
        prop_oneof![
            Just(Command::Blank),
            membership().prop_map(Command::Membership),
            (bytes(), bytes(), if_revision(), session()).prop_map(|(key, value, if_revision, session)| {
                Command::Set(log::Set { key, value, if_revision, session })
            }),
            (bytes(), if_revision(), session()).prop_map(|(key, if_revision, session)| {
                Command::Delete(log::Delete { key, if_revision, session })
            }),
            Just(Command::OpenSession),
            any::<u64>().prop_map(|session| Command::CloseSession { session }),
            any::<[Option<u64>; 7]>().prop_map(|numbers| {
                let [max_sessions, max_store_bytes, age, history, revisions, changes, bytes] = numbers;
                Command::Configure(SettingsChange {
                    max_sessions,
                    max_store_bytes: max_store_bytes.map(NonZeroU64::new),
                    history_max_age: age.map(age_of_seconds),
                    history_max_bytes: history.map(NonZeroU64::new),
                    history_min_revisions: revisions,
                    max_transaction_changes: changes,
                    max_transaction_bytes: bytes,
                })
            }),
            any::<(u64, String)>().prop_map(|(id, name)| Command::Tombstone { node_id: NodeId(id), name }),
            any::<u32>().prop_map(Command::ClusterVersion),
            any::<u32>().prop_map(Command::WantedSize),
            any::<[u8; DigestKey::BYTES]>().prop_map(|key| Command::DigestKey(DigestKey::new(key))),
            any::<u64>().prop_map(|revision| Command::Compact { revision }),
            Just(Command::Prune),
            (transaction(), session())
                .prop_map(|(transaction, session)| Command::Transaction { transaction, session }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn what_is_read_would_be_written_with_as_many_bytes(bytes in vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(command.encode().len(), bytes.len());
            }
        }

        #[test]
        fn a_field_of_the_future_is_refused(
            command in command(),
            number in 100..1000u32,
            value in any::<u64>(),
        ) {
            let mut bytes = command.encode().to_vec();
            prost::encoding::uint64::encode(number, &value, &mut bytes);
            prop_assert_eq!(Command::decode(&bytes.clone().into()), Err(UnknownCommand::Payload(bytes[0])));
        }

        #[test]
        fn a_type_of_the_future_is_refused(type_byte in TRANSACTION + 1..=u8::MAX, payload in vec(any::<u8>(), 0..20)) {
            let bytes = [&[type_byte], payload.as_slice()].concat();
            prop_assert_eq!(Command::decode(&bytes.into()), Err(UnknownCommand::Type(type_byte)));
        }
    }

    #[test]
    fn an_empty_entry_is_refused() {
        assert_eq!(Command::decode(&Bytes::new()), Err(UnknownCommand::Empty));
    }

    #[test]
    fn the_format_is_for_ever() {
        let set = Command::Set(log::Set {
            key: "k".into(),
            value: "v".into(),
            if_revision: Some(0),
            session: Some(log::SessionWrite { session: 1, sequence: 2, lowest_unanswered: 1 }),
        });
        assert_eq!(&set.encode()[..], b"\x02\x0a\x01k\x12\x01v\x18\x00\x22\x06\x08\x01\x10\x02\x18\x01");
        assert_eq!(&Command::Blank.encode()[..], [0]);
        assert_eq!(&Command::OpenSession.encode()[..], [4]);
        assert_eq!(&Command::ClusterVersion(2).encode()[..], [8, 8, 2]);
        assert_eq!(&Command::WantedSize(3).encode()[..], [9, 8, 3]);
        let key = Command::DigestKey(DigestKey::new([7; 32]));
        assert_eq!(&key.encode()[..], [&[10, 10, 32][..], &[7; 32]].concat());
        assert_eq!(&Command::Compact { revision: 9 }.encode()[..], [11, 8, 9]);
        assert_eq!(&Command::Prune.encode()[..], [12]);
    }

    #[test]
    fn a_digest_key_of_another_length_is_refused() {
        for bytes in [0, 31, 33] {
            let key = entry(DIGEST_KEY, &log::DigestKey { key: vec![7; bytes].into() });
            assert_eq!(Command::decode(&key), Err(UnknownCommand::Payload(DIGEST_KEY)), "{bytes} bytes");
        }
    }

    #[test]
    fn key_and_value_are_not_copied() {
        let set = log::Set { key: vec![1; 100].into(), value: vec![2; 1000].into(), ..Default::default() };
        let entry = Command::Set(set).encode();
        let Ok(Command::Set(read)) = Command::decode(&entry) else { panic!("a set") };
        let lies_in_the_entry = |slice: &Bytes| entry.as_ptr_range().contains(&slice.as_ptr());
        assert!(lies_in_the_entry(&read.key) && lies_in_the_entry(&read.value));
    }

    #[test]
    fn a_value_never_shows() {
        let set = log::Set { key: "name".into(), value: "secret".into(), ..Default::default() };
        let shown = format!("{:?}", Command::Set(set));
        assert!(shown.contains("name") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_digest_key_never_shows() {
        let key = DigestKey::new([0xab; DigestKey::BYTES]);
        let shown = format!("{key:?} {:?}", Command::DigestKey(key)).to_lowercase();
        assert_eq!(shown, "digestkey digestkey");
    }
}
