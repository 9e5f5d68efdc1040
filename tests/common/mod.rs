//! Clusters of real processes for tests: started on ports of their own with files of their own, killed by their ids
//! when the test ends, however it ends. Nothing here asserts how long something takes: what must come about is waited
//! for, for very long if need be.

// Every test program compiles this module and uses its own part of it.
#![allow(dead_code)]

pub mod cluster;
pub mod direct;
pub mod http1;
pub mod http2;
pub mod load;
pub mod node;
pub mod ports;

use std::time::Duration;

use mokv::rt;

/// What has not come about by then never will. Far above anything a loaded machine needs.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
///
/// # Panics
/// If it finds nothing within [`LIMIT`].
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = rt::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(rt::now() < end, "waited in vain, for {LIMIT:?}: {what}");
        rt::sleep(PAUSE).await;
    }
}

/// Runs a story on this thread, with worker threads for its tasks.
pub fn run(story: impl Future<Output = ()>) {
    rt::process::block_on(story).expect("the operating system gives threads");
}

/// Fails if a process said anything like a panic.
pub fn assert_no_panic(said: &str) {
    for sign in ["panicked at", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!said.contains(sign), "a panic:\n{said}");
    }
}
