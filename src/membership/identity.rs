//! The identity of a data directory: the file `identity`.
//!
//! The file is written under a temporary name, synced and renamed, and the directory is synced, so a crash leaves the
//! old identity or the new one. Every start raises the boot counter and draws a random incarnation; both are durable
//! before another node learns of them. By both, peers detect copied directories and volumes that were rolled back (see
//! [`crate::incarnations`]). Reads no log and sends nothing.

use std::collections::BTreeMap;
use std::io;

use mokv_proto::gossip as wire;
use prost::Message;

use super::claim::{self, ClusterId, Malformed, Pledge};
use crate::incarnations::{Incarnation, Incarnations, REMEMBERED};
use crate::node_id::NodeId;
use crate::positions::Start;
use crate::rt::disk::DiskRef;
use crate::rt::random;

/// The name of the identity file.
pub const FILE: &str = "identity";
const TEMPORARY: &str = "identity.tmp";
const MAGIC: [u8; 8] = *b"MOKVIDNT";
/// The version of the file format that this build reads and writes.
pub const VERSION: u32 = 2;
const HEADER_BYTES: usize = 20;
/// Stands for the cluster of a wiped directory whose identity could not be read.
const UNKNOWN_CLUSTER: ClusterId = ClusterId([0; 16]);
/// The prefix, before node id and file name, of the files that were set aside for an earlier node of the directory.
const LEFT_PREFIX: &str = "left-";
/// The suffix of unfinished files of any kind, which hold no state.
const SCRATCH_SUFFIX: &str = ".tmp";
/// In bytes. No identity comes near it, so a longer file is not one.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The identity cannot be used. The messages name the remedy.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error(
        "cannot {action} the node's identity in the data directory: {source}; check the disk and start again"
    )]
    Disk {
        /// The action that failed: "read", "write", ...
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file's content is not what a node has written.
    #[error(
        "the node's identity in the data directory is damaged (file '{FILE}': {0}); restore the file, or let the node \
         join again as a new one: 'mokv serve --wipe'"
    )]
    Damaged(&'static str),
    /// A newer build wrote the file.
    #[error(
        "the node's identity in the data directory has format version {0} and this build reads up to {VERSION}; \
         start the newer version of mokv that wrote it"
    )]
    Newer(u32),
    /// The directory belongs to another node.
    #[error(
        "the data directory belongs to node '{found}', not to '{asked}'; set node-name to '{found}', or give \
         '{asked}' a data directory of its own"
    )]
    OtherName {
        /// The name in the directory's identity.
        found: String,
        /// The configured name.
        asked: String,
    },
    /// The configured text is no valid name.
    #[error(
        "'{0}' cannot be a node's name; set node-name to 1 to {max} bytes of printable text",
        max = claim::MAX_NAME_BYTES
    )]
    BadName(String),
    /// There is a log but no identity, so the log's owner is unknown.
    #[error(
        "the data directory holds a log and no identity (file '{FILE}'), so it is unknown whose votes the log holds; \
         restore the file, or let the node join again as a new one: 'mokv serve --wipe'"
    )]
    LogWithoutIdentity,
    /// The log is lost, and with it this node's votes and the writes it acknowledged.
    #[error(
        "the data directory of node '{0}' has lost its log, and with it votes and writes the node acknowledged; \
         restore the log, or let the node join again as a new one: 'mokv serve --wipe'"
    )]
    IdentityWithoutLog(String),
    /// The node has pledged to another cluster before.
    #[error(
        "node '{0}' is already pledged to form another cluster; wipe its data directory to start anew: 'mokv serve \
         --wipe'"
    )]
    PledgedAlready(String),
    /// The node belongs to another cluster.
    #[error(
        "node '{name}' belongs to cluster {own} and cannot adopt cluster {other}; wipe its data directory to move it: \
         'mokv serve --wipe'"
    )]
    OtherCluster {
        /// The node's name.
        name: String,
        /// Its cluster, or the one it has pledged to.
        own: ClusterId,
        /// The cluster it was asked to adopt.
        other: ClusterId,
    },
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Disk { action, source }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    node_id: NodeId,
    name: String,
    boot: u64,
    cluster_id: Option<ClusterId>,
    log_formatted: bool,
    pledge: Option<Pledge>,
    left: bool,
    quarantined: bool,
    contradiction: Option<wire::Contradiction>,
    former_cluster_id: Option<ClusterId>,
    incarnations: BTreeMap<NodeId, Incarnations>,
    /// Zero if an older version wrote the file.
    incarnation: u64,
    past: Vec<u64>,
    starts: Vec<Start>,
    /// Empty if there is none, or if an older version wrote the file.
    rpc_addr: String,
}

