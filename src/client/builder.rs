//! Builds a client: checks its settings, and opens no connection yet.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::connection::Transport;
use super::error::Error;
use super::opening::SessionSlot;
use super::refresh::Refresher;
#[cfg(feature = "tls")]
use super::tls::{Handshake, Tls};
use super::topology::Topology;
use super::{Client, Inner};
use crate::rt::lock::Mutex;
use crate::rt::net::Resolver;

/// Builds a [`Client`].
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    timeout: Duration,
    list_timeout: Duration,
    sessions: bool,
    token: Option<String>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

// Implemented by hand: a token must never appear in messages or logs.
impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Builder {
    /// The default settings.
    pub(super) fn new() -> Builder {
        Builder {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(5),
            list_timeout: Duration::from_secs(60),
            sessions: true,
            token: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The initial addresses, as `host:port`; one node that answers is enough. Names are resolved again for every
    /// connection.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let client = Client::builder().endpoints(["node-1:8400", "node-2:8400"]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn endpoints<I>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// The longest time of one call, retries included; 5 s by default. Also the longest silence within a listing.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let builder = Client::builder().endpoints(["node-1:8400"]);
    /// let client = builder.timeout(std::time::Duration::from_secs(1)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// The longest time of a whole listing; 60 s by default.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let builder = Client::builder().endpoints(["node-1:8400"]);
    /// let client = builder.list_timeout(std::time::Duration::from_secs(600)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn list_timeout(mut self, timeout: Duration) -> Builder {
        self.list_timeout = timeout;
        self
    }

    /// Whether writes belong to a session and are applied exactly once; true by default. If false, a write is sent
    /// once, and [`Error::Unknown`] is more frequent.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let builder = Client::builder().endpoints(["node-1:8400"]);
    /// let client = builder.sessions(false).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sessions(mut self, sessions: bool) -> Builder {
        self.sessions = sessions;
        self
    }

    /// The token for `authorization: Bearer TOKEN`, sent with every request, in plain text unless TLS is used. It is
    /// for a proxy in front of the nodes; the nodes ignore it.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let token = std::env::var("TOKEN").unwrap_or_default();
    /// let client = Client::builder().endpoints(["proxy:443"]).token(token).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// Uses TLS for every connection. Nodes themselves serve plain text only: this is for a proxy in front of each
    /// node, at the address that the node advertises.
    ///
    /// ```no_run
    /// # use mokv::client::{Client, Tls};
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let client = Client::builder().endpoints(["proxy:443"]).tls(Tls::new()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// Builds the client. Does not connect yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an endpoint, if one is not `host:port`, for a token that no header can carry, and for
    /// invalid certificates and keys.
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let client = Client::builder().endpoints(["127.0.0.1:8400"]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Invalid("a client needs at least one endpoint, as host:port".into()));
        }
        let endpoints = self.endpoints.iter().map(|given| endpoint(given).map(str::to_owned));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let authorization = self.token.map(|token| format!("Bearer {token}").parse());
        let authorization = authorization
            .transpose()
            .map_err(|_| Error::Invalid("the token has characters that no header can carry".into()))?;
        let transport = Transport {
            resolver: Resolver::default(),
            #[cfg(feature = "tls")]
            tls: self.tls.map(Handshake::new).transpose().map_err(|why| Error::Invalid(why.into()))?,
        };
        let inner = Inner {
            authorization,
            topology: Topology::new(endpoints, transport),
            seen_revision: AtomicU64::new(0),
            use_sessions: self.sessions,
            sessions: Mutex::new(SessionSlot::default()),
            refresher: Refresher::default(),
        };
        let (timeout, list_timeout) = (self.timeout, self.list_timeout);
        Ok(Client { inner: Arc::new(inner), timeout, list_timeout, end: None })
    }
}

/// Returns the endpoint as given, without surrounding blanks.
///
/// # Errors
/// [`Error::Invalid`] if it is not `host:port`.
pub(crate) fn endpoint(given: &str) -> Result<&str, Error> {
    let endpoint = given.trim();
    let is_host = |host: &str| !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace());
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match endpoint.rsplit_once(':') {
        Some((host, port)) if is_host(host) && is_port(port) => Ok(endpoint),
        _ => Err(Error::Invalid(format!("'{endpoint}' is no endpoint: write host:port").into())),
    }
}
