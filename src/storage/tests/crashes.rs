//! The log compared with the model under random faults: what was acknowledged survives all of them.

use super::model::{Dice, Model, submit};
use super::{Acknowledged, OWNER, small};
use crate::rt::disk::{Fault, FaultRates, SimDisk};
use crate::rt::task::yield_now;
use crate::storage::{Log, LogConfig, StorageError};
use std::time::Duration;

/// The fault that ends an incarnation of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Accident {
    /// At this call of the disk.
    At(u64, Fault),
    /// Random EIO, then a restart of the process.
    InputOutput,
    /// The disk is full, then a restart of the process.
    Full,
    /// No fault: the log is closed.
    Closed,
}

fn draw_accident(dice: &mut Dice) -> Accident {
    let call = 1 + dice.below(150);
    match dice.below(12) {
        0..=2 => Accident::At(call, Fault::KillBefore),
        3 => Accident::At(call, Fault::KillAfter),
        4..=6 => Accident::At(call, Fault::PowerLossBefore),
        7 => Accident::At(call, Fault::PowerLossAfter),
        8 | 9 => Accident::InputOutput,
        10 => Accident::Full,
        _ => Accident::Closed,
    }
}

fn arrange(disk: &SimDisk, accident: Accident, dice: &mut Dice) {
    disk.on_call(None);
    disk.set_rates(FaultRates::default());
    disk.set_capacity(None);
    match accident {
        Accident::At(call, fault) => {
            let call = disk.counts().calls + call;
            disk.on_call(Some(Box::new(move |seen| if seen.number == call { fault } else { Fault::None })));
        }
        Accident::InputOutput => disk.set_rates(FaultRates { write: 0.01, sync: 0.04, read: 0.0 }),
        Accident::Full => {
            let used: u64 = disk.files().iter().map(|(_, length)| length).sum();
            disk.set_capacity(Some(used + dice.below(30_000)));
        }
        Accident::Closed => {}
    }
}

#[derive(Default, Debug)]
pub(super) struct Seen {
    incarnations: u64,
    refused_starts: u64,
    kept_in_flight: u64,
    lost_in_flight: u64,
    full: u64,
    failed: u64,
}

/// Every state of the log since its state was last known, including the last acknowledged one.
pub(super) struct History {
    pub states: Vec<Model>,
    pub acknowledged: Acknowledged,
}

impl History {
    pub fn from(state: Model) -> History {
        History { states: vec![state], acknowledged: Acknowledged::default() }
    }

    /// The recovered state must be one of these states, and not earlier than the last acknowledged one.
    pub fn check(&self, recovered: &Model, seed: u64, seen: &mut Seen) {
        let acknowledged = self.acknowledged.get();
        let found = self.states[acknowledged..].iter().any(|state| state == recovered);
        assert!(
            found,
            "seed {seed}: acknowledged {acknowledged} of {}: expected {:?} or later, recovered {:?}",
            self.states.len() - 1,
            brief(&self.states[acknowledged]),
            brief(recovered),
        );
        if acknowledged + 1 < self.states.len() {
            let kept = *recovered != self.states[acknowledged];
            seen.kept_in_flight += u64::from(kept);
            seen.lost_in_flight += u64::from(!kept);
        }
    }
}

fn brief(model: &Model) -> impl std::fmt::Debug + use<> {
    (model.vote.clone(), model.purged, model.entries.first().map(|entry| entry.index), model.last())
}

async fn incarnation(
    disk: &SimDisk,
    config: &LogConfig,
    accident: Accident,
    history: &mut History,
    dice: &mut Dice,
    seed: u64,
    seen: &mut Seen,
) {
    let log = match Log::open(disk.mount(), config.clone(), OWNER).await {
        Ok(log) => log,
        Err(error) => {
            let damaged = matches!(error, StorageError::Corrupt { .. } | StorageError::Missing { .. });
            assert!(!damaged && accident != Accident::Closed, "seed {seed}, {accident:?}: {error}");
            seen.refused_starts += 1;
            return;
        }
    };
    let Ok(recovered) = Model::of(&log).await else { return };
    history.check(&recovered, seed, seen);
    let mut committed = log.state().committed;
    assert!(
        recovered.holds(committed),
        "seed {seed}: {committed:?} is committed, but {:?}",
        brief(&recovered)
    );
    *history = History::from(recovered);
    let failure = log.failure();
    for _ in 0..dice.below(120) {
        for _ in 0..dice.below(4) {
            let present = &history.states[history.states.len() - 1];
            let operation = present.draw(dice);
            let after = present.after(&operation, config.batch_bytes());
            if !after.iter().all(|state| state.holds(committed)) {
                // What is committed is never truncated.
                continue;
            }
            let accepted = failure.borrow().is_none();
            submit(&log, operation, history.states.len() + after.len() - 1, &history.acknowledged);
            if accepted {
                history.states.extend(after);
                if dice.below(3) == 0
                    && let Some(last) = log.state().last
                {
                    log.save_committed(last);
                    committed = Some(last);
                }
            }
        }
        for _ in 0..dice.below(12) {
            yield_now().await;
        }
    }
    if accident == Accident::Closed {
        log.close().await.unwrap();
        let all = history.states.len() - 1;
        assert_eq!(history.acknowledged.get(), all, "seed {seed}: closing makes everything durable");
    }
    let failed = failure.borrow().clone();
    seen.failed += u64::from(failed.is_some());
    if let Some(error) = failed {
        seen.full += u64::from(error.is_full());
        log.append(vec![], |result| assert!(result.is_err())).unwrap_err();
        log.save_vote(super::vote(1)).await.unwrap_err();
        log.ready().await.unwrap_err();
    }
}

fn run(seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut dice = Dice(seed);
            let disk = SimDisk::new(seed);
            let config = LogConfig {
                cache_bytes: dice.below(6000),
                segment_bytes: 2048 + dice.below(4) * 2048,
                idle_mark_delay: Duration::from_secs(if dice.below(3) == 0 { 0 } else { 3600 }),
                spare_segments: 1 + dice.below(2) as usize,
                ..small()
            };
            let mut history = History::from(Model::default());
            for _ in 0..6 {
                seen.incarnations += 1;
                let accident = draw_accident(&mut dice);
                arrange(&disk, accident, &mut dice);
                incarnation(&disk, &config, accident, &mut history, &mut dice, seed, &mut seen).await;
                // However the incarnation ended, now the process is killed or power fails.
                arrange(&disk, Accident::Closed, &mut dice);
                if dice.below(2) == 0 { disk.kill() } else { disk.power_loss() }
            }
            incarnation(&disk, &config, Accident::Closed, &mut history, &mut dice, seed, &mut seen).await;
        });
    }
    seen
}

#[test]
fn what_was_acknowledged_survives_any_accident() {
    let seen = run(0..200);
    eprintln!("{seen:?}");
    assert!(seen.refused_starts > 20, "{seen:?}");
    assert!(seen.kept_in_flight > 50 && seen.lost_in_flight > 50, "{seen:?}");
    assert!(seen.full > 10 && seen.failed > 300, "{seen:?}");
}
