//! Golden traces: text files in `sim/golden` that show a piece of the protocol message by message, and scenarios that
//! play it again and compare.
//!
//! The messages are decoded from the bytes that cross the simulated network (`mokv::rt::trace::listen`), so a node
//! has no part in its trace. Top-down: `recorder` listens, `streams` cuts connections into messages, `words` names
//! them, `script` orders the lines and compares them with the file. A trace shows neither time nor identity: names
//! stand for node ids, and nonces, proofs, addresses and sizes are left out.

#[cfg(madsim)]
mod recorder;
pub mod script;
pub mod streams;
#[cfg(madsim)]
mod words;

#[cfg(madsim)]
pub use recorder::{applied, begin, end, heartbeats, installed, listen, meet, note};
