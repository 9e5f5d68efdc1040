//! How a node stops: it hands leadership over, leaves if it should, answers the requests in progress, and syncs.

use std::time::Duration;

use super::{Node, NodeError};
use crate::client::Client;
use crate::membership::Identity;
use crate::node_id::Named;
use crate::raft::Consensus;
use crate::service::Phase;

/// At a stop, handing leadership over to one voter takes at most this long; then the next one is tried, or the others
/// elect a leader without help.
const HAND_OVER: Duration = Duration::from_secs(1);
/// A removed node answers requests in progress for at most this long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Leaving permanently takes at most this long; then the node stops as a member.
const LEAVE: Duration = Duration::from_secs(20);

impl Node {
    /// Hands leadership over, lets clients' requests finish within the configured time, and syncs.
    pub(super) async fn stop(self) -> Result<(), NodeError> {
        if self.config.leave_on_terminate
            && let Err(reason) = self.leave().await
        {
            let name = &self.config.node_name;
            tracing::warn!("this node stays a member: {reason}; 'mokv members remove {name}' removes it");
        }
        if let Some(serving) = self.context.recovered() {
            hand_over(&serving.consensus).await;
        }
        self.phase.send(Phase::Draining);
        if self.context.admission.drain(self.config.limits.drain_timeout).await.is_err() {
            tracing::warn!(
                "requests were still under way after {:?} (drain-timeout) and are cancelled",
                self.config.limits.drain_timeout
            );
        }
        self.quiesce().await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Stops Raft and closes the log, so that nothing is written any more and everything is synced.
    async fn quiesce(&self) -> Result<(), NodeError> {
        self.phase.send(Phase::Stopped);
        let running = self.running.borrow().clone();
        if let Some((consensus, log)) = running {
            // If Raft has stopped already, its error does not matter here.
            let _ = consensus.raft().shutdown().await;
            log.close().await?;
        }
        Ok(())
    }

    /// Leaves the cluster permanently if the cluster allows it; otherwise the node stays a member and the error names
    /// the reason. Succeeds if the node has left already.
    pub(super) async fn leave(&self) -> Result<(), String> {
        let serving = self.context.recovered().ok_or("it has not recovered yet, or belongs to no cluster")?;
        // No other task holds the identity for long once the node has recovered.
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("the identity is taken only when this node ends");
        if identity.has_left() {
            return Ok(());
        }
        let membership = serving.consensus.membership();
        let members = membership.nodes().map(|(id, member)| serving.address_of(*id, member));
        let client = Client::builder().endpoints(members).timeout(LEAVE).sessions(false).build();
        let left = match client {
            Ok(client) => client.replace_member(&self.config.node_name).await.map(|_| ()),
            Err(error) => Err(error),
        };
        left.map_err(|error| error.to_string())?;
        self.gossip.leave().await;
        // The next start on this directory is another node.
        identity.mark_left().await.map_err(|error| error.to_string())
    }

    /// Sets a removed node's data aside after everything that uses it has stopped. A client that asked this node for
    /// the removal is answered first.
    pub(super) async fn set_aside(self) -> Result<(), NodeError> {
        // Durable first: if the process is killed from here on, the next start completes it.
        if let Some(identity) = self.identity.lock().await.as_mut() {
            identity.mark_left().await?;
        }
        if let Some(identity) = self.shut_down().await? {
            identity.set_aside().await?;
        }
        Ok(())
    }

    /// Stops everything that uses this node's data; returns its identity, or `None` if it was taken already.
    pub(super) async fn shut_down(self) -> Result<Option<Identity>, NodeError> {
        self.phase.send(Phase::Draining);
        let _ = self.context.admission.drain(LAST_ANSWERS.min(self.config.limits.drain_timeout)).await;
        self.quiesce().await?;
        self.gossip.end();
        Ok(self.identity.lock().await.take())
    }
}

/// Hands leadership over if this node leads: each voter that may take over is tried in turn.
async fn hand_over(consensus: &Consensus) {
    let membership = consensus.membership();
    let named = |id| Named(membership.membership().get_node(&id).map(|member| member.name.as_str()), id);
    for successor in consensus.successors().into_iter().filter(|other| other.is_near) {
        if !consensus.is_leader() {
            return;
        }
        match consensus.transfer_leader(successor.node_id, HAND_OVER).await {
            Ok(()) => return tracing::info!("leadership handed over to {}", named(successor.node_id)),
            // The other voters elect a leader without help; if all nodes stop, there is none to do so.
            Err(reason) => {
                tracing::info!("leadership was not handed over to {}: {reason}", named(successor.node_id));
            }
        }
    }
}
