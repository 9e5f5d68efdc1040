//! A counter that many programs may raise at the same time. Each reads it, and writes the new value on the condition that
//! no other program has written it in between.
//!
//!     cargo run --example counter -- 127.0.0.1:8400 visits

use mokv::client::{Client, Error, WriteOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (endpoint, key) = (words.next().ok_or("name a node: HOST:PORT")?, words.next().ok_or("name a key")?);
    let client = Client::builder().endpoints([endpoint]).build()?;
    println!("{key} is {}", raise(&client, &key).await?);
    client.close().await?;
    Ok(())
}

/// Raises the counter by one. Returns its new value.
async fn raise(client: &Client, key: &str) -> Result<u64, Box<dyn std::error::Error>> {
    loop {
        let read = client.get(key).await?;
        let present: u64 = match &read.entry {
            Some(entry) => std::str::from_utf8(&entry.value)?.parse()?,
            None => 0,
        };
        let next = present + 1;
        match client.set_with(key, next.to_string(), WriteOptions::if_unchanged(&read)).await {
            Ok(_) => return Ok(next),
            // Another program has written in between. The library retries all other errors itself, as far as that is safe.
            Err(Error::ConditionFailed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
