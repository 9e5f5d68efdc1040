//! Bit flips on the disk: always detected, except in the one batch of doubt.

use super::model::{Dice, Model, Operation};
use super::{OWNER, small};
use crate::rt::disk::SimDisk;
use crate::storage::{Log, LogConfig, StorageError};

async fn perform(log: &Log, operation: &Operation) {
    match operation.clone() {
        Operation::Append(entries) => super::append(log, entries).await,
        Operation::Vote(vote) => log.save_vote(vote).await.unwrap(),
        Operation::Truncate(last) => log.truncate_after(last).await.unwrap(),
        Operation::Purge(upto) => log.purge(upto).await.unwrap(),
    }
}

#[derive(Debug, Default)]
struct Seen {
    refused: u32,
    harmless: u32,
    doubted: u32,
}

/// Writes a log, flips one bit of one of its files, and restarts.
async fn flip_one(seed: u64, closed: bool, seen: &mut Seen) {
    let mut dice = Dice(seed);
    let disk = SimDisk::new(seed);
    let config = LogConfig { cache_bytes: dice.below(3000), ..small() };
    let log = Log::open(disk.mount(), config.clone(), OWNER).await.unwrap();
    let (mut model, mut before) = (Model::default(), Model::default());
    let mut voted_last = false;
    for _ in 0..1 + dice.below(30) {
        let operation = model.draw(&mut dice);
        perform(&log, &operation).await;
        voted_last = matches!(operation, Operation::Vote(_));
        before = model.clone();
        model.apply(&operation);
    }
    if closed {
        log.close().await.unwrap();
    }
    disk.power_loss();
    let files: Vec<_> = disk.files().into_iter().filter(|(name, _)| name.ends_with(".wal")).collect();
    let (name, length) = &files[dice.below(files.len() as u64) as usize];
    // Most of a segment is empty, so half of the flips are near its beginning.
    let bound = if dice.below(2) == 0 { *length } else { (*length).min(600) };
    disk.flip(name, dice.below(bound), dice.below(8) as u8);
    let recovered = match Log::open(disk.mount(), config, OWNER).await {
        Ok(log) => Model::of(&log).await,
        Err(error) => Err(error),
    };
    match recovered {
        Err(StorageError::Corrupt { .. } | StorageError::Missing { .. }) => seen.refused += 1,
        Err(error) => panic!("seed {seed}: reported as something else: {error}"),
        Ok(recovered) if recovered == model => seen.harmless += 1,
        Ok(recovered) => {
            assert_eq!(recovered, before, "seed {seed}: silent damage");
            assert!(!closed && !voted_last, "seed {seed}: a marked batch was forgotten");
            seen.doubted += 1;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_silent_beyond_the_last_unmarked_batch() {
    let mut seen = Seen::default();
    for seed in 0..400 {
        flip_one(seed, false, &mut seen).await;
    }
    assert!(seen.refused > 50 && seen.harmless > 50 && seen.doubted > 3, "{seen:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_closed_log_is_never_silent_at_all() {
    let mut seen = Seen::default();
    for seed in 1000..1300 {
        flip_one(seed, true, &mut seen).await;
    }
    assert!(seen.refused > 50 && seen.doubted == 0, "{seen:?}");
}

#[tokio::test]
async fn a_vote_is_not_forgotten_by_damage_to_the_end_of_the_log() {
    for offset in 0..200 {
        let disk = SimDisk::new(offset);
        let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
        log.save_vote(super::vote(1)).await.unwrap();
        log.save_vote(super::vote(2)).await.unwrap();
        disk.power_loss();
        let (name, _) = disk.files().into_iter().find(|(name, _)| name.ends_with(".wal")).unwrap();
        disk.flip(&name, 200 + offset, 5);
        if let Ok(log) = Log::open(disk.mount(), small(), OWNER).await {
            assert_eq!(log.state().vote, Some(super::vote(2)), "offset {offset}");
        }
    }
}
