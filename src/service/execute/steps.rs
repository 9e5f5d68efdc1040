//! Reading along a clone of the map in bounded steps, as a stream that is bounded in time.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};

use crate::rt::{self, Instant};
use crate::service::Refused;
use crate::service::timed::Timed;

/// A reading in progress.
pub(super) trait Steps: Send + 'static {
    type Item: Send + 'static;

    /// Returns the next items, a bounded number; none if as many others were passed over.
    fn step(&mut self) -> Result<Vec<Self::Item>, Refused>;

    /// Whether the last step was the last one.
    fn is_over(&self) -> bool;
}

/// Returns the stream of all items. It ends with the first error, which at `until` is `late`.
pub(super) fn stream<S: Steps>(
    reading: S,
    until: Instant,
    late: &str,
) -> Pin<Box<dyn Stream<Item = Result<S::Item, Refused>> + Send>> {
    let items = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        Some(match reading.step() {
            Ok(items) => {
                if items.is_empty() {
                    // Others run while many items are passed over.
                    rt::task::yield_now().await;
                }
                let items: Vec<_> = items.into_iter().map(Ok).collect();
                (stream::iter(items), (!reading.is_over()).then_some(reading))
            }
            Err(refused) => (stream::iter(vec![Err(refused)]), None),
        })
    })
    .flatten();
    Box::pin(Timed::new(Box::pin(items), until, Refused::Late(late.to_owned())))
}
