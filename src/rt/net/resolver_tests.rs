use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::rt::net::TcpListener;
use crate::rt::{now, sleep};

/// Reached only if the code is broken.
const GENEROUS: Duration = Duration::from_secs(60);
/// Longer than any caller that connects waits.
const SLOW: Duration = Duration::from_secs(2);
/// Callers that connect wait no longer.
const LIMIT: Duration = Duration::from_secs(1);

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 1).into()
}

/// The system's answers, one after the other, each with the time that it takes.
fn answering(answers: Vec<(Duration, Option<SocketAddr>)>) -> (Resolver, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let resolver = Resolver::asking(move |_| {
        let (delay, answer) = answers[count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
        async move {
            sleep(delay).await;
            answer.map(|address| vec![address]).ok_or_else(|| io::Error::other("no such name"))
        }
    });
    (resolver, asked)
}

#[tokio::test]
async fn a_late_answer_is_kept_and_used_by_the_next_caller() {
    let (resolver, asked) = answering(vec![(SLOW, Some(address(1)))]);
    let mut given_up = 0;
    let found = timeout(GENEROUS, async {
        loop {
            match timeout(LIMIT, resolver.resolve("a:1")).await {
                Ok(found) => return found.unwrap(),
                Err(_) => given_up += 1,
            }
        }
    });
    assert_eq!(found.await.expect("the lookup ends"), [address(1)]);
    assert!(given_up >= 1, "no caller had to wait");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one lookup of a name at a time");
}

#[tokio::test]
async fn what_was_found_before_is_used_while_a_new_lookup_takes_long() {
    let (resolver, _) = answering(vec![(Duration::ZERO, Some(address(1))), (SLOW, Some(address(2)))]);
    assert_eq!(resolver.resolve("a:1").await.unwrap(), [address(1)]);
    let found = timeout(SLOW, resolver.resolve("a:1")).await.expect("no caller waits for the slow lookup");
    assert_eq!(found.unwrap(), [address(1)]);
    let moved = async {
        while resolver.kept("a:1") != Some(vec![address(2)]) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GENEROUS, moved).await.expect("the late answer takes the place of the earlier one");
}

#[tokio::test]
async fn a_quick_answer_takes_the_place_of_what_was_found_before_at_once() {
    let (resolver, _) =
        answering(vec![(Duration::ZERO, Some(address(1))), (Duration::ZERO, Some(address(2)))]);
    assert_eq!(resolver.resolve("a:1").await.unwrap(), [address(1)]);
    assert_eq!(resolver.resolve("a:1").await.unwrap(), [address(2)]);
}

/// A name that no longer resolves is reported as an error, which matters while a cluster is formed. A caller that only
/// connects, and checks which node it reaches, uses the earlier addresses.
#[tokio::test]
async fn a_name_that_no_longer_resolves_is_reported_and_still_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let here = listener.local_addr().unwrap();
    let (resolver, _) = answering(vec![(Duration::ZERO, Some(here)), (Duration::ZERO, None)]);
    resolver.connect("a:1").await.unwrap();
    assert_eq!(resolver.resolve("a:1").await.unwrap_err().to_string(), "no such name");
    assert_eq!(resolver.connect("a:1").await.unwrap().peer_addr().unwrap(), here);
}

#[tokio::test]
async fn lookups_under_way_are_bounded_and_all_are_answered() {
    let most = Arc::new(AtomicUsize::new(0));
    let (under_way, seen) = (Arc::new(AtomicUsize::new(0)), most.clone());
    let resolver = Resolver::asking(move |_| {
        let (under_way, seen) = (under_way.clone(), seen.clone());
        async move {
            seen.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            Ok(vec![address(1)])
        }
    });
    let names: Vec<String> = (0..MAX_LOOKUPS * 3).map(|number| format!("name-{number}:1")).collect();
    let asked = futures_util::future::join_all(names.iter().map(|name| resolver.resolve(name)));
    assert!(timeout(GENEROUS, asked).await.expect("all are answered").iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::Relaxed), MAX_LOOKUPS);
}

#[tokio::test]
async fn the_names_remembered_are_bounded() {
    let (resolver, _) = answering(vec![(Duration::ZERO, Some(address(1)))]);
    for number in 0..MAX_NAMES * 2 {
        resolver.resolve(&format!("name-{number}:1")).await.unwrap();
    }
    let remembered = resolver.0.names.lock().len();
    assert!(remembered <= MAX_NAMES, "{remembered}");
}

#[tokio::test]
async fn an_address_is_no_name() {
    let (resolver, asked) = answering(vec![(SLOW, None)]);
    assert_eq!(resolver.resolve("[::1]:7").await.unwrap(), ["[::1]:7".parse().unwrap()]);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// A listener whose queue is full: the kernel drops further connections, as a machine that is gone would.
fn silent_listener() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // The queue's length is the system's limit, and a dropped connection is detected only after a delay.
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    (listener, queued)
}

#[tokio::test]
async fn a_silent_first_address_is_survived_within_the_limit_of_a_dialer() {
    let (silent, _queued) = silent_listener();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let both = vec![silent.local_addr().unwrap(), listener.local_addr().unwrap()];
    let answers = both.clone();
    let resolver = Resolver::asking(move |_| std::future::ready(Ok(answers.clone())));
    let began = now();
    let connected = timeout(LIMIT, resolver.connect("a:1")).await;
    let connected = connected.unwrap_or_else(|_| panic!("no connection after {:?}", now() - began));
    assert_eq!(connected.unwrap().peer_addr().unwrap(), both[1]);
    assert!(timeout(LIMIT, super::super::connect_to(both[0])).await.is_err(), "the first one is silent");
}
