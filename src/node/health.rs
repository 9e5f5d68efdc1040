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

/// Ready is who has recovered, knows a leader and may answer.
pub struct Readiness(pub Arc<Context>);

impl Health for Readiness {
    fn ready(&self) -> Result<(), String> {
        let serving = self.0.serving().map_err(|status| status.message().to_string())?;
        match serving.consensus.leader() {
            Some(_) => Ok(()),
            None => Err("this node knows no leader".into()),
        }
    }
}

/// What the gRPC health service says before anything else is known. To be said before the first connection is accepted:
/// by itself the service would begin with SERVING.
pub async fn begin(reporter: &HealthReporter) {
    tell(reporter, ServingStatus::NotServing).await;
}

/// Keeps the gRPC health service up to date for ever.
pub async fn report(context: Arc<Context>, reporter: HealthReporter) {
    let readiness = Readiness(context);
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
