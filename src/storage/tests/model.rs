//! A simple model of a log's content, and random operations on it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::{Acknowledged, at, entry};
use crate::rt::spawn;
use crate::storage::record::entry_bytes;
use crate::storage::{Log, LogEntry, Position, StorageError};

/// The state of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub vote: Option<Bytes>,
    pub purged: Option<Position>,
    pub entries: Vec<LogEntry>,
}

/// One operation on a log.
#[derive(Debug, Clone)]
pub enum Operation {
    Append(Vec<LogEntry>),
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge(Position),
}

impl Model {
    pub fn last(&self) -> Option<Position> {
        self.entries.last().map(LogEntry::position).or(self.purged)
    }

    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(entries) => self.entries.extend_from_slice(entries),
            Operation::Vote(vote) => self.vote = Some(vote.clone()),
            Operation::Truncate(last) => {
                self.entries.retain(|entry| last.is_some_and(|last| entry.index <= last))
            }
            Operation::Purge(upto) => {
                self.entries.retain(|entry| entry.index > upto.index);
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                }
            }
        }
    }

    /// Whether an entry at this position is in the log, or was purged.
    pub fn holds(&self, position: Option<Position>) -> bool {
        position.is_none_or(|position| {
            self.purged.is_some_and(|purged| purged.index >= position.index)
                || self.entries.iter().any(|entry| entry.position() == position)
        })
    }

    /// The states through which an operation leads, in order. An append that is larger than a batch is written in
    /// several batches, and a crash may leave any of its entries as the last one.
    pub fn after(&self, operation: &Operation, batch_bytes: u64) -> Vec<Model> {
        let mut states = Vec::new();
        if let Operation::Append(entries) = operation {
            let bytes: u64 = entries.iter().map(|entry| entry_bytes(entry.payload.len())).sum();
            if bytes > batch_bytes {
                let parts = (1..entries.len()).map(|count| Operation::Append(entries[..count].to_vec()));
                states.extend(parts.map(|part| self.clone().with(&part)));
            }
        }
        states.push(self.clone().with(operation));
        states
    }

    fn with(mut self, operation: &Operation) -> Model {
        self.apply(operation);
        self
    }

    /// The present content of a log.
    pub async fn of(log: &Log) -> Result<Model, StorageError> {
        let state = log.state();
        let entries = log.read(0..u64::MAX, u64::MAX).await?;
        let model = Model { vote: state.vote, purged: state.purged, entries };
        assert_eq!(model.last(), state.last);
        Ok(model)
    }

    /// Draws an operation that is possible next.
    pub fn draw(&self, dice: &mut Dice) -> Operation {
        let last = self.last();
        let next = last.map_or_else(|| dice.below(9), |last| last.index + 1);
        let term = last.map_or(1, |last| last.term) + u64::from(dice.below(10) == 0);
        match dice.below(24) {
            0 | 1 => Operation::Vote(vec![dice.below(256) as u8; dice.below(60) as usize].into()),
            2 => Operation::Truncate(match dice.below(8) {
                0 => None,
                _ => Some(next.saturating_sub(dice.below(6))),
            }),
            3 | 4 if self.entries.len() > 3 => {
                let keep = dice.below(4) as usize;
                Operation::Purge(self.entries[self.entries.len() - 1 - keep].position())
            }
            5 if dice.below(4) == 0 => Operation::Purge(at(term, next + dice.below(5))),
            _ => {
                let count = 1 + dice.below(4);
                let length = if dice.below(30) == 0 { 6000 } else { 500 };
                let entries = (0..count).map(|place| entry(term, next + place, dice.below(length) as usize));
                Operation::Append(entries.collect())
            }
        }
    }
}

/// Submits the operation to the log now, to keep the order, and records later that it became durable.
pub fn submit(log: &Log, operation: Operation, number: usize, acknowledged: &Acknowledged) {
    let (log, acknowledged) = (log.clone(), acknowledged.clone());
    let note = move |result: Result<(), StorageError>| {
        if result.is_ok() {
            acknowledged.up_to(number);
        }
    };
    let mut waiting: Pin<Box<dyn Future<Output = ()> + Send>> = match operation {
        Operation::Append(entries) => {
            let _ = log.append(entries, note);
            return;
        }
        Operation::Vote(vote) => Box::pin(async move { note(log.save_vote(vote).await) }),
        Operation::Truncate(last) => Box::pin(async move { note(log.truncate_after(last).await) }),
        Operation::Purge(upto) => Box::pin(async move { note(log.purge(upto).await) }),
    };
    if waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        spawn(waiting);
    }
}

/// Random numbers from a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
