//! The trace of a simulated run: one hash over everything that crossed the boundary of [`rt`](super), in order and with
//! its time.
//!
//! Two runs of the same seed must end with the same hash; the determinism check compares them across processes.
//! In production recording does nothing.

/// Adds an event to the trace.
#[cfg(not(madsim))]
#[inline(always)]
pub fn record(_kind: &'static str, _bytes: &[u8]) {}

/// Adds an event that belongs to a name or an address to the trace.
#[cfg(not(madsim))]
#[inline(always)]
pub fn record_of(_kind: &'static str, _whose: &[u8], _bytes: &[u8]) {}

#[cfg(madsim)]
pub use simulated::{Listener, Trace, listen, record, record_of, snapshot, start};

#[cfg(madsim)]
mod simulated {
    use std::cell::{Cell, RefCell};

    use xxhash_rust::xxh3::xxh3_64;

    /// The events recorded so far.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Trace {
        /// FNV-1a over times, lengths and hashes of all events.
        pub hash: u64,
        /// Number of events.
        pub events: u64,
    }

    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

    struct State {
        trace: Trace,
        start: Option<std::time::Instant>,
        dump: bool,
    }

    thread_local!(static STATE: RefCell<State> = const {
        RefCell::new(State { trace: Trace { hash: FNV_OFFSET, events: 0 }, start: None, dump: false })
    });

    /// Hears an event as it is recorded: its kind, the name or address it belongs to, its bytes. It must record nothing.
    pub type Listener = fn(&'static str, &[u8], &[u8]);

    thread_local!(static LISTENER: Cell<Option<Listener>> = const { Cell::new(None) });

    /// Passes every later event on this thread to `listener`, which sees what crosses the network without being part of
    /// the nodes.
    pub fn listen(listener: Listener) {
        LISTENER.set(Some(listener));
    }

    /// Begins a new trace. With `MOKV_TRACE` set every event is also printed, to find the first difference between two
    /// runs.
    pub fn start() {
        STATE.with_borrow_mut(|state| {
            state.trace = Trace { hash: FNV_OFFSET, events: 0 };
            state.start = Some(super::super::time::now());
            state.dump = std::env::var_os("MOKV_TRACE").is_some();
        });
    }

    /// The trace so far.
    pub fn snapshot() -> Trace {
        STATE.with_borrow(|state| state.trace)
    }

    /// Adds an event to the trace.
    pub fn record(kind: &'static str, bytes: &[u8]) {
        record_of(kind, &[], bytes);
    }

    /// Adds an event that belongs to a name or an address to the trace.
    pub fn record_of(kind: &'static str, whose: &[u8], bytes: &[u8]) {
        if let Some(listener) = LISTENER.get() {
            listener(kind, whose, bytes);
        }
        STATE.with_borrow_mut(|state| {
            let Some(start) = state.start else { return };
            let at = start.elapsed().as_nanos() as u64;
            let hash = &mut state.trace.hash;
            let mut mix = |word: u64| *hash = (*hash ^ word).wrapping_mul(FNV_PRIME).rotate_left(23);
            mix(at);
            for part in [kind.as_bytes(), whose, bytes] {
                mix(part.len() as u64);
                mix(xxh3_64(part));
            }
            state.trace.events += 1;
            if state.dump {
                let shown = &bytes[..bytes.len().min(96)];
                eprintln!(
                    "trace {} {at} {kind} {:016x} {} {}",
                    state.trace.events,
                    state.trace.hash,
                    whose.escape_ascii(),
                    shown.escape_ascii()
                );
            }
        });
    }
}
