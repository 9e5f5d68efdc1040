//! mökv, a distributed key-value store whose worst day can be replayed.

pub mod cli;
pub mod client;
pub mod config;
pub mod map;
pub mod membership;
pub mod rt;
pub mod storage;