/// The identity of a started node. Every change is durable when its method returns; after an error the node must
/// stop, because the file may hold either state.
#[derive(Debug)]
pub struct Identity {
    disk: DiskRef,
    record: Record,
}

impl Identity {
    /// Reads the directory's identity, or creates one in an empty directory, and raises the boot counter. The data of a
    /// node that has left its cluster is set aside first (see [`Identity::set_aside`]).
    ///
    /// `is_log_file` returns `true` for the name of a file of the log.
    ///
    /// # Errors
    /// If the disk fails, the file is damaged or a newer build wrote it, the node has another name, or only one of
    /// identity and log exists.
    pub async fn load_or_create(
        disk: DiskRef,
        name: &str,
        is_log_file: impl Fn(&str) -> bool,
    ) -> Result<Identity, IdentityError> {
        if !claim::is_name(name) {
            return Err(IdentityError::BadName(name.escape_default().to_string()));
        }
        let files = disk.list().await.map_err(failed("look for"))?;
        let log_exists = files.iter().any(|file| is_log_file(file));
        if !files.iter().any(|file| file == FILE) {
            if log_exists {
                return Err(IdentityError::LogWithoutIdentity);
            }
            let record = Record::new(name, None);
            record.save(&disk).await?;
            return Ok(Identity { disk, record });
        }
        let record = Record::load(&disk).await?;
        if record.name != name {
            return Err(IdentityError::OtherName { found: record.name, asked: name.to_string() });
        }
        let mut identity = Identity { disk, record };
        if identity.record.left {
            return identity.set_aside().await;
        }
        if identity.record.log_formatted && !log_exists {
            return Err(IdentityError::IdentityWithoutLog(identity.record.name));
        }
        identity.change(Record::start).await?;
        Ok(identity)
    }

    /// Reads the identity of a node that is not running. Nothing is raised or set aside.
    ///
    /// # Errors
    /// If there is no identity, it is damaged, or the disk fails.
    pub async fn read(disk: DiskRef) -> Result<Identity, IdentityError> {
        let record = Record::load(&disk).await?;
        Ok(Identity { disk, record })
    }

    /// A new node's identity, not written yet. For a directory that is filled before it has an identity; it becomes a
    /// node's with [`Identity::establish`].
    ///
    /// # Errors
    /// If the name is not valid.
    pub fn of_member(disk: DiskRef, name: &str, cluster_id: ClusterId) -> Result<Identity, IdentityError> {
        if !claim::is_name(name) {
            return Err(IdentityError::BadName(name.escape_default().to_string()));
        }
        let mut record = Record::new(name, None);
        (record.cluster_id, record.log_formatted) = (Some(cluster_id), true);
        Ok(Identity { disk, record })
    }

