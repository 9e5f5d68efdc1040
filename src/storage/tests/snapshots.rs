//! Snapshot files: complete or absent, ordered by position, two of them kept.

use super::at;
use crate::rt::disk::{Fault, Operation, SimDisk};
use crate::storage::{Position, SnapshotInfo, Snapshots, StorageError};
use bytes::Bytes;
use proptest::prelude::*;

async fn open(disk: &SimDisk) -> Snapshots {
    Snapshots::open(disk.mount()).await.unwrap().0
}

fn blocks(position: Position) -> Vec<Bytes> {
    (0..5).map(|block| Bytes::from(vec![position.index as u8 + block as u8; 50 * block])).collect()
}

async fn write(snapshots: &Snapshots, position: Position) -> Result<SnapshotInfo, StorageError> {
    let mut writer =
        snapshots.create(position, Bytes::from(format!("header {}", position.index)), 300).await?;
    for block in blocks(position) {
        writer.add_block(block).await?;
    }
    writer.finish().await
}

/// Reads header and blocks, and checks every byte of them.
async fn load(snapshots: &Snapshots, info: &SnapshotInfo) -> Result<(Bytes, Vec<Bytes>), StorageError> {
    let mut reader = snapshots.reader(info).await?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().await? {
        blocks.push(block);
    }
    Ok((reader.header().clone(), blocks))
}

async fn raw(snapshots: &Snapshots, info: &SnapshotInfo) -> Bytes {
    snapshots.reader(info).await.unwrap().read_chunk(0, info.bytes as usize).await.unwrap()
}

#[tokio::test]
async fn a_snapshot_is_read_back_after_a_power_loss() {
    let disk = SimDisk::new(1);
    let info = write(&open(&disk).await, at(3, 7)).await.unwrap();
    disk.power_loss();
    let snapshots = open(&disk).await;
    assert_eq!(snapshots.list(), std::slice::from_ref(&info));
    assert_eq!(load(&snapshots, &info).await.unwrap(), (Bytes::from("header 7"), blocks(at(3, 7))));
}

#[tokio::test]
async fn two_are_kept_the_newest_by_position_first() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    for position in [at(1, 5), at(2, 3), at(2, 9), at(3, 9)] {
        write(&snapshots, position).await.unwrap();
        assert_eq!(snapshots.newest().unwrap().position, position);
    }
    let positions = |list: &[SnapshotInfo]| list.iter().map(|info| info.position).collect::<Vec<_>>();
    assert_eq!(positions(&snapshots.list()), [at(3, 9), at(2, 9)]);
    disk.power_loss();
    let (snapshots, list) = Snapshots::open(disk.mount()).await.unwrap();
    assert_eq!(positions(&list), [at(3, 9), at(2, 9)]);
    assert_eq!((disk.files().len(), snapshots.damaged().len()), (2, 0));
}

/// Each crash comes when a new snapshot has its name and no old one is removed yet (chaos seed 100077).
#[tokio::test]
async fn crashes_do_not_pile_snapshots_up() {
    let disk = SimDisk::new(1);
    for index in 1..20 {
        let snapshots = open(&disk).await;
        assert!(disk.files().len() <= 2, "{:?}", disk.files());
        disk.on_call(Some(Box::new(|call| match call.operation {
            Operation::Remove => Fault::KillBefore,
            _ => Fault::None,
        })));
        let written = write(&snapshots, at(1, index)).await;
        assert_eq!(written.is_err(), index > 2);
        disk.on_call(None);
    }
}

#[tokio::test]
async fn any_flipped_bit_is_noticed_and_the_older_snapshot_serves() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    let older = write(&snapshots, at(1, 5)).await.unwrap();
    let newer = write(&snapshots, at(1, 9)).await.unwrap();
    let image = disk.image();
    let name = disk.files()[1].0.clone();
    for offset in 0..newer.bytes {
        disk.restore(&image);
        assert!(disk.flip(&name, offset, (offset % 8) as u8));
        let snapshots = open(&disk).await;
        assert_eq!(snapshots.list(), std::slice::from_ref(&older), "offset {offset}");
        assert_eq!(snapshots.damaged()[0].position, at(1, 9));
    }
    // It is removed when the next snapshot is published.
    let snapshots = open(&disk).await;
    write(&snapshots, at(1, 12)).await.unwrap();
    assert_eq!(disk.files().len(), 2);
    assert_eq!(snapshots.damaged(), []);
}

#[tokio::test]
async fn a_reader_goes_on_though_its_snapshot_is_replaced() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    let info = write(&snapshots, at(1, 1)).await.unwrap();
    let mut reader = snapshots.reader(&info).await.unwrap();
    for index in 2..5 {
        write(&snapshots, at(1, index)).await.unwrap();
    }
    let mut read = Vec::new();
    while let Some(block) = reader.next_block().await.unwrap() {
        read.push(block);
    }
    assert_eq!(read, blocks(at(1, 1)));
    assert!(snapshots.reader(&info).await.is_err());
}

