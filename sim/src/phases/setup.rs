//! The beginning of every run: the network and the cluster of a world, under watch.

use std::sync::Arc;

use super::watch;
use crate::cluster::{Cluster, network};
use crate::record::Run;
use crate::world::World;

/// Sets the network up and makes the cluster, none of whose nodes is started.
pub fn set_up(run: &Arc<Run>, world: &World) -> Cluster {
    network::apply(world);
    let cluster = Cluster::new(run, world);
    cluster.monitor(watch::watch(cluster.clone()));
    cluster
}
