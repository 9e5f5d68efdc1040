//! Reads of one key, of listings and of the members, and the wait before each of them.

use std::sync::Arc;

use super::check_key;
use crate::map::Map;
use crate::node_id::NodeId;
use crate::rt::{self, Instant};
use crate::service::{
    Class, Freshness, Get, Got, List, Listed, MemberInfo, MemberList, Members, Operation, ReadAt, Refused,
    Service, Serving,
};

use super::list::Listing;

impl Service {
    /// Waits until this node may answer a read of this consistency.
    ///
    /// # Errors
    /// [`Refused`]: the node does not serve, no leader confirmed the read, or the revision was not reached.
    pub(super) async fn ready_to_read(
        &self,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<&Serving, Refused> {
        let serving = self.context.serving()?;
        match freshness {
            Freshness::Linearizable => {
                let confirmed = serving.consensus.read_barrier(deadline).await;
                confirmed.map_err(|error| self.context.read_failed(error))?;
            }
            Freshness::Stale { min_revision } => {
                let store = serving.consensus.store();
                if store.read().map.revision() < min_revision {
                    rt::sometimes("stale read waited for its revision");
                }
                rt::time::timeout_at(deadline, store.wait_revision(min_revision)).await.map_err(|_| {
                    rt::sometimes("stale read declined for its revision");
                    Refused::Unavailable(format!(
                        "this node has not reached revision {min_revision} before the deadline"
                    ))
                })?;
            }
        }
        // The node may have been quarantined in the meantime.
        self.context.serving()
    }

    /// Waits until this node may be read at `at`.
    ///
    /// # Errors
    /// As [`Service::ready_to_read`], or the revision is not there yet.
    pub(super) async fn ready_at(&self, at: ReadAt, deadline: Instant) -> Result<&Serving, Refused> {
        let revision = match at {
            ReadAt::Present(freshness) => return self.ready_to_read(freshness, deadline).await,
            ReadAt::Revision(revision) => revision,
        };
        let present = |serving: &Serving| serving.consensus.store().read().map.revision();
        let serving = self.context.serving()?;
        if revision <= present(serving) {
            return Ok(serving);
        }
        // Only the leader knows whether it is there.
        let serving = self.ready_to_read(Freshness::Linearizable, deadline).await?;
        match present(serving) {
            present if present < revision => Err(Refused::FutureRevision { revision, present }),
            _ => Ok(serving),
        }
    }
}

/// Returns the revision of a map at which to read.
///
/// # Errors
/// If it is below the earliest one that can be read.
pub(super) fn revision_at(map: &Map, at: ReadAt) -> Result<u64, Refused> {
    match at {
        ReadAt::Present(_) => Ok(map.revision()),
        ReadAt::Revision(revision) if revision < map.floor() => {
            rt::sometimes("read refused because its revision is compacted");
            Err(Refused::Compacted { revision, floor: map.floor() })
        }
        ReadAt::Revision(revision) => Ok(revision),
    }
}

impl Operation for Get {
    type Reply = Got;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Got, Refused> {
        check_key(&self.key)?;
        let serving = service.ready_at(self.at, deadline).await?;
        let (record, revision) = {
            let state = serving.consensus.store().read();
            let revision = revision_at(&state.map, self.at)?;
            (state.map.get_at(&self.key, revision).cloned(), revision)
        };
        match record.and_then(|record| record.entry()) {
            Some(entry) => Ok(Got { key: self.key, entry, revision }),
            None => Err(Refused::NoSuchKey { revision }),
        }
    }
}

impl Operation for List {
    type Reply = Listed;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Listed, Refused> {
        let limits = &service.context.limits;
        let serving = service.ready_at(self.at, deadline).await?;
        // The clone, which is O(1), keeps the revision readable for the whole stream.
        let map = serving.consensus.store().read().map.clone();
        let revision = revision_at(&map, self.at)?;
        let listing = Listing::new(map, revision, self, limits.max_list_bytes);
        Ok(Listed { revision, keys: listing.stream(rt::now() + limits.max_list_time) })
    }
}

impl Operation for Members {
    type Reply = MemberList;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<MemberList, Refused> {
        let (serving, membership) = match self.linearizable {
            true => {
                let serving = service.ready_to_read(Freshness::Linearizable, deadline).await?;
                (serving, Arc::new(serving.consensus.store().read().membership.clone()))
            }
            false => {
                let serving = service.context.serving()?;
                (serving, serving.consensus.membership())
            }
        };
        let leader = serving.consensus.leader();
        let voters: std::collections::BTreeSet<NodeId> = membership.voter_ids().collect();
        let members = (membership.nodes())
            .map(|(id, member)| MemberInfo {
                node_id: *id,
                name: member.name.clone(),
                rpc_addr: serving.address_of(*id, member),
                is_leader: leader == Some(*id),
                is_learner: !voters.contains(id),
            })
            .collect();
        let wanted_size = serving.consensus.store().read().map.settings().wanted_size;
        Ok(MemberList { members, wanted_size })
    }
}
