//! Whether the node lives and serves, for gRPC health checks and probes.

use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::grpc::Context;
use crate::metrics::http::Health;
use crate::rt;

/// The services whose health is told; the empty name stands for the whole node.
const SERVICES: [&str; 3] = ["", "api.KV", "api.Admin"];
/// How often the state is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Ready is who has recovered, may answer, knows a leader, is near to it, and votes: whoever stops one node after the
/// other, each when the one before is ready, never takes a voter too many.
pub struct Readiness {
    /// The node.
    pub context: Arc<Context>,
    /// Ready is who has at most so many committed entries still to apply.
    pub max_lag: u64,
}

impl Health for Readiness {
    fn ready(&self) -> Result<(), String> {
        let serving = self.context.serving().map_err(|status| status.message().to_string())?;
        let consensus = &serving.consensus;
        match consensus.lag() {
            None => Err("this node knows no leader".into()),
            Some(lag) if lag > self.max_lag => Err(format!(
                "this node has {lag} committed entries still to apply, more than ready-max-lag ({})",
                self.max_lag
            )),
            Some(_) if !consensus.is_voter() => {
                Err("this node does not vote yet, or not any more; 'mokv members' shows the members".into())
            }
            Some(_) => Ok(()),
        }
    }
}

/// What the gRPC health service says before anything else is known. To be said before the first connection is accepted:
/// by itself the service would begin with SERVING.
pub async fn begin(reporter: &HealthReporter) {
    tell(reporter, ServingStatus::NotServing).await;
}

/// Keeps the gRPC health service up to date for ever.
pub async fn report(readiness: Arc<Readiness>, reporter: HealthReporter) {
    let mut told = ServingStatus::NotServing;
    loop {
        let status = match readiness.ready() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        if told != status {
            tell(&reporter, status).await;
            told = status;
        }
        rt::sleep(INTERVAL).await;
    }
}

async fn tell(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
