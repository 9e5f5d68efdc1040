//! HTTP/2: connections, bodies, and what HTTP's library would refuse.

mod authority;
pub(super) mod body;
pub(super) mod connection;
