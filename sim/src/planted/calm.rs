//! A fair day: the worlds and clients of chaos, and nothing goes wrong.
//!
//! Every planted bug must get through it unnoticed; a bug that does not is found by any user within a minute.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;

use crate::cluster::Cluster;
use crate::run::Run;
use crate::scenarios::Scenario;
use crate::scenarios::setup::formed_within;
use crate::workload::Workload;
use crate::world::World;

/// What the calm is called on the command line.
pub const NAME: &str = "calm";
/// How long the cluster has to form.
const FORMING: Duration = Duration::from_secs(30);
/// How long clients work: long enough for snapshots and purges.
const WORKING: Duration = Duration::from_secs(30);

/// The calm as a scenario. It stands beside the others: a pass of it says little.
pub const SCENARIO: Scenario = Scenario {
    name: NAME,
    about: "the clients of a drawn world at work while nothing goes wrong",
    seeds: 3,
    play: |run| Box::pin(play(run)),
};

/// Lets the clients of the seed's world work undisturbed.
///
/// # Errors
/// In words, if the cluster does not even form.
pub async fn play(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { packet_loss: 0.0, faults: Vec::new(), ..World::draw(run.seed) };
    let (cluster, _) = formed_within(&run, &world, FORMING).await?;
    let workload = Workload::start(&cluster, &cluster.names());
    rt::sleep(WORKING).await;
    workload.stop().await;
    Ok(cluster)
}
