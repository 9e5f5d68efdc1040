//! mökv, a distributed key-value store whose worst day can be replayed.

pub mod client;
pub mod map;
pub mod rt;
