//! Reading sealed segments and kept snapshots again while the log is in use.

use bytes::Bytes;

use super::{OWNER, append, at, entry, small};
use crate::rt::disk::SimDisk;
use crate::storage::{Log, Pace, Snapshots, StorageError};

const PACE: Pace = Pace { bytes_per_second: 1 << 30 };

/// A log of several segments with a vote and entries of many lengths.
async fn several_segments(disk: &SimDisk) -> Log {
    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    for index in 1..=40 {
        append(&log, vec![entry(1, index, (index as usize * 97) % 900)]).await;
        if index % 7 == 0 {
            log.save_vote(super::vote(index as u8)).await.unwrap();
        }
    }
    assert!(log.sealed().len() >= 3, "{:?}", log.sealed());
    log
}

fn name(number: u64) -> String {
    format!("log-{number:016x}.wal")
}

#[tokio::test]
async fn every_flipped_bit_of_a_sealed_segment_is_found_and_the_rest_is_sound() {
    let disk = SimDisk::new(1);
    let log = several_segments(&disk).await;
    for number in log.sealed() {
        log.check_sealed(number, PACE).await.unwrap();
        // The bytes after the last batch are not used.
        let bytes = disk.contents(&name(number)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        for offset in (0..used).step_by(13) {
            disk.flip(&name(number), offset, offset as u8 % 8);
            let found = log.check_sealed(number, PACE).await.unwrap_err();
            let StorageError::Corrupt { file, offset: place, .. } = &found else { panic!("{found}") };
            assert!(*file == name(number) && *place <= offset, "{found} at {offset}");
            disk.flip(&name(number), offset, offset as u8 % 8);
        }
        log.check_sealed(number, PACE).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_was_recovered_and_goes_on_in_its_last_segment_is_sound() {
    let disk = SimDisk::new(2);
    drop(several_segments(&disk).await);
    disk.power_loss();
    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    let last = log.state().last.unwrap().index;
    for index in last + 1..last + 20 {
        append(&log, vec![entry(2, index, 700)]).await;
    }
    for number in log.sealed() {
        log.check_sealed(number, PACE).await.unwrap();
    }
}

#[tokio::test]
async fn a_segment_that_was_given_up_is_not_reported() {
    let disk = SimDisk::new(3);
    let log = several_segments(&disk).await;
    let first = log.sealed()[0];
    let upto = log.last_index_in(first).unwrap();
    disk.flip(&name(first), 1_000, 3);
    log.check_sealed(first, PACE).await.unwrap_err();
    log.purge(at(1, upto)).await.unwrap();
    assert!(!log.has_segment(first));
    log.check_sealed(first, PACE).await.unwrap();
}

#[tokio::test]
async fn a_condemned_snapshot_is_offered_no_more_and_goes_with_the_next_one() {
    let disk = SimDisk::new(4);
    let snapshots = Snapshots::open(disk.mount()).await.unwrap().0;
    let write = async |index| {
        let mut writer = snapshots.create(at(1, index), Bytes::from("header"), 100).await.unwrap();
        writer.add_block(Bytes::from("block")).await.unwrap();
        writer.finish().await.unwrap()
    };
    let kept = || snapshots.list().iter().map(|info| info.position.index).collect::<Vec<_>>();
    let damage = || StorageError::Corrupt { file: "f".into(), offset: 0, reason: "flipped" };
    write(1).await;
    snapshots.condemn(at(1, 1), damage());
    assert_eq!(kept(), [1], "there is no other");
    write(2).await;
    snapshots.condemn(at(1, 2), damage());
    assert_eq!(kept(), [1]);
    assert!(
        snapshots.has(at(1, 2)) && disk.files().len() == 2,
        "nothing is removed before another one is there"
    );
    write(3).await;
    assert_eq!(kept(), [3, 1]);
    assert!(!snapshots.has(at(1, 2)) && disk.files().len() == 2);
}
