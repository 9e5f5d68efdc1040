//! What operators ask of a node or of the cluster.

use std::num::{NonZeroU32, NonZeroU64};

use mokv_proto::api;

use super::call::Call;
use super::retry::Resend;
use super::{Backup, Client, Error, Members, NodeStatus, ReadOptions, Settings, SettingsChange};
use crate::node_id::NodeId;
use crate::replicated_settings::{age_of_seconds, seconds_of_age};

impl Client {
    /// Returns the members of the cluster and its wanted size, as the leader has confirmed them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node answered in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// for member in client.members().await?.members {
    ///     println!("{} at {}: {}", member.name, member.rpc_addr, member.role);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn members(&self) -> Result<Members, Error> {
        self.members_with(ReadOptions::default()).await
    }

    /// Like [`Client::members`], with options: with [`ReadOptions::stale`] any node answers from its own state, also
    /// without a leader.
    ///
    /// # Errors
    /// As [`Client::members`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::ReadOptions;
    ///
    /// let members = client.members_with(ReadOptions::stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn members_with(&self, options: ReadOptions) -> Result<Members, Error> {
        self.inner.keep_informed();
        let members = self.inner.ask_for_members(options.consistency, self.deadline()).await?;
        Ok(Members::from_wire(members))
    }

    /// Returns the state of the node at `address` (`host:port`), as that node reports it. Never retries.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it did not answer in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let status = client.status("node-1:8400").await?;
    /// for reason in &status.reasons {
    ///     println!("{} ({}): {reason}", status.name, status.role);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self, address: &str) -> Result<NodeStatus, Error> {
        let status = self.inner.ask(address, api::StatusRequest {}, self.deadline()).await?;
        Ok(NodeStatus::from_wire(status))
    }

    /// Makes the node at `address` (`host:port`) write a snapshot now. Returns the log index that it covers. Never
    /// retries.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::Unknown`] if the node did not answer in time: it may still write the snapshot.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let index = client.snapshot("node-1:8400").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot(&self, address: &str) -> Result<u64, Error> {
        let reply = self.inner.order(address, api::SnapshotRequest {}, self.deadline()).await?;
        Ok(reply.index)
    }

    /// Returns the whole store as it is now, sessions and settings included: the bytes of a snapshot file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node begins to send it in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut backup = client.backup().await?;
    /// while let Some(bytes) = backup.next().await? {
    ///     // Store them.
    /// #   let _ = bytes;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn backup(&self) -> Result<Backup, Error> {
        self.inner.keep_informed();
        Backup::open(self).await
    }

    /// Transfers leadership to the member `to`; `None`: to the most up-to-date voter. Returns the new leader's name.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let leader = client.transfer_leader(Some("node-2")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<String, Error> {
        let request = api::TransferLeaderRequest { to: to.unwrap_or_default().to_owned() };
        Ok(self.command(request, Resend::Never).await?.leader)
    }

    /// Removes the member `name` from the cluster for good. Returns its node id, which is never admitted again. The
    /// cluster's wanted size becomes the number of remaining members, and the node stays out, even while it runs, until
    /// [`Client::set_wanted_size`] raises it.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let removed = client.remove_member("node-3").await?;
    /// println!("{removed} never comes back");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn remove_member(&self, name: &str) -> Result<NodeId, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: false };
        Ok(NodeId(self.command(request, Resend::Never).await?.node_id))
    }

    /// Like [`Client::remove_member`], but the place stays open: the node, if it runs, joins again under a new id with
    /// an empty store, or another node joins in its place.
    ///
    /// # Errors
    /// As [`Client::remove_member`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// client.replace_member("node-3").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replace_member(&self, name: &str) -> Result<NodeId, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: true };
        Ok(NodeId(self.command(request, Resend::Never).await?.node_id))
    }

    /// Removes the node at `address` (`host:port`) from its cluster for good and ends its process. Never retries.
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster cannot do without the node, which then stays; otherwise as [`Client::set`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// client.leave("node-3:8400").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn leave(&self, address: &str) -> Result<(), Error> {
        self.inner.order(address, api::LeaveRequest {}, self.deadline()).await.map(|_| ())
    }

    /// Changes the bounds among the replicated settings. Returns all of them after the change; with
    /// [`SettingsChange::none`] as they are.
    ///
    /// # Errors
    /// As [`Client::set`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::SettingsChange;
    ///
    /// let settings = client.configure(SettingsChange::none().max_sessions(20_000)).await?;
    /// assert_eq!(settings.max_sessions, 20_000);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn configure(&self, change: SettingsChange) -> Result<Settings, Error> {
        let SettingsChange {
            max_sessions,
            max_store_bytes,
            history_max_age,
            history_max_bytes,
            history_min_revisions,
            max_transaction_changes,
            max_transaction_bytes,
        } = change;
        let bytes = |bound: Option<Option<NonZeroU64>>| bound.map(|bytes| bytes.map_or(0, NonZeroU64::get));
        let request = api::ConfigureRequest {
            max_sessions,
            max_store_bytes: bytes(max_store_bytes),
            wanted_size: None,
            history_max_age_seconds: history_max_age.map(seconds_of_age),
            history_max_bytes: bytes(history_max_bytes),
            history_min_revisions,
            max_transaction_changes,
            max_transaction_bytes,
        };
        self.change_settings(request).await
    }

    /// Sets how many voters the cluster is to have: no further node becomes one. `None`: as many as join. Removes no
    /// member.
    /// Returns all replicated settings after the change. The wanted size among them is `None` all the same while not
    /// all members know of wanted sizes: then it cannot be set.
    ///
    /// # Errors
    /// As [`Client::set`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use std::num::NonZeroU32;
    ///
    /// client.set_wanted_size(NonZeroU32::new(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_wanted_size(&self, voters: impl Into<Option<NonZeroU32>>) -> Result<Settings, Error> {
        let voters = voters.into().map_or(0, NonZeroU32::get);
        self.change_settings(api::ConfigureRequest { wanted_size: Some(voters), ..Default::default() }).await
    }

    async fn change_settings(&self, request: api::ConfigureRequest) -> Result<Settings, Error> {
        let settings = self.command(request, Resend::Never).await?;
        Ok(Settings {
            max_sessions: settings.max_sessions,
            max_store_bytes: NonZeroU64::new(settings.max_store_bytes),
            history_max_age: age_of_seconds(settings.history_max_age_seconds),
            history_max_bytes: NonZeroU64::new(settings.history_max_bytes),
            history_min_revisions: settings.history_min_revisions,
            max_transaction_changes: settings.max_transaction_changes,
            max_transaction_bytes: settings.max_transaction_bytes,
            wanted_size: NonZeroU32::new(settings.wanted_size),
        })
    }

    /// Makes revisions below this one unreadable, so that versions of keys which only they show are removed; `None`: below
    /// the present one. Returns the earliest revision that can be read, which is higher if it was before. The leader does
    /// the same by itself, after [`Settings::history_max_age`] and [`Settings::history_max_bytes`].
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::Invalid`] if the revision is not there yet.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let earliest = client.compact(None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compact(&self, revision: impl Into<Option<u64>>) -> Result<u64, Error> {
        let request = api::CompactRequest { revision: revision.into() };
        Ok(self.command(request, Resend::Never).await?.floor_revision)
    }

    async fn command<C: Call>(&self, request: C, resend: Resend) -> Result<C::Reply, Error> {
        self.inner.keep_informed();
        self.inner.command(&request, resend, self.deadline()).await
    }
}
