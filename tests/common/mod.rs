//! Clusters of real processes for tests: started on ports of their own with files of their own, killed by their ids
//! when the test ends, however it ends. Nothing here asserts how long something takes: conditions are waited for, for
//! very long if necessary.

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

/// A condition that does not hold by then never will. Far more than a loaded machine needs.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Time between two checks.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `look` until it returns `Some`.
///
/// # Panics
/// If it does not within [`LIMIT`].
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

/// Runs a test on this thread, with worker threads for its tasks.
pub fn run(story: impl Future<Output = ()>) {
    rt::process::block_on(story).expect("the operating system gives threads");
}

/// Fails if the output of a process contains a panic.
pub fn assert_no_panic(said: &str) {
    for sign in ["panicked at", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!said.contains(sign), "a panic:\n{said}");
    }
}