#[tokio::test]
async fn a_full_disk_declines_and_leaves_nothing_behind() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    write(&snapshots, at(1, 1)).await.unwrap();
    let used: u64 = disk.files().iter().map(|file| file.1).sum();
    // Too full to begin, and full while writing more than was expected.
    for room in [100, 400] {
        disk.set_capacity(Some(used + room));
        assert!(write(&snapshots, at(1, 2)).await.unwrap_err().is_full());
        assert!(snapshots.receive(at(1, 2), 5000).await.unwrap_err().is_full());
        assert_eq!((disk.files().len(), snapshots.list().len()), (1, 1));
    }
    disk.set_capacity(None);
    write(&snapshots, at(1, 2)).await.unwrap();
}

#[tokio::test]
async fn a_received_snapshot_counts_only_when_it_is_published() {
    let (from, disk) = (SimDisk::new(1), SimDisk::new(2));
    let sender = open(&from).await;
    let info = write(&sender, at(4, 8)).await.unwrap();
    let bytes = raw(&sender, &info).await;
    let snapshots = open(&disk).await;
    let mut receiver = snapshots.receive(at(4, 8), info.bytes).await.unwrap();
    for (place, chunk) in bytes.chunks(100).enumerate().collect::<Vec<_>>().into_iter().rev() {
        receiver.write_chunk(place as u64 * 100, bytes.slice_ref(chunk)).await.unwrap();
    }
    let received = receiver.verify().await.unwrap();
    assert_eq!(received.reader().await.unwrap().header(), "header 8");
    assert_eq!(snapshots.newest(), None);
    assert_eq!(received.publish().await.unwrap(), info);
    assert_eq!(load(&snapshots, &info).await.unwrap(), (Bytes::from("header 8"), blocks(at(4, 8))));
    disk.power_loss();
    assert_eq!(open(&disk).await.list(), [info]);
}

#[tokio::test]
async fn a_transfer_with_a_hole_a_flaw_or_another_position_is_refused() {
    let (from, disk) = (SimDisk::new(1), SimDisk::new(2));
    let sender = open(&from).await;
    let info = write(&sender, at(4, 8)).await.unwrap();
    let bytes = raw(&sender, &info).await;
    let snapshots = open(&disk).await;
    let mut flawed = bytes.to_vec();
    flawed[200] ^= 1;
    let cases = [
        (at(4, 8), bytes.slice(..bytes.len() - 1), info.bytes),
        (at(4, 8), flawed.into(), info.bytes),
        (at(4, 9), bytes.clone(), info.bytes),
        (at(4, 8), bytes.clone(), info.bytes + 1),
        (at(4, 8), bytes.slice(..50), 50),
    ];
    for (position, content, announced) in cases {
        let mut receiver = snapshots.receive(position, announced).await.unwrap();
        receiver.write_chunk(0, content).await.unwrap();
        assert!(matches!(receiver.verify().await, Err(StorageError::Corrupt { .. })));
        assert_eq!(disk.files(), []);
    }
    let mut receiver = snapshots.receive(at(4, 8), 100).await.unwrap();
    receiver.write_chunk(60, bytes.slice(..41)).await.unwrap_err();
    receiver.write_chunk(u64::MAX, bytes.slice(..41)).await.unwrap_err();
    receiver.abandon().await;
    assert_eq!(disk.files(), []);
}

/// Transfers whose connections break and snapshots that are not finished leave no file.
#[tokio::test]
async fn what_is_begun_and_dropped_is_removed_at_once() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    let info = write(&snapshots, at(1, 1)).await.unwrap();
    let kept = disk.files();
    for number in 0..20 {
        let mut receiver = snapshots.receive(at(1, 2), 5_000).await.unwrap();
        receiver.write_chunk(0, Bytes::from(vec![1; 100])).await.unwrap();
        let mut writer = snapshots.create(at(1, 2), Bytes::new(), 5_000).await.unwrap();
        writer.add_block(Bytes::from(vec![1; 100])).await.unwrap();
        assert_eq!(disk.files().len(), kept.len() + 2, "after {number} of each");
        drop((receiver, writer));
        settled(&disk, &kept).await;
    }
    // A snapshot that was completely received but not installed, and one whose file does not exist yet.
    let bytes = raw(&snapshots, &info).await;
    let mut receiver = snapshots.receive(at(1, 1), info.bytes).await.unwrap();
    receiver.write_chunk(0, bytes).await.unwrap();
    drop(receiver.verify().await.unwrap());
    settled(&disk, &kept).await;
    for polls in 0.. {
        let mut begun = Box::pin(snapshots.receive(at(1, 2), 5_000));
        let mut is_ready = false;
        for _ in 0..polls {
            is_ready = is_ready || futures_util::poll!(&mut begun).is_ready();
        }
        drop(begun);
        settled(&disk, &kept).await;
        if is_ready {
            assert!(polls > 4, "it was dropped before and after each call of the disk");
            break;
        }
    }
    // A published snapshot is not removed by a dropped writer.
    write(&snapshots, at(1, 3)).await.unwrap();
    for_all_tasks().await;
    assert_eq!((disk.files().len(), snapshots.list().len()), (2, 2));
}

