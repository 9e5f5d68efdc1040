//! mökv, a distributed key-value store whose worst day can be replayed.

pub mod membership;
pub mod rt;
pub mod storage;
