//! A fault at every single call of the disk, one after the other.

use super::crashes::History;
use super::model::{Model, Operation, submit};
use super::{OWNER, append, at, entry, read_all, small, vote};
use crate::rt::disk::{Fault, Operation as DiskOperation, SimDisk};
use crate::rt::task::yield_now;
use crate::storage::{Log, Snapshots, StorageError};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ACCIDENTS: [Fault; 5] =
    [Fault::KillBefore, Fault::KillAfter, Fault::PowerLossBefore, Fault::PowerLossAfter, Fault::Error];

/// Injects `fault` at the `nth` call from now on. The returned flag is set when it happens.
fn aim(disk: &SimDisk, nth: u64, fault: Fault) -> Arc<AtomicBool> {
    let hit = Arc::new(AtomicBool::new(false));
    let (target, note) = (disk.counts().calls + nth, hit.clone());
    disk.on_call(Some(Box::new(move |call| {
        if call.number != target {
            return Fault::None;
        }
        note.store(true, Ordering::SeqCst);
        fault
    })));
    hit
}

/// Ends the process if the fault did not; every other time with a power loss.
fn end(disk: &SimDisk, nth: u64) {
    disk.on_call(None);
    if nth.is_multiple_of(2) { disk.kill() } else { disk.power_loss() }
}

/// Rotations, a vote in an early segment, truncation, purges that retire and recycle segments.
fn story() -> Vec<Operation> {
    let mut story = vec![Operation::Append((1..=4).map(|index| entry(1, index, 300)).collect())];
    story.push(Operation::Vote(vote(1)));
    story.extend((5..=18).map(|index| Operation::Append(vec![entry(1, index, 1500)])));
    story.push(Operation::Truncate(Some(16)));
    story.push(Operation::Append(vec![entry(2, 17, 800)]));
    story.push(Operation::Purge(at(1, 12)));
    story.extend((18..=24).map(|index| Operation::Append(vec![entry(2, index, 1500)])));
    story.push(Operation::Purge(at(9, 40)));
    story.push(Operation::Append(vec![entry(9, 41, 100)]));
    story
}

async fn exercise(log: &Log, history: &mut History) {
    for operation in story() {
        let mut next = history.states[history.states.len() - 1].clone();
        next.apply(&operation);
        submit(log, operation, history.states.len(), &history.acknowledged);
        history.states.push(next);
        for _ in 0..40 {
            yield_now().await;
        }
        if log.failure().borrow().is_some() {
            return;
        }
    }
}

#[tokio::test]
async fn an_accident_at_any_call_of_rotation_and_purge_loses_nothing() {
    for fault in ACCIDENTS {
        let mut nth = 0;
        loop {
            nth += 1;
            let disk = SimDisk::new(nth);
            let hit = aim(&disk, nth, fault);
            let mut history = History::from(Model::default());
            if let Ok(log) = Log::open(disk.mount(), small(), OWNER).await {
                exercise(&log, &mut history).await;
            }
            end(&disk, nth);
            if !hit.load(Ordering::SeqCst) {
                assert!(nth > 150, "the story touches the disk {nth} times");
                break;
            }
            let log = Log::open(disk.mount(), small(), OWNER).await;
            let log = log.unwrap_or_else(|error| panic!("{fault:?} at call {nth}: {error}"));
            history.check(&Model::of(&log).await.unwrap(), nth, &mut Default::default());
        }
    }
}

#[tokio::test]
async fn an_accident_at_any_call_of_recovery_loses_nothing() {
    for fault in ACCIDENTS {
        let mut nth = 0;
        loop {
            nth += 1;
            let disk = SimDisk::new(nth);
            let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
            let mut history = History::from(Model::default());
            exercise(&log, &mut history).await;
            // An operation is in progress when the process is killed.
            submit(&log, Operation::Vote(vote(7)), history.states.len(), &history.acknowledged);
            let mut next = history.states[history.states.len() - 1].clone();
            next.apply(&Operation::Vote(vote(7)));
            history.states.push(next);
            for _ in 0..nth % 7 {
                yield_now().await;
            }
            disk.kill();
            let hit = aim(&disk, nth, fault);
            let opened = Log::open(disk.mount(), small(), OWNER).await;
            if let Ok(log) = &opened
                && let Ok(recovered) = Model::of(log).await
            {
                // From here on Raft relies on what was recovered, whatever happens next.
                history.check(&recovered, nth, &mut Default::default());
                history = History::from(recovered);
            }
            end(&disk, nth);
            let log = Log::open(disk.mount(), small(), OWNER).await;
            let log = log.unwrap_or_else(|error| panic!("{fault:?} at call {nth} of recovery: {error}"));
            history.check(&Model::of(&log).await.unwrap(), nth, &mut Default::default());
            if !hit.load(Ordering::SeqCst) {
                assert!(nth > 12);
                break;
            }
        }
    }
}

