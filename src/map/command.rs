//! What a log entry says: one type byte, then a protobuf message (`proto/log.proto`).
//!
//! Two nodes that read the same entry differently would grow apart for ever, so reading is strict: an unknown type, a
//! broken payload, and also a payload with a field this version does not know are refused, and the node stops
//! *before* it applies. New semantics get a new type byte, sent only once the cluster version allows it. The bytes are
//! stored and forwarded verbatim; nothing here ever writes an entry anew that it has read.

use bytes::{BufMut as _, Bytes, BytesMut};
use mokv_proto::log;
use prost::Message;
use std::fmt;

/// The meaning of one log entry.
#[derive(Clone, PartialEq)]
pub enum Command {
    /// Raft's own: a new leader's first entry. Changes nothing here.
    Blank,
    /// Raft's own: who belongs to the cluster. Changes nothing here.
    Membership(log::Membership),
    /// Writes a value.
    Set(log::Set),
    /// Deletes a key.
    Delete(log::Delete),
    /// Opens a session, whose id will be this entry's log index.
    OpenSession,
    /// Ends a session and forgets its answers.
    CloseSession {
        /// Its id.
        session: u64,
    },
    /// Changes the replicated settings; what is `None` stays.
    Configure {
        /// Most sessions kept at a time; at least 1, and 0 is taken for 1.
        max_sessions: Option<u64>,
        /// Most bytes of keys and values; 0: no bound.
        max_store_bytes: Option<u64>,
    },
    /// Bars a removed node id from ever coming back.
    Tombstone {
        /// The Raft node id.
        node_id: u64,
        /// The name the node had, for people.
        name: String,
    },
    /// Every member supports this version; entries that need it may follow.
    ClusterVersion(u32),
}

/// A log entry that this version must not guess about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCommand {
    /// The entry has no bytes at all.
    #[error("cannot apply a log entry: it is empty; restore this node from its peers")]
    Empty,
    /// The type byte is not one of ours.
    #[error(
        "cannot apply a log entry: its type {0} is unknown to this version of mokv; upgrade this node to its peers' version"
    )]
    Type(u8),
    /// The payload is broken, or holds what this version does not know.
    #[error(
        "cannot apply a log entry of type {0}: this version of mokv does not understand its payload; upgrade this node to its peers' version, or restore it from them"
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

impl Command {
    /// The bytes of the entry.
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
            Command::Configure { max_sessions, max_store_bytes } => entry(
                CONFIGURE,
                &log::Configure { max_sessions: *max_sessions, max_store_bytes: *max_store_bytes },
            ),
            Command::Tombstone { node_id, name } => {
                entry(TOMBSTONE, &log::Tombstone { node_id: *node_id, name: name.clone() })
            }
            Command::ClusterVersion(version) => {
                entry(CLUSTER_VERSION, &log::ClusterVersion { version: *version })
            }
        }
    }

    /// Reads an entry. Key and value are slices of `bytes`, not copies: a stored value keeps the whole buffer alive
    /// that its entry lies in, so that buffer should hold one entry.
    ///
    /// # Errors
    /// [`UnknownCommand`] for whatever [`encode`](Command::encode) of this version would not write.
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
                let log::Configure { max_sessions, max_store_bytes } = message(type_byte, payload)?;
                Command::Configure { max_sessions, max_store_bytes }
            }
            TOMBSTONE => {
                let log::Tombstone { node_id, name } = message(type_byte, payload)?;
                Command::Tombstone { node_id, name }
            }
            CLUSTER_VERSION => {
                let log::ClusterVersion { version } = message(type_byte, payload)?;
                Command::ClusterVersion(version)
            }
            unknown => return Err(UnknownCommand::Type(unknown)),
        })
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
    // Protobuf skips fields it does not know. Skipping means applying something else than the writer meant, and
    // shows in the length: what was understood would take fewer bytes.
    if message.encoded_len() != length {
        return Err(UnknownCommand::Payload(type_byte));
    }
    Ok(message)
}

// Written by hand, because values never appear in messages or logs.
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
            Command::Configure { max_sessions, max_store_bytes } => f
                .debug_struct("Configure")
                .field("max_sessions", max_sessions)
                .field("max_store_bytes", max_store_bytes)
                .finish(),
            Command::Tombstone { node_id, name } => write!(f, "Tombstone({node_id}, {name:?})"),
            Command::ClusterVersion(version) => write!(f, "ClusterVersion({version})"),
        }
    }
}
