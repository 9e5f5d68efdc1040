//! One run of chaos: the cluster forms, clients start, the schedule is injected.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::task::TaskGuard;

use super::dispatch;
use super::injection::Injection;
use super::lasting::lasting;
use super::reduction::Reduction;
use super::schedule::{self, FEWEST_OPERATIONS, LONGER};
use crate::clients::Workload;
use crate::cluster::Cluster;
use crate::phases::set_up;
use crate::record::Run;
use crate::world::World;

/// How long the cluster has to form before faults begin.
const FORMING: Duration = Duration::from_secs(30);
/// Interval at which the number of answered operations is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Executes the chaos of the run's seed.
///
/// # Errors
/// Returns a description if the cluster does not form.
///
/// # Panics
/// If the reduction in the environment cannot be parsed.
pub async fn play(run: Arc<Run>) -> Result<Cluster, String> {
    let reduction = Reduction::from_environment().unwrap_or_else(|words| panic!("{words}"));
    let mut world = World::draw(run.seed);
    reduction.shrink(&mut world);
    let shown = if reduction.is_empty() { String::new() } else { format!("\nreduced: {reduction}") };
    run.set_world(format!("{world}{shown}"));
    let cluster = set_up(&run, &world);
    cluster.start_all();
    let nodes = cluster.names();
    cluster.wait_for_leader(&nodes, FORMING).await?;
    cluster.bound_history().await;
    let workload = Workload::start(&cluster, &nodes);
    let before = rt::now();
    rage(&cluster, &reduction).await;
    run.add_fault_time(rt::now() - before);
    calm(&cluster, &reduction).await;
    cluster.heal_network();
    workload.stop().await;
    lasting(&cluster).await;
    Ok(cluster)
}

/// If few operations were answered during the faults, repairs everything and lets clients go on until enough are:
/// consequences of the faults need operations to show, and a run with few operations proves little.
async fn calm(cluster: &Cluster, reduction: &Reduction) {
    let says_little = || reduction.until.is_none() && cluster.run().answered() < FEWEST_OPERATIONS;
    if cluster.run().is_broken() || !says_little() {
        return;
    }
    cluster.repair();
    let before = rt::now();
    while says_little() && rt::now() - before < LONGER && !cluster.run().is_broken() {
        cluster.lift_bounds().await;
        rt::sleep(LOOK_AGAIN).await;
    }
}

/// Injects the schedule, each fault in a task of its own.
async fn rage(cluster: &Cluster, reduction: &Reduction) {
    let began = rt::now();
    let world = cluster.world();
    let goes_on = || {
        let lasted = rt::now() - began;
        let says_little = || reduction.until.is_none() && cluster.run().answered() < FEWEST_OPERATIONS;
        !cluster.run().is_broken()
            && (lasted < world.faults_last || (lasted < world.faults_last + LONGER && says_little()))
    };
    let mut schedule = schedule::draw(world, cluster.run().seed).into_iter();
    let mut next = schedule.find(|planned| reduction.keeps(planned));
    let mut injections: Vec<TaskGuard<()>> = Vec::new();
    while goes_on() {
        // In a run with enough operations the last check comes exactly when its time is over.
        let lasted = rt::now() - began;
        let left = world.faults_last.saturating_sub(lasted);
        let look_again = lasted + if left.is_zero() { LOOK_AGAIN } else { LOOK_AGAIN.min(left) };
        match next.take_if(|planned| planned.after < look_again) {
            Some(planned) => {
                rt::sleep_until(began + planned.after).await;
                injections.push(dispatch::begin(Injection::new(cluster, &planned)));
                next = schedule.find(|planned| reduction.keeps(planned));
            }
            None => rt::sleep_until(began + look_again).await,
        }
    }
    // Injections under way are aborted; the liveness phase repairs what they broke.
    drop(injections);
    cluster.names().iter().for_each(|name| cluster.mend_disk(name));
}
