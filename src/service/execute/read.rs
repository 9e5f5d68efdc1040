//! Reads of one key, of listings and of the members, and the wait before each of them.

use std::sync::Arc;

use super::check_key;
use crate::node_id::NodeId;
use crate::rt::{self, Instant};
use crate::service::{
    Class, Freshness, Get, Got, List, ListAt, Listed, MemberInfo, MemberList, Members, Operation, Refused,
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
}

impl Operation for Get {
    type Reply = Got;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Got, Refused> {
        check_key(&self.key)?;
        let serving = service.ready_to_read(self.freshness, deadline).await?;
        let state = serving.consensus.store().read();
        let revision = state.map.revision();
        match state.map.get(&self.key) {
            Some(entry) => Ok(Got { key: self.key, entry: entry.clone(), revision }),
            None => Err(Refused::NoSuchKey { revision }),
        }
    }
}

impl Operation for List {
    type Reply = Listed;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Listed, Refused> {
        let limits = &service.context.limits;
        let map = match self.at {
            ListAt::Present(freshness) => {
                let serving = service.ready_to_read(freshness, deadline).await?;
                // The clone, which is O(1), fixes one revision for the whole stream.
                serving.consensus.store().read().map.clone()
            }
            ListAt::Revision(revision) => {
                let current = service.context.serving()?.consensus.store().read().map.clone();
                service.retained.at(revision, current).ok_or(Refused::RevisionGone { revision })?
            }
        };
        let revision = map.revision();
        if self.limit.is_some() {
            // More pages may follow.
            service.retained.keep(map.clone());
        }
        let listing = Listing::new(map, self, limits.max_list_bytes);
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
