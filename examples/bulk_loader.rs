//! Loads lines `KEY<TAB>VALUE` from standard input, many at a time. Every line is applied once, however often it had to
//! be sent, and a line that fails is reported by its key.
//!
//!     mokv list --output plain | cargo run --example bulk_loader -- 127.0.0.1:8400

use std::io::BufRead;

use futures_util::stream::{self, StreamExt};
use mokv::client::Client;

/// Writes under way. The cluster syncs its disks once for all writes that arrive together.
const AT_A_TIME: usize = 256;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).ok_or("name a node: HOST:PORT")?;
    let client = Client::builder().endpoints([endpoint]).build()?;
    let lines = std::io::stdin().lock().lines();
    let writes = stream::iter(lines).map(|line| {
        let client = &client;
        async move {
            let line = line.map_err(|error| format!("standard input: {error}"))?;
            let (key, value) = line.split_once('\t').ok_or_else(|| format!("no tab in '{line}'"))?;
            let written = client.set(key, value.to_owned()).await;
            written.map(|_| ()).map_err(|error| format!("{key}: {error}"))
        }
    });
    let results: Vec<Result<(), String>> = writes.buffer_unordered(AT_A_TIME).collect().await;
    let failures: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    failures.iter().for_each(|failure| eprintln!("{failure}"));
    println!("{} keys written, {} failed", results.len() - failures.len(), failures.len());
    client.close().await?;
    if failures.is_empty() { Ok(()) } else { Err("some keys were not written".into()) }
}
