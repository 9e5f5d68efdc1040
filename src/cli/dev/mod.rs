//! `mokv dev`: a whole cluster on this machine, for trying things out. Every node is a separate process that can be
//! killed and inspected; production clusters differ only in their addresses.

mod children;
mod plan;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::children::NodeProcess;
use self::plan::Plan;
use super::connect;
use super::failure::Failure;
use super::format::Format;
use super::output::{Output, table};
use super::{ports, program};
use crate::rt;
use crate::rt::disk::is_in_use;
use crate::rt::process::StopSignals;
use crate::rt::task::spawn_guarded;

/// Time for the nodes to stop before they are killed: the default drain-timeout plus a margin.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Polling interval for the leader.
const LEADER_INTERVAL: Duration = Duration::from_millis(300);

/// Time without a leader after which the terminal shows it.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Run a cluster on this machine
///
/// Starts three node processes on 127.0.0.1, each 'mokv serve' with a configuration file that it writes out for
/// you to read. Ctrl-C stops them; starting again finds the data. Environment variables for 'mokv serve' are not
/// passed on.
#[derive(Debug, Args)]
#[command(after_help = "\
Ports: rpc 8400, 8402, 8404; gossip (UDP) 8401, 8403, 8405; metrics 4000, 4003, 4006.
--base-port moves all of them: the first metrics port is 4400 below it.

Examples:
  mokv dev
  mokv dev --nodes 5 --base-port 18400 --data-dir /tmp/five")]
pub struct Dev {
    /// Directory of the nodes' data, configuration files and logs
    #[arg(long, value_name = "PATH", default_value = "./mokv-data")]
    data_dir: PathBuf,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(plan::MAX_NODES)))]
    nodes: u16,
    /// The first RPC port
    #[arg(long, value_name = "PORT", default_value_t = 8400, value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
}

impl Dev {
    /// Runs the cluster until it is asked to stop. Must run on the main thread (see [`NodeProcess::start`]).
    ///
    /// # Errors
    /// If ports are taken, files cannot be written, processes cannot be started, or all nodes have ended.
    pub async fn run(self) -> Result<(), Failure> {
        let data_dir = std::path::absolute(&self.data_dir).map_err(|error| {
            Failure::usage(format!("'{}' is not a path: {error}", self.data_dir.display()), "give --data-dir")
        })?;
        let plan = Plan::new(&data_dir, self.nodes, self.base_port)?;
        refuse_taken_ports(&plan).await?;
        refuse_taken_directories(&plan)?;
        let mut signals = StopSignals::listen()
            .map_err(|error| Failure::error(format!("cannot listen for signals: {error}"), "try again"))?;
        let mut nodes = children::start_all(&plan)?;
        let mut output = Output::new(Format::Table);
        introduce(&plan, &nodes, &mut output);
        let all_ended = tokio::select! {
            biased;
            () = signals.next() => false,
            () = watch(&plan, &mut nodes, &mut output) => true,
        };
        if all_ended {
            return Err(Failure::error(
                "all nodes have ended",
                format!("read their logs in {}", data_dir.display()),
            ));
        }
        stop(&mut nodes, &mut signals, &mut output).await;
        say(&mut output, format!("All nodes are stopped. Their data stays in {}.", self.data_dir.display()));
        Ok(())
    }
}

/// Writes to the terminal. A closed terminal does not end the cluster.
fn say(output: &mut Output, text: impl AsRef<str>) {
    let _ = output.line(text);
}

async fn refuse_taken_ports(plan: &Plan) -> Result<(), Failure> {
    let taken = ports::unavailable(&plan.ports()).await;
    if taken.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = taken.iter().map(|(port, _)| port.to_string()).collect();
    Err(Failure::error(
        format!("nothing was started: ports are in use: {}", names.join(", ")),
        "stop what uses them (another 'mokv dev'?), or choose others with --base-port",
    ))
}