    /// Makes the identity durable. The log must be durable before.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn establish(&self) -> Result<(), IdentityError> {
        self.record.save(&self.disk).await
    }

    /// The Raft node id, never zero.
    pub fn node_id(&self) -> NodeId {
        self.record.node_id
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The boot counter: how often this node was started, this start included.
    pub fn boot(&self) -> u64 {
        self.record.boot
    }

    /// The random number drawn at this start.
    pub fn incarnation(&self) -> u64 {
        self.record.incarnation
    }

    /// The incarnations of earlier starts, the latest first, at most [`REMEMBERED`].
    pub fn past(&self) -> &[u64] {
        &self.record.past
    }

    /// What this start and earlier ones found on the disk, the latest first, at most [`REMEMBERED`].
    pub fn starts(&self) -> &[Start] {
        &self.record.starts
    }

    /// The RPC address advertised by the last start that noted one; `None` if there was none.
    pub fn rpc_addr(&self) -> Option<&str> {
        Some(self.record.rpc_addr.as_str()).filter(|address| !address.is_empty())
    }

    /// Notes what this start found and the RPC address it advertises. Must be durable before the node votes, because
    /// the next start may find more.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn note_start(&mut self, start: Start, rpc_addr: &str) -> Result<(), IdentityError> {
        self.change(|record| {
            record.rpc_addr = rpc_addr.to_owned();
            record.starts.insert(0, start);
            record.starts.truncate(REMEMBERED);
        })
        .await
    }

    /// The cluster this node belongs to; `None` if it belongs to none yet.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.record.cluster_id
    }

    /// The cluster that an earlier node of this directory belonged to. A node with a former cluster joins, and never
    /// forms one.
    pub fn former_cluster_id(&self) -> Option<ClusterId> {
        self.record.former_cluster_id
    }

    /// Returns `true` if the log was created: from then on the node does not start without it.
    pub fn log_formatted(&self) -> bool {
        self.record.log_formatted
    }

    /// The pledge this node has made, if any.
    pub fn pledge(&self) -> Option<&Pledge> {
        self.record.pledge.as_ref()
    }

    /// Returns `true` if this node was removed from its cluster: the next start sets its data aside.
    pub fn has_left(&self) -> bool {
        self.record.left
    }

    /// Returns `true` if this node is quarantined.
    pub fn quarantined(&self) -> bool {
        self.record.quarantined
    }

    /// Where a leader's log contradicted entries that this node knows to be committed.
    pub fn contradiction(&self) -> Option<&wire::Contradiction> {
        self.record.contradiction.as_ref()
    }

    /// What this node last recorded of the other members' starts, by node id.
    pub fn incarnations(&self) -> &BTreeMap<NodeId, Incarnations> {
        &self.record.incarnations
    }

    /// Records what is known of the other members' starts.
    ///
    /// # Errors
    /// If the disk fails. If it is full, nothing has changed.
    pub async fn remember(
        &mut self,
        incarnations: BTreeMap<NodeId, Incarnations>,
    ) -> Result<(), IdentityError> {
        self.change(|record| record.incarnations = incarnations).await
    }

    /// Makes this node belong to the cluster, permanently.
    ///
    /// # Errors
    /// If it belongs to or is pledged to another cluster, or the disk fails.
    pub async fn adopt_cluster(&mut self, cluster_id: ClusterId) -> Result<(), IdentityError> {
        let own = self.record.cluster_id.or(self.record.pledge.as_ref().map(|pledge| pledge.cluster_id));
        if let Some(own) = own
            && own != cluster_id
        {
            return Err(IdentityError::OtherCluster {
                name: self.record.name.clone(),
                own,
                other: cluster_id,
            });
        }
        self.change(|record| record.cluster_id = Some(cluster_id)).await
    }

    /// Records that the log exists. Call it once the log's first file is durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn mark_formatted(&mut self) -> Result<(), IdentityError> {
        self.change(|record| record.log_formatted = true).await
    }

    /// Pledges to form this cluster and no other. Repeating the same pledge changes nothing.
    ///
    /// # Errors
    /// If this node has pledged or belongs to another cluster, or the disk fails.
    pub async fn pledge_to(&mut self, pledge: Pledge) -> Result<(), IdentityError> {
        let bound = self.record.cluster_id.is_some_and(|own| own != pledge.cluster_id)
            || self.record.pledge.as_ref().is_some_and(|own| *own != pledge);
        if bound {
            return Err(IdentityError::PledgedAlready(self.record.name.clone()));
        }
        assert!(pledge.includes(self.record.node_id), "a node pledges only to a set that includes it");
        self.change(|record| record.pledge = Some(pledge)).await
    }

    /// Marks this node as removed from its cluster: the next start sets its data aside.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn mark_left(&mut self) -> Result<(), IdentityError> {
        self.change(|record| record.left = true).await
    }

    /// Quarantines this node until it is wiped.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn quarantine(&mut self) -> Result<(), IdentityError> {
        self.change(|record| record.quarantined = true).await
    }

    /// Records that a leader's log contradicted entries that this node knows to be committed. It stays for as long as
    /// the data does.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn contradict(&mut self, contradiction: wire::Contradiction) -> Result<(), IdentityError> {
        self.change(|record| record.contradiction = Some(contradiction)).await
    }

    /// Keeps all data of this node under names that begin with `left-<node id>-`, deletes unfinished files, and starts
    /// over as a new node of the same name, which joins but never forms a cluster. After a crash on the way the next
    /// start completes it: the old identity, marked as left, stays until everything else is renamed.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn set_aside(mut self) -> Result<Identity, IdentityError> {
        self.change(|record| record.left = true).await?;
        let prefix = format!("{LEFT_PREFIX}{}-", self.record.node_id);
        write_whole(&self.disk, &format!("{prefix}{FILE}"), self.record.encode())
            .await
            .map_err(failed("set aside"))?;
        let mut files = self.disk.list().await.map_err(failed("set aside"))?;
        files.sort();
        for file in files {
            if file == FILE || file.starts_with(LEFT_PREFIX) {
                continue;
            }
            if file.ends_with(SCRATCH_SUFFIX) {
                self.disk.remove(&file).await.map_err(failed("set aside the data of"))?;
            } else {
                let kept = format!("{prefix}{file}");
                self.disk.rename(&file, &kept).await.map_err(failed("set aside the data of"))?;
            }
        }
        // The renames must be durable before the new identity is, or the new node would take an old log for its own.
        self.disk.sync_dir().await.map_err(failed("set aside"))?;
        let former = self.record.cluster_id.or(self.record.former_cluster_id);
        self.record = Record::new(&self.record.name, former);
        self.record.save(&self.disk).await?;
        Ok(self)
    }

    /// Deletes all data and starts over as a new node, which joins but does not form a cluster if the directory was, or
    /// may have been, part of one. Also accepts a directory that [`Identity::load_or_create`] rejects, unless it
    /// belongs to another node. After a crash on the way, wipe again.
    ///
    /// # Errors
    /// If the disk fails, or the directory belongs to another node.
    pub async fn wipe(disk: DiskRef, name: &str) -> Result<Identity, IdentityError> {
        if !claim::is_name(name) {
            return Err(IdentityError::BadName(name.escape_default().to_string()));
        }
        let files = disk.list().await.map_err(failed("look for"))?;
        let former = if files.is_empty() {
            None
        } else {
            match Record::load(&disk).await {
                Ok(record) if record.name != name => {
                    return Err(IdentityError::OtherName { found: record.name, asked: name.to_string() });
                }
                Ok(record) => record.cluster_id.or(record.former_cluster_id),
                // The former cluster cannot be determined, so the directory counts as part of one.
                Err(_) => Some(UNKNOWN_CLUSTER),
            }
        };
        for file in files.iter().filter(|file| *file != FILE) {
            disk.remove(file).await.map_err(failed("wipe the data of"))?;
        }
        // The old identity is replaced last: alone it shows that data is missing; without it the directory would be
        // empty and free to form a cluster.
        disk.sync_dir().await.map_err(failed("wipe the data of"))?;
        let record = Record::new(name, former);
        record.save(&disk).await?;
        Ok(Identity { disk, record })
    }

    async fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), IdentityError> {
        let mut record = self.record.clone();
        change(&mut record);
        if record != self.record {
            record.save(&self.disk).await?;
            self.record = record;
        }
        Ok(())
    }
}

