//! A service that reads its configuration repeatedly. The nearest node answers stale reads at once, also while there is
//! no leader, and they never return an older revision than this client has seen.
//!
//!     cargo run --example config_reader -- 127.0.0.1:8400 config/ 3

use std::time::Duration;

use mokv::client::{Client, ListOptions};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::disallowed_methods)] // It is no node: its time is the real one.
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (endpoint, prefix) =
        (words.next().ok_or("name a node: HOST:PORT")?, words.next().ok_or("name a prefix")?);
    let looks: u32 = words.next().ok_or("give the number of reads")?.parse()?;
    let client = Client::builder().endpoints([endpoint]).build()?;
    for _ in 0..looks {
        // All entries are of one revision, so two settings that are changed together are read together.
        let mut listing = client.list_with(ListOptions::prefix(&prefix).stale()).await?;
        println!("at revision {}:", listing.revision());
        while let Some(entry) = listing.next().await? {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            println!("  {} = {}", text(&entry.key), text(&entry.value));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
