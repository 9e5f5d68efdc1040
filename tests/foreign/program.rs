//! A program that proves claims about a cluster and reports them line by line.
//!
//! `ok  CLAIM` and `ok  CLAIM (DETAIL)` report a proved claim. `do  kill NAME` and `do  start NAME` request that a node
//! be killed or started; the program then waits for a line on its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use mokv::rt;

use super::tools::Running;
use crate::common::cluster::Cluster;

/// Far longer than the programs themselves wait for anything.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// Runs a program until it ends, and carries out its requests. Returns the proved claims.
pub async fn play(mut command: Command, cluster: &mut Cluster) -> Vec<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Running::start(command);
    let mut stdin = program.0.stdin.take().unwrap();
    let output = BufReader::new(program.0.stdout.take().unwrap());
    let (sender, lines) = sync_channel(1000);
    // Until the program ends, or the receiver is dropped.
    rt::spawn(rt::spawn_blocking(move || {
        output.lines().map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
    }));
    let mut proved = Vec::new();
    loop {
        let line = match lines.recv_timeout(SILENCE_LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("the program says nothing for {SILENCE_LIMIT:?}"),
        };
        println!("{line}");
        if let Some(claim) = line.strip_prefix("ok  ") {
            let (claim, _detail) = claim.split_once(" (").unwrap_or((claim, ""));
            proved.push(claim.to_owned());
        } else if let Some(wish) = line.strip_prefix("do  ") {
            fulfil(wish, cluster);
            writeln!(stdin, "done").unwrap();
        }
    }
    let status = program.ended(SILENCE_LIMIT).await;
    assert!(status.success(), "the program ends with {status}");
    proved
}

fn fulfil(wish: &str, cluster: &mut Cluster) {
    let (verb, name) = wish.split_once(' ').unwrap_or((wish, ""));
    let node = cluster.nodes.iter_mut().find(|node| node.name == name);
    let node = node.unwrap_or_else(|| panic!("no node for the wish '{wish}'"));
    match verb {
        "kill" => node.kill(),
        "start" => node.start(),
        _ => panic!("the harness cannot '{wish}'"),
    }
}
