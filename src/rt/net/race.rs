//! Connects to several addresses of one name in parallel (RFC 8305, "Happy Eyeballs"): a silent address costs a short
//! delay, not the connection.
//!
//! Addresses are tried in the order in which the resolver returned them (RFC 6724), with the families alternating; the
//! next one starts when the one before has failed or has been silent for a short time. The first connection wins and
//! the other attempts are dropped. Names are resolved elsewhere.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::rt::sleep;

/// The "Connection Attempt Delay" that RFC 8305 recommends.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// All addresses are tried within this time, however many: callers that connect wait for one second.
const ALL_TRIED_WITHIN: Duration = Duration::from_millis(750);
/// The shortest delay that RFC 8305 allows.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// Connects to the address that answers first. Not bounded in time.
///
/// # Errors
/// That of the address that failed last, if all failed.
///
/// # Panics
/// If there is no address.
pub(super) async fn race<S, F>(addresses: Vec<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let delay = (ALL_TRIED_WITHIN / addresses.len() as u32).clamp(SHORTEST_DELAY, ATTEMPT_DELAY);
    let mut waiting = take_turns(addresses);
    let mut attempts = FuturesUnordered::new();
    attempts.push(connect(waiting.pop_front().expect("a name that resolves has an address")));
    let mut pause = sleep(delay);
    loop {
        tokio::select! {
            biased;
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) if waiting.is_empty() && attempts.is_empty() => return Err(error),
                Err(_) => {}
            },
            () = &mut pause, if !waiting.is_empty() => {}
        }
        if let Some(next) = waiting.pop_front() {
            attempts.push(connect(next));
            pause = sleep(delay);
        }
    }
}

/// The addresses with families alternating, the family of the first address first.
fn take_turns(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (one, other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = VecDeque::new();
    loop {
        let before = turns.len();
        turns.extend(one.next());
        turns.extend(other.next());
        if turns.len() == before {
            return turns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::timeout;

    /// Callers that connect wait no longer.
    const LIMIT: Duration = Duration::from_secs(1);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_the_preferred_one_begins() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let turns = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(take_turns(given), turns);
    }

    #[tokio::test]
    async fn the_last_of_many_silent_addresses_is_reached_within_the_limit_of_a_dialer() {
        let all: Vec<SocketAddr> = (1..=20).map(|number| ([10, 0, 0, number], 1).into()).collect();
        let alive = all[19];
        let connect = |address| async move {
            if address != alive {
                std::future::pending::<()>().await;
            }
            Ok(address)
        };
        assert_eq!(timeout(LIMIT, race(all, connect)).await.expect("in time").unwrap(), alive);
    }

    #[tokio::test]
    async fn addresses_that_refuse_are_passed_over_at_once_and_the_last_refusal_is_returned() {
        let all = addresses(&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"]);
        let refuse = |address: SocketAddr| async move { Err::<(), _>(io::Error::other(address.to_string())) };
        let refused = timeout(ATTEMPT_DELAY, race(all, refuse)).await.expect("a refusal causes no wait");
        assert_eq!(refused.unwrap_err().to_string(), "10.0.0.2:1");
    }
}