/// Refuses data directories in use: a cluster that runs on other ports keeps the files it was started with.
fn refuse_taken_directories(plan: &Plan) -> Result<(), Failure> {
    let mut taken = Vec::new();
    for node in &plan.nodes {
        let is_taken = is_in_use(&node.data_dir).map_err(|error| {
            let what = format!("nothing was started: cannot look into {}: {error}", node.data_dir.display());
            Failure::error(what, "check --data-dir and its permissions")
        })?;
        if is_taken {
            taken.push(node.data_dir.display().to_string());
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(Failure::error(
        format!("nothing was started: data directories are in use: {}", taken.join(", ")),
        "stop what uses them (another 'mokv dev'?), or choose another with --data-dir",
    ))
}

/// Writes the started nodes and their addresses.
fn introduce(plan: &Plan, nodes: &[NodeProcess], output: &mut Output) {
    let rows = nodes.iter().map(|process| {
        let node = &process.node;
        vec![
            node.name.clone(),
            process.pid().to_string(),
            node.rpc.to_string(),
            node.gossip.to_string(),
            node.metrics.to_string(),
            node.config_file.display().to_string(),
        ]
    });
    let header = ["NODE", "PID", "RPC", "GOSSIP (UDP)", "METRICS", "CONFIGURATION"];
    let count = plan.nodes.len();
    say(output, format!("mökv: {count} nodes on this machine\n\n{}\n", table(&header, rows)));
}

/// Writes each new leader and each node that ends, until all have ended.
async fn watch(plan: &Plan, nodes: &mut [NodeProcess], output: &mut Output) {
    let (news, mut leaders) = tokio::sync::mpsc::channel(16);
    let endpoints = plan.nodes.iter().map(|node| node.rpc.to_string()).collect();
    let _watch = spawn_guarded(connect::watch_leader(endpoints, LEADER_INTERVAL, news));
    let started = rt::now();
    let mut first = true;
    let mut reminded = false;
    loop {
        tokio::select! {
            biased;
            leader = leaders.recv() => match leader {
                Some(leader) => {
                    say(output, format!("{leader} leads."));
                    if std::mem::take(&mut first) {
                        suggest(plan, nodes, &leader, output);
                    }
                }
                None => unreachable!("the watch for leaders runs as long as its guard"),
            },
            () = rt::sleep(children::POLL_INTERVAL) => {}
        }
        report_ended(nodes, output);
        if !children::any_runs(nodes) {
            return;
        }
        if first && !reminded && rt::now() - started > LEADER_PATIENCE {
            reminded = true;
            say(output, format!("No leader yet; the nodes say why in {}", plan.nodes[0].log_file.display()));
        }
    }
}

/// Writes the commands to try next.
fn suggest(plan: &Plan, nodes: &[NodeProcess], leader: &str, output: &mut Output) {
    let mokv = program();
    let flag = plan.endpoints_flag();
    let kill = match nodes.iter().find(|process| process.node.name == leader) {
        Some(process) if nodes.len() > 2 => {
            let other = nodes.iter().find(|other| other.node.name != leader).expect("there are three");
            format!(
                "\n  kill -9 {}    # {leader} ends, another node leads\n  \
                 {mokv} get greeting --endpoints {}    # no write is lost",
                process.pid(),
                other.node.rpc,
            )
        }
        _ => String::new(),
    };
    let text = format!(
        "\nType in another terminal:\n  \
         {mokv} set greeting hello{flag}\n  \
         {mokv} get greeting{flag}\n  \
         {mokv} status{flag}{kill}\n\
         Ctrl-C stops all nodes and keeps their data.\n"
    );
    say(output, text);
}

fn report_ended(nodes: &mut [NodeProcess], output: &mut Output) {
    for process in nodes {
        if let Some(status) = process.newly_ended() {
            let node = &process.node;
            say(
                output,
                format!(
                    "{} {}. Its log: {}. Start it again: {} serve --config-file {}",
                    node.name,
                    children::describe(status),
                    node.log_file.display(),
                    program(),
                    node.config_file.display(),
                ),
            );
        }
    }
}

/// Stops all nodes cleanly; a second signal or a timeout kills them.
async fn stop(nodes: &mut [NodeProcess], signals: &mut StopSignals, output: &mut Output) {
    say(output, "\nStopping; once more Ctrl-C kills.");
    tokio::select! {
        biased;
        () = signals.next() => {}
        () = children::stop(nodes) => {}
        () = rt::sleep(STOP_PATIENCE) => {}
    }
    let killed = children::kill(nodes);
    if !killed.is_empty() {
        say(output, format!("Killed {}, which loses nothing that was acknowledged.", killed.join(", ")));
    }
}
