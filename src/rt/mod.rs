//! The boundary to the environment: time, tasks, TCP, UDP, disk, randomness.
//!
//! In production these are tokio, the kernel's sockets and files, and the operating system's randomness; in simulation
//! (`--cfg madsim`) they are a simulated environment driven by a seed. Node code above this module is the same in both:
//! this is the only place in `src` with `cfg(madsim)`.

#[cfg(any(madsim, test))]
pub mod clock;
#[cfg(feature = "server")]
pub mod disk;
pub mod lock;
pub mod net;
#[cfg(feature = "server")]
pub mod process;
pub mod random;
pub mod sometimes;
pub mod splitmix;
pub mod task;
pub mod time;
pub mod trace;
pub mod watch;

pub use sometimes::sometimes;
pub use task::{spawn, spawn_blocking};
pub use time::{Instant, now, sleep, sleep_until, timeout};