#[tokio::test]
async fn what_a_dead_process_had_begun_is_removed_by_the_next() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    let receivers = [
        snapshots.receive(at(1, 2), 5_000).await.unwrap(),
        snapshots.receive(at(1, 2), 5_000).await.unwrap(),
    ];
    disk.kill();
    let next = open(&disk).await;
    assert_eq!(disk.files(), []);
    // An incarnation in a process may end after the next has begun: the files that it drops are not those of the next.
    let receiver = next.receive(at(1, 2), 5_000).await.unwrap();
    let kept = disk.files();
    drop((receivers, snapshots));
    for_all_tasks().await;
    assert_eq!(disk.files(), kept);
    receiver.abandon().await;
    assert_eq!(disk.files(), []);
}

#[tokio::test]
async fn incarnations_that_share_a_disk_remove_their_own_files_only() {
    let disk = SimDisk::new(1);
    let mount = disk.mount();
    let (before, _) = Snapshots::open(mount.clone()).await.unwrap();
    let old = before.receive(at(1, 2), 5_000).await.unwrap();
    let (after, _) = Snapshots::open(mount.clone()).await.unwrap();
    let new = after.receive(at(1, 2), 5_000).await.unwrap();
    let kept = disk.files();
    assert_eq!(kept.len(), 1, "the next incarnation removed what was left");
    drop((old, before));
    for_all_tasks().await;
    assert_eq!(disk.files(), kept);
    drop((new, after));
    settled(&disk, &[]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_removed_is_tried_again() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk).await;
    for failures in [1, 2] {
        let mut receiver = snapshots.receive(at(1, 2), 5_000).await.unwrap();
        disk.fail_nth(Operation::Write, 1);
        (1..=failures).for_each(|nth| disk.fail_nth(Operation::Remove, nth));
        receiver.write_chunk(0, Bytes::from(vec![1; 100])).await.unwrap_err();
        assert_eq!(disk.files().len(), 1);
        drop(receiver);
        for_all_tasks().await;
        assert_eq!(disk.files().len(), failures as usize - 1);
    }
    open(&disk).await;
    assert_eq!(disk.files(), []);
}

/// Yields often enough for the other tasks to make a few calls to the disk.
async fn for_all_tasks() {
    for _ in 0..20 {
        crate::rt::task::yield_now().await;
    }
}

async fn settled(disk: &SimDisk, files: &[(String, u64)]) {
    for_all_tasks().await;
    assert_eq!(disk.files(), files);
}

#[tokio::test]
async fn an_accident_at_any_call_leaves_the_old_or_the_new_snapshot() {
    for fault in
        [Fault::KillBefore, Fault::KillAfter, Fault::PowerLossBefore, Fault::PowerLossAfter, Fault::Error]
    {
        for nth in 1.. {
            let disk = SimDisk::new(nth);
            let snapshots = open(&disk).await;
            for index in [1, 2] {
                write(&snapshots, at(1, index)).await.unwrap();
            }
            let target = disk.counts().calls + nth;
            disk.on_call(Some(Box::new(move |call| if call.number == target { fault } else { Fault::None })));
            let written = write(&snapshots, at(1, 3)).await;
            let reached = disk.counts().calls >= target;
            disk.on_call(None);
            disk.power_loss();
            let snapshots = open(&disk).await;
            assert_eq!(snapshots.damaged(), [], "{fault:?} at {nth}");
            let newest = snapshots.newest().unwrap();
            assert!(newest.position == at(1, 3) || (written.is_err() && newest.position == at(1, 2)));
            assert_eq!(load(&snapshots, &newest).await.unwrap().1, blocks(newest.position));
            assert!(snapshots.list().len() >= 2, "the one before stays");
            if !reached {
                assert!(nth > 12);
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_blocks_are_read_back(
        header in proptest::collection::vec(any::<u8>(), 0..50),
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        term in any::<u64>(),
        index in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = SimDisk::new(1);
            let snapshots = open(&disk).await;
            let mut writer = snapshots.create(at(term, index), header.clone().into(), 100).await.unwrap();
            for block in &blocks {
                writer.add_block(block.clone().into()).await.unwrap();
            }
            let info = writer.finish().await.unwrap();
            disk.kill();
            let (snapshots, list) = Snapshots::open(disk.mount()).await.unwrap();
            assert_eq!(list, std::slice::from_ref(&info));
            let (read_header, read_blocks) = load(&snapshots, &info).await.unwrap();
            assert_eq!(read_header, header);
            assert_eq!(read_blocks, blocks);
        });
    }
}
