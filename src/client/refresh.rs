//! Keeps what is known of the cluster up to date: one task a client, started by its first call.
//!
//! It asks for the members at the start, from time to time, and soon after something failed; not more often than
//! its pause allows, however much fails. It ends with the last clone of the client, or when the question then under
//! way is answered.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mokv_proto::api::GetServersRequest;

use super::call::Deadline;
use super::error::Error;
use super::picker::Purpose;
use super::{Consistency, Inner, Members};
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, watch};

/// Without any trouble the members are asked for this often.
const PERIOD: Duration = Duration::from_secs(10);
/// With trouble, no more often than this.
const PAUSE: Duration = Duration::from_millis(200);
/// One round of asking takes at most this long.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The task and the way to wake it.
#[derive(Default)]
pub(super) struct Refresher {
    running: OnceLock<(watch::Sender<()>, TaskGuard<()>)>,
}

impl Inner {
    /// Starts the task if it does not run yet.
    pub(super) fn keep_informed(self: &Arc<Self>) {
        self.refresher.running.get_or_init(|| {
            let (wake, woken) = watch::channel(());
            (wake, spawn_guarded(run(Arc::downgrade(self), woken)))
        });
    }

    /// Something failed: the cluster may have changed.
    pub(super) fn refresh_soon(&self) {
        if let Some((wake, _)) = self.refresher.running.get() {
            wake.send(());
        }
    }

    /// Asks for the members and remembers them.
    pub(super) async fn ask_for_members(
        &self,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Members, Error> {
        let as_of = self.topology.as_of();
        let request = GetServersRequest { linearizable: consistency == Consistency::Linearizable };
        let reply = self
            .read(&request, Purpose::LinearizableRead, deadline, None)
            .await
            .map_err(|failure| failure.error)?;
        let members = reply.into_inner();
        self.topology.learn(as_of, &members.servers);
        Ok(members)
    }
}

async fn run(inner: Weak<Inner>, mut woken: watch::Receiver<()>) {
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            // Trouble that comes while asking, this question's own included, is not another reason to ask.
            let _ = inner.ask_for_members(Consistency::Stale, Deadline::after(TIMEOUT)).await;
            drop(woken.borrow_and_update());
        }
        rt::sleep(PAUSE).await;
        let _ = rt::timeout(PERIOD, woken.changed()).await;
    }
}
