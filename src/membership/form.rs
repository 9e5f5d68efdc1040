//! Forming or joining a cluster: carries out the steps of [`Formation`]: each is made durable first and published then.

use std::mem::discriminant;
use std::time::Duration;

use super::claim::{Intent, Pledge, PledgedNode, State};
use super::formation::{Formation, Formed, Refusal, Step, Waiting};
use super::gossip::Gossip;
use super::identity::{Identity, IdentityError};
use super::joins::JoinAnswers;
use crate::rt::time::Seldom;
use crate::rt::{self, Instant, watch};

/// The details of the same kind of waiting are logged at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Why a node did not become part of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// An operator has to act first.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The identity could not be changed; the node must stop.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Gossip has ended.
    #[error("the node stops before it became part of a cluster")]
    Stopped,
}

/// Runs until the node is part of a cluster, however long it takes. Publishes in `waits` what the node waits for, and
/// logs it whenever it changes.
///
/// Returns at once for a node that belongs to a cluster already: one of the first members gets the same
/// [`Formed::Initialise`] at every start, in case it was stopped before Raft was initialised.
///
/// # Errors
/// If an operator has to act first, the disk fails, or gossip ends.
pub async fn form(
    identity: &mut Identity,
    gossip: &Gossip,
    intent: Intent,
    joins: &[String],
    waits: &watch::Sender<Option<Waiting>>,
) -> Result<Formed, FormError> {
    if let Some(cluster_id) = identity.cluster_id() {
        let founded = identity.pledge().filter(|pledge| pledge.cluster_id == cluster_id);
        return Ok(founded.map_or(Formed::Joined { cluster_id }, Formed::fulfil));
    }
    let mut formation = Formation {
        me: own_node(identity, gossip)?,
        intent,
        joins: joins.iter().cloned().collect(),
        pledge: identity.pledge().cloned(),
        former: identity.former_cluster_id(),
        keyed: gossip.is_keyed(),
    };
    if identity.pledge().is_some() {
        rt::sometimes("formation interrupted after the pledge");
    }
    say_pristine(gossip, intent, identity.pledge().cloned());
    let mut answers = gossip.answers();
    let mut reported = Reported::default();
    loop {
        // Not in the match: the lock on the answers must not be held across an await.
        let step = look(&formation, &mut answers);
        match step {
            Step::Pledge(pledge) => {
                identity.pledge_to(pledge.clone()).await?;
                say_pristine(gossip, intent, Some(pledge.clone()));
                formation.pledge = Some(pledge);
            }
            Step::Form(formed) => {
                identity.adopt_cluster(formed.cluster_id()).await?;
                let state = match formed {
                    Formed::Initialise { .. } => State::Member,
                    Formed::Joined { .. } => State::Joining,
                };
                gossip.set_claim(identity.cluster_id(), state);
                waits.send(None);
                tracing::info!(cluster = %formed.cluster_id(), "this node is part of a cluster now");
                return Ok(formed);
            }
            Step::Wait(waiting) => {
                report(&mut reported, &waiting);
                waits.send(Some(waiting));
                answers.changed().await.map_err(|_| FormError::Stopped)?;
            }
            Step::Refuse(refusal) => return Err(refusal.into()),
        }
    }
}

fn own_node(identity: &Identity, gossip: &Gossip) -> Result<PledgedNode, FormError> {
    let rpc_addr = gossip.address_of(identity.node_id()).ok_or(FormError::Stopped)?;
    Ok(PledgedNode { node_id: identity.node_id(), name: identity.name().to_string(), rpc_addr })
}

fn say_pristine(gossip: &Gossip, intent: Intent, pledge: Option<Pledge>) {
    gossip.set_claim(None, State::Pristine { intent, pledge });
}

fn look(formation: &Formation, answers: &mut watch::Receiver<JoinAnswers>) -> Step {
    formation.step(&answers.borrow_and_update())
}

/// For each kind of waiting, what was reported last, and when.
#[derive(Default)]
struct Reported(Vec<(Waiting, Instant)>);

impl Reported {
    /// Returns `true` if it is to be reported: at once for a new kind of waiting; otherwise at most once per interval,
    /// and only if its details have changed or the node has waited for something else since, as happens with every
    /// attempt.
    fn is_news(&mut self, waiting: &Waiting, now: Instant) -> bool {
        if self.0.last().is_some_and(|(last, _)| last == waiting) {
            return false;
        }
        let interval = if waiting.needs_a_person() { Seldom::INTERVAL } else { REPORT_INTERVAL };
        let same_kind = |(last, _): &(Waiting, Instant)| discriminant(last) == discriminant(waiting);
        if let Some(place) = self.0.iter().position(same_kind) {
            if now < self.0[place].1 + interval {
                return false;
            }
            self.0.remove(place);
        }
        self.0.push((waiting.clone(), now));
        true
    }
}

fn report(reported: &mut Reported, waiting: &Waiting) {
    if !reported.is_news(waiting, rt::now()) {
        return;
    }
    if waiting.needs_a_person() {
        tracing::warn!("{waiting}");
    } else {
        tracing::info!("{waiting}");
    }
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
