//! The calm world: the worlds and clients of chaos, without faults.
//!
//! No planted bug may be caught in it: such a bug would be found by any user within a minute.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;

use super::Scenario;
use super::setup::formed_within;
use crate::clients::Workload;
use crate::cluster::Cluster;
use crate::record::Run;
use crate::world::World;

/// The name of the calm world on the command line.
pub const NAME: &str = "calm";
/// How long the cluster may take to form.
const FORMING: Duration = Duration::from_secs(30);
/// How long clients work: long enough for snapshots and purges.
const WORKING: Duration = Duration::from_secs(30);

/// The calm world as a scenario. Not in the list of the others: a pass proves little.
pub const SCENARIO: Scenario = Scenario {
    name: NAME,
    about: "the clients of a drawn world at work while nothing goes wrong",
    seeds: 3,
    play: |run| Box::pin(play(run)),
};

/// Lets the clients of the seed's world work without faults.
///
/// # Errors
/// A message for the user, if the cluster never forms.
pub async fn play(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { packet_loss: 0.0, faults: Vec::new(), ..World::draw(run.seed) };
    let (cluster, _) = formed_within(&run, &world, FORMING).await?;
    cluster.bound_history().await;
    let workload = Workload::start(&cluster, &cluster.names());
    rt::sleep(WORKING).await;
    workload.stop().await;
    Ok(cluster)
}