/// The name of a file before its node was set aside; `None` if the file was not set aside.
pub fn without_left_prefix(name: &str) -> Option<&str> {
    let (id, name) = name.strip_prefix(LEFT_PREFIX)?.split_at_checked(16)?;
    u64::from_str_radix(id, 16).ok()?;
    name.strip_prefix('-')
}

impl Record {
    fn new(name: &str, former_cluster_id: Option<ClusterId>) -> Record {
        Record {
            node_id: NodeId(random::random_nonzero_u64()),
            name: name.to_string(),
            boot: 1,
            cluster_id: None,
            log_formatted: false,
            pledge: None,
            left: false,
            quarantined: false,
            contradiction: None,
            former_cluster_id,
            incarnations: BTreeMap::new(),
            incarnation: random::random_nonzero_u64(),
            past: Vec::new(),
            starts: Vec::new(),
            rpc_addr: String::new(),
        }
    }

    /// Begins a new incarnation.
    fn start(&mut self) {
        self.boot += 1;
        if self.incarnation != 0 {
            self.past.insert(0, self.incarnation);
            self.past.truncate(REMEMBERED);
        }
        self.incarnation = random::random_nonzero_u64();
    }

    async fn load(disk: &DiskRef) -> Result<Record, IdentityError> {
        let file = disk.open(FILE).await.map_err(failed("open"))?;
        let length = file.len().await.map_err(failed("read"))?;
        if length > MAX_FILE_BYTES {
            return Err(IdentityError::Damaged("it is too long"));
        }
        let bytes = file.read_at(0, length as usize).await.map_err(failed("read"))?;
        Record::decode(&bytes)
    }

    async fn save(&self, disk: &DiskRef) -> Result<(), IdentityError> {
        write_whole(disk, FILE, self.encode()).await.map_err(failed("write"))
    }