/// A batch that no sync covers is in the copy that a recovery makes, and then power fails: the disk has lost the batch, and
/// the copy still has it. No later start may find it there, because Raft relies on its absence by then.
#[tokio::test]
async fn what_an_abandoned_copy_holds_is_never_found_again() {
    let mut lost = 0;
    for seed in 1..=100 {
        let disk = SimDisk::new(seed);
        let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
        for index in 1..=3 {
            append(&log, vec![entry(1, index, 300)]).await;
        }
        disk.on_call(Some(Box::new(|call| match call.operation {
            DiskOperation::Write => Fault::KillAfter,
            _ => Fault::None,
        })));
        log.append(vec![entry(1, 4, 300)], |_| ()).unwrap();
        while log.failure().borrow().is_none() {
            yield_now().await;
        }
        disk.on_call(Some(Box::new(|call| match call.operation {
            DiskOperation::Sync => Fault::PowerLossAfter,
            _ => Fault::None,
        })));
        assert!(
            Log::open(disk.mount(), small(), OWNER).await.is_err(),
            "power fails when the copy is complete"
        );
        disk.on_call(None);
        let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
        let found = read_all(&log).await;
        drop(log);
        disk.kill();
        let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
        assert_eq!(read_all(&log).await, found, "seed {seed}");
        lost += u32::from(found.len() == 3);
    }
    assert!(lost > 20, "the batch was lost {lost} times");
}

/// Installs the snapshot of (2, 30) over a log of term 1 up to 20, in the order that keeps log and snapshots
/// consistent.
async fn install(log: &Log, snapshots: &Snapshots, bytes: &Bytes) -> Result<(), StorageError> {
    let mut receiver = snapshots.receive(at(2, 30), bytes.len() as u64).await?;
    for (place, chunk) in bytes.chunks(64).enumerate() {
        receiver.write_chunk(place as u64 * 64, bytes.slice_ref(chunk)).await?;
    }
    let received = receiver.verify().await?;
    received.reader().await?;
    log.truncate_after(Some(10)).await?;
    received.publish().await?;
    log.purge(at(2, 30)).await
}

async fn snapshot_bytes() -> Bytes {
    let (snapshots, _) = Snapshots::open(SimDisk::new(0).mount()).await.unwrap();
    let mut writer = snapshots.create(at(2, 30), Bytes::from_static(b"new"), 0).await.unwrap();
    writer.add_block(vec![3; 300].into()).await.unwrap();
    let info = writer.finish().await.unwrap();
    snapshots.reader(&info).await.unwrap().read_chunk(0, 10_000).await.unwrap()
}

#[tokio::test]
async fn an_accident_at_any_call_of_installing_a_snapshot_leaves_log_and_snapshot_fitting() {
    let bytes = snapshot_bytes().await;
    for fault in ACCIDENTS {
        let (mut old, mut new, mut nth) = (0, 0, 0);
        loop {
            nth += 1;
            let disk = SimDisk::new(nth);
            let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
            let (snapshots, _) = Snapshots::open(disk.mount()).await.unwrap();
            for index in 1..=20 {
                super::append(&log, vec![entry(1, index, 500)]).await;
            }
            log.save_vote(vote(2)).await.unwrap();
            let writer = snapshots.create(at(1, 10), Bytes::from_static(b"old"), 0).await.unwrap();
            writer.finish().await.unwrap();
            log.purge(at(1, 10)).await.unwrap();
            for _ in 0..60 {
                yield_now().await;
            }
            let hit = aim(&disk, nth, fault);
            let installed = install(&log, &snapshots, &bytes).await;
            end(&disk, nth);

            let (snapshots, _) = Snapshots::open(disk.mount()).await.unwrap();
            assert_eq!(snapshots.damaged(), []);
            let newest = snapshots.newest().expect("one of them is always there").position;
            let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
            let state = log.state();
            assert_eq!(state.vote, Some(vote(2)));
            if newest == at(2, 30) {
                new += 1;
                let last = state.last.unwrap();
                assert!(
                    last <= newest && (last.term == 2 || last.index <= 10),
                    "{fault:?} at {nth}: {state:?}"
                );
            } else {
                old += 1;
                assert!(installed.is_err(), "{fault:?} at {nth}: an installed snapshot vanished");
                assert_eq!((newest, state.purged), (at(1, 10), Some(at(1, 10))), "{fault:?} at {nth}");
            }
            if !hit.load(Ordering::SeqCst) {
                break;
            }
        }
        assert!(old > 5 && new > 2, "{fault:?}: {old} {new}");
    }
}
