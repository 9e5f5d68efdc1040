//! `mokv bench`: measures a cluster's performance through the client library.
//!
//! `load.rs` sends requests, `keys.rs` chooses their keys, `report.rs` adds up and shows the results. The flags and
//! their meaning follow etcd's `benchmark`, so that figures are comparable.

mod keys;
mod load;
mod report;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::connect::Connect;
use super::failure::Failure;
use crate::config::parse_time;
use keys::{Distribution, Keys};
use load::{Load, Mix};

/// Measure how fast a cluster is
///
/// Every client sends its next request when the last one is answered (a closed loop), unless --rate says how many are
/// due in a second; then latency counts from when a request was due. It writes under its own prefix and leaves the
/// keys there: 'mokv list --prefix bench/ --count'. Ctrl-C ends it early and shows what was measured until then.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv bench put --clients 64 --total 100000
  mokv bench get --clients 64 --conns 8 --duration 10s --stale
  mokv bench mixed --rw-ratio 4 --distribution zipf
  mokv bench put --rate 1000 --duration 60s --output json

To compare with etcd: benchmark --endpoints .. --clients 64 --conns 8 put --total 100000 --key-space-size 100000 \\
  --key-size 16 --val-size 256")]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write keys
    Put(Measure),
    /// Read keys; they are written first
    Get {
        /// Read at once from one node's memory, possibly old values
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        reads: Prepared,
    },
    /// Read and write keys; they are written first
    Mixed {
        /// Reads for each write
        #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = parse_ratio)]
        rw_ratio: f64,
        /// Read at once from one node's memory, possibly old values
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        reads: Prepared,
    },
}

/// A measurement that needs keys to be there.
#[derive(Debug, Args)]
struct Prepared {
    /// Do not write the keys first: they are there
    #[arg(long)]
    no_prepare: bool,
    #[command(flatten)]
    measure: Measure,
}

/// What every measurement has.
#[derive(Debug, Args)]
struct Measure {
    /// Clients that work at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Connections to each node, shared by the clients
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    conns: u32,
    /// How many requests, all clients together [default: 10000]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    total: Option<u64>,
    /// How long, instead of how many
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,
    /// How many requests are due each second, all clients together; 0: as many as there can be
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    key_space_size: u64,
    /// Bytes of a key
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(8..=4096))]
    key_size: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    val_size: u32,
    /// Which keys are asked for how often
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    distribution: Distribution,
    /// One key after the other, instead of at random
    #[arg(long, conflicts_with = "distribution")]
    sequential_keys: bool,
    /// Write without sessions, as etcd does: a write in doubt is not sent again
    #[arg(long)]
    no_session: bool,
    #[command(flatten)]
    connect: Connect,
}

const DEFAULT_TOTAL: u64 = 10_000;

impl Bench {
    /// Runs the measurement.
    ///
    /// # Errors
    /// If the flags are invalid, the keys could not be written first, or every request failed.
    pub async fn run(self) -> Result<(), Failure> {
        let (mix, prepare, measure) = match self.what {
            What::Put(measure) => (Mix::puts(), false, measure),
            What::Get { stale, reads } => (Mix::gets(stale), !reads.no_prepare, reads.measure),
            What::Mixed { rw_ratio, stale, reads } => {
                (Mix::mixed(rw_ratio, stale), !reads.no_prepare, reads.measure)
            }
        };
        measure.run(mix, prepare).await
    }
}

impl Measure {
    async fn run(&self, mix: Mix, prepare: bool) -> Result<(), Failure> {
        let distribution = if self.sequential_keys { Distribution::Sequential } else { self.distribution };
        let keys = Keys::new(self.key_space_size, self.key_size as usize, distribution)?;
        let clients = (0..self.conns.min(self.clients)).map(|_| match self.no_session {
            true => self.connect.client_without_session(),
            false => self.connect.client(),
        });
        let load = Load {
            clients: clients.collect::<Result<_, _>>()?,
            tasks: self.clients,
            value_bytes: self.val_size as usize,
        };
        if prepare {
            let every_key = Keys::new(self.key_space_size, self.key_size as usize, Distribution::Sequential)?;
            let (many, rate) = (load::Until::Requests(self.key_space_size), 0);
            let written = load.run("writing keys", &Mix::puts(), every_key, many, rate).await?;
            if let Some((kind, error)) = written.first_error() {
                return Err(self.connect.failure(&format!("write the keys to be read ({kind})"), error));
            }
        }
        let until = match self.duration {
            Some(duration) => load::Until::Elapsed(duration),
            None => load::Until::Requests(self.total.unwrap_or(DEFAULT_TOTAL)),
        };
        let measured = load.run("measuring", &mix, keys, until, self.rate).await?;
        if measured.all_failed()
            && let Some((_, error)) = measured.first_error()
        {
            return Err(self.connect.failure("measure anything", error));
        }
        for client in &load.clients {
            // The cluster drops the sessions now instead of evicting them later.
            let _ = client.close().await;
        }
        report::show(&mut self.connect.output(), &measured)
    }
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 0.0 => Ok(ratio),
        _ => Err("write how many reads there are for each write, as 4 or 0.5".to_owned()),
    }
}