    /// Magic, version, length, checksum (of these three and the message), message.
    fn encode(&self) -> Vec<u8> {
        let message = wire::Identity {
            node_id: self.node_id.0,
            name: self.name.clone(),
            boot: self.boot,
            cluster_id: claim::id_to_wire(self.cluster_id),
            log_formatted: self.log_formatted,
            pledge: self.pledge.as_ref().map(claim::pledge_to_wire),
            left: self.left,
            quarantined: self.quarantined,
            contradiction: self.contradiction,
            former_cluster_id: claim::id_to_wire(self.former_cluster_id),
            incarnations: self
                .incarnations
                .iter()
                .map(|(&node_id, incarnations)| incarnations_to_wire(node_id, incarnations))
                .collect(),
            incarnation: self.incarnation,
            past: self.past.clone(),
            starts: self.starts.iter().map(|&start| start.into()).collect(),
            rpc_addr: self.rpc_addr.clone(),
        }
        .encode_to_vec();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &message);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&message);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Record, IdentityError> {
        if bytes.len() < HEADER_BYTES {
            return Err(IdentityError::Damaged("it is too short"));
        }
        let (header, message) = bytes.split_at(HEADER_BYTES);
        if header[..8] != MAGIC {
            return Err(IdentityError::Damaged("it does not begin as an identity does"));
        }
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        // The checksum is verified first: a flipped bit in the version is damage, not a newer build.
        if crc32c::crc32c_append(crc32c::crc32c(&header[..16]), message) != word(16) {
            return Err(IdentityError::Damaged("its checksum does not match"));
        }
        if word(8) > VERSION {
            return Err(IdentityError::Newer(word(8)));
        }
        if word(8) == 0 || word(12) as usize != message.len() {
            return Err(IdentityError::Damaged("its header is invalid"));
        }
        let message = wire::Identity::decode(message)
            .map_err(|_| IdentityError::Damaged("its content is not an identity"))?;
        Record::from_wire(message).map_err(|Malformed(what)| IdentityError::Damaged(what))
    }

    fn from_wire(message: wire::Identity) -> Result<Record, Malformed> {
        if message.node_id == 0 || message.boot == 0 || !claim::is_name(&message.name) {
            return Err(Malformed("its node id, boot counter or name is missing"));
        }
        Ok(Record {
            node_id: NodeId(message.node_id),
            name: message.name,
            boot: message.boot,
            cluster_id: claim::id_from_wire(&message.cluster_id)?,
            log_formatted: message.log_formatted,
            pledge: message.pledge.map(claim::pledge_from_wire).transpose()?,
            left: message.left,
            quarantined: message.quarantined,
            contradiction: message.contradiction,
            former_cluster_id: claim::id_from_wire(&message.former_cluster_id)?,
            incarnations: message.incarnations.into_iter().map(incarnations_from_wire).collect(),
            incarnation: message.incarnation,
            past: message.past,
            starts: message.starts.iter().map(Start::from).collect(),
            rpc_addr: message.rpc_addr,
        })
    }
}

fn incarnations_to_wire(node_id: NodeId, incarnations: &Incarnations) -> wire::Incarnations {
    let met = incarnations.met.unwrap_or(Incarnation { boot: 0, id: 0 });
    wire::Incarnations { node_id: node_id.0, boot: incarnations.reported, met: met.boot, incarnation: met.id }
}

fn incarnations_from_wire(incarnations: wire::Incarnations) -> (NodeId, Incarnations) {
    let met = Incarnation { boot: incarnations.met, id: incarnations.incarnation };
    (
        NodeId(incarnations.node_id),
        Incarnations { reported: incarnations.boot, met: (met.boot > 0).then_some(met) },
    )
}

/// Replaces a file as a whole: after a crash it has the old content or the new.
async fn write_whole(disk: &DiskRef, name: &str, bytes: Vec<u8>) -> io::Result<()> {
    // A crash may have left a temporary file.
    if disk.list().await?.iter().any(|file| file == TEMPORARY) {
        disk.remove(TEMPORARY).await?;
    }
    let written = async {
        let file = disk.create(TEMPORARY).await?;
        file.write_and_sync(0, bytes.into()).await?;
        disk.rename(TEMPORARY, name).await
    };
    if let Err(error) = written.await {
        // On a full disk the node goes on. If the file cannot be removed now, the next write removes it.
        let _ = disk.remove(TEMPORARY).await;
        return Err(error);
    }
    // Without this, a power failure may undo the rename.
    disk.sync_dir().await
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
