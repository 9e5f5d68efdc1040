//! Keeps the known members and leader up to date: one task per client, started by its first call.
//!
//! The task asks for the members at the start, periodically, and soon after a failure, but not more often than `PAUSE`
//! allows, however many calls fail. It ends when the last clone of the client is dropped and the request then in flight
//! has ended.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mokv_proto::api::{GetServersRequest, GetServersResponse};

use super::call::Deadline;
use super::error::Error;
use super::picker::Purpose;
use super::{Consistency, Inner};
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, watch};

/// Interval between requests for the members while no call fails.
const PERIOD: Duration = Duration::from_secs(10);
/// Shortest interval between two requests, also when calls fail.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest time of one request, all its attempts included.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The task and the channel that wakes it.
#[derive(Default)]
pub(super) struct Refresher {
    running: OnceLock<(watch::Sender<()>, TaskGuard<()>)>,
}

impl Inner {
    /// Starts the task if it is not running.
    pub(super) fn keep_informed(self: &Arc<Self>) {
        self.refresher.running.get_or_init(|| {
            let (wake, woken) = watch::channel(());
            (wake, spawn_guarded(run(Arc::downgrade(self), woken)))
        });
    }

    /// Wakes the task, because a call failed and the cluster may have changed.
    pub(super) fn refresh_soon(&self) {
        if let Some((wake, _)) = self.refresher.running.get() {
            wake.send(());
        }
    }

    /// Asks for the members and stores them in the topology.
    pub(super) async fn ask_for_members(
        &self,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<GetServersResponse, Error> {
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
            // Failures during the request, its own included, are no reason for another one.
            let _ = inner.ask_for_members(Consistency::Stale, Deadline::after(TIMEOUT)).await;
            drop(woken.borrow_and_update());
        }
        rt::sleep(PAUSE).await;
        let _ = rt::timeout(PERIOD, woken.changed()).await;
    }
}
