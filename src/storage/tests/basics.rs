//! The behaviour that a caller sees without faults, or with minor ones.

use bytes::Bytes;

use super::model::{Dice, Model, submit};
use super::{Acknowledged, OWNER, append, at, entry, read_all, small, stopped, vote};
use crate::node_id::NodeId;
use crate::rt;
use crate::rt::disk::{DiskRef, Fault, Operation, SimDisk};
use crate::rt::task::yield_now;
use crate::storage::{Log, LogConfig, Owner, StorageError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

async fn open(disk: &SimDisk) -> Log {
    Log::open(disk.mount(), small(), OWNER).await.unwrap()
}

async fn idle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test]
async fn entries_are_readable_at_once_and_durable_when_the_callback_says_so() {
    let disk = SimDisk::new(1);
    assert!(!Log::exists(&disk.mount()).await.unwrap());
    let log = open(&disk).await;
    assert!(Log::exists(&disk.mount()).await.unwrap());
    let acknowledged = Acknowledged::default();
    let note = acknowledged.clone();
    log.append(vec![entry(1, 5, 10), entry(1, 6, 10)], move |result| {
        result.unwrap();
        note.up_to(1);
    })
    .unwrap();
    assert_eq!(read_all(&log).await, [entry(1, 5, 10), entry(1, 6, 10)]);
    assert_eq!((log.state().last, acknowledged.get()), (Some(at(1, 6)), 0));
    append(&log, vec![]).await;
    assert_eq!(acknowledged.get(), 1, "callbacks come in order");
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    for index in 0..60 {
        append(&log, vec![entry(1 + index / 20, index, 300)]).await;
    }
    log.save_vote(vote(9)).await.unwrap();
    log.truncate_after(Some(49)).await.unwrap();
    log.purge(at(1, 9)).await.unwrap();
    log.save_committed(at(3, 45));
    log.save_acknowledged(Bytes::from_static(b"n2 up to 45"));
    append(&log, vec![entry(4, 50, 5)]).await;
    let (state, entries) = (log.state(), read_all(&log).await);
    assert_eq!(state.purged, Some(at(1, 9)));
    assert_eq!(state.acknowledged.as_deref(), Some(&b"n2 up to 45"[..]));
    assert_eq!((entries.len(), entries[0].index, &entries[40]), (41, 10, &entry(4, 50, 5)));
    disk.power_loss();
    let log = open(&disk).await;
    assert_eq!((log.state(), read_all(&log).await), (state, entries));
}

#[tokio::test]
async fn a_read_is_bounded_in_bytes_but_never_empty_and_comes_from_memory_or_disk_alike() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    let entries: Vec<_> = (1..=40).map(|index| entry(1, index, 250)).collect();
    for entry in &entries {
        append(&log, vec![entry.clone()]).await;
    }
    assert!(log.metrics().cached_bytes <= small().cache_bytes);
    assert_eq!(read_all(&log).await, entries);
    assert_eq!(log.read(3..9, u64::MAX).await.unwrap(), entries[2..8]);
    assert_eq!(log.read(3..9, 600).await.unwrap(), entries[2..4]);
    assert_eq!(log.read(3..9, 0).await.unwrap(), entries[2..3]);
    assert_eq!(log.read(38..99, 600).await.unwrap(), entries[37..39]);
    assert_eq!(log.read(41..99, 600).await.unwrap(), []);
    log.purge(at(1, 20)).await.unwrap();
    assert_eq!(log.read(0..22, u64::MAX).await.unwrap(), entries[20..21]);
}

#[tokio::test]
async fn what_is_queued_together_is_one_batch() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    let before = log.metrics();
    let syncs = disk.counts().syncs;
    for index in 1..=50 {
        log.append(vec![entry(1, index, 10)], |result| result.unwrap()).unwrap();
    }
    append(&log, vec![entry(1, 51, 10)]).await;
    let after = log.metrics();
    assert_eq!(after.entries - before.entries, 51);
    assert!(after.batches - before.batches <= 3, "{after:?}");
    assert!(disk.counts().syncs - syncs <= 6);
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait() {
    let disk = SimDisk::new(1);
    let config = LogConfig { max_queued_bytes: 1000, ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    log.ready().await.unwrap();
    log.append(vec![entry(1, 1, 2000)], |result| result.unwrap()).unwrap();
    assert!(log.metrics().queued_bytes > 1000);
    log.ready().await.unwrap();
    assert_eq!(log.metrics().queued_bytes, 0);
}

#[tokio::test]
async fn the_committed_mark_never_causes_a_write_of_its_own() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    append(&log, vec![entry(1, 1, 10)]).await;
    idle().await;
    let writes = disk.counts().writes;
    log.save_committed(at(1, 1));
    idle().await;
    assert_eq!(disk.counts().writes, writes);
    append(&log, vec![entry(1, 2, 10)]).await;
    disk.power_loss();
    assert_eq!(open(&disk).await.state().committed, Some(at(1, 1)));
}

#[tokio::test]
async fn what_members_acknowledged_rides_along_is_kept_by_every_segment_and_never_causes_a_write() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    append(&log, vec![entry(1, 1, 10)]).await;
    idle().await;
    let writes = disk.counts().writes;
    let acknowledged = Bytes::from(vec![7; 400]);
    log.save_acknowledged(acknowledged.clone());
    idle().await;
    assert_eq!(disk.counts().writes, writes);
    let first = log.metrics().segments;
    for index in 2..200 {
        append(&log, vec![entry(1, index, 300)]).await;
    }
    assert!(log.metrics().segments > first, "no segment was rolled");
    log.purge(at(1, 190)).await.unwrap();
    append(&log, vec![entry(1, 200, 10)]).await;
    assert_eq!(log.durable(), Some(at(1, 200)));
    disk.power_loss();
    let log = open(&disk).await;
    assert_eq!((log.state().acknowledged, log.durable()), (Some(acknowledged), None));
}

#[tokio::test]
async fn an_idle_log_marks_its_last_batch_once() {
    let disk = SimDisk::new(1);
    let config = LogConfig { idle_mark_delay: Duration::ZERO, ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    append(&log, vec![entry(1, 1, 10)]).await;
    while log.metrics().marks < 2 {
        rt::sleep(Duration::from_millis(1)).await;
    }
    rt::sleep(Duration::from_millis(5)).await;
    assert_eq!(log.metrics().marks, 2, "one for the new log, one for the entry");
}

#[tokio::test]
async fn another_nodes_log_is_refused() {
    let disk = SimDisk::new(1);
    open(&disk).await.close().await.unwrap();
    for owner in [Owner { node_id: NodeId(1), ..OWNER }, Owner { cluster_id: [8; 16], ..OWNER }] {
        let error = Log::open(disk.mount(), small(), owner).await.unwrap_err();
        assert!(matches!(error, StorageError::Foreign { .. }));
        assert!(error.to_string().contains("belongs to node id 000000000000abcd"), "{error}");
    }
}

#[tokio::test]
async fn purged_segments_are_used_again_and_the_disk_does_not_grow() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    let creations = Arc::new(AtomicU64::new(0));
    let count = creations.clone();
    disk.on_call(Some(Box::new(move |call| {
        count.fetch_add(u64::from(call.operation == Operation::Create), Ordering::Relaxed);
        Fault::None
    })));
    for index in 1..=300 {
        append(&log, vec![entry(1, index, 900)]).await;
        if index > 5 {
            log.purge(at(1, index - 5)).await.unwrap();
        }
        // Two or three live ones, two spares, two recycled ones, and those that are being retired.
        assert!(disk.files().len() <= 11, "{:?}", disk.files());
    }
    assert!(log.metrics().rotations > 70);
    assert!(creations.load(Ordering::Relaxed) < 10, "most segments come from recycled files");
    idle().await;
    assert!(log.metrics().segments <= 4);
    log.close().await.unwrap();
    let entries: Vec<_> = (296..=300).map(|index| entry(1, index, 900)).collect();
    assert_eq!(read_all(&open(&disk).await).await, entries);
}

#[tokio::test]
async fn a_full_disk_is_reported_in_time_and_votes_go_on() {
    let disk = SimDisk::new(1);
    let config = LogConfig { space_check_interval: Duration::from_millis(1), ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    idle().await;
    assert!(log.has_room());
    disk.set_capacity(Some(4096 * 3 + 1000));
    let mut index = 0;
    while log.has_room() {
        index += 1;
        append(&log, vec![entry(1, index, 500)]).await;
        idle().await;
    }
    // Client writes are not admitted; Raft's own writes still fit.
    log.save_vote(vote(3)).await.unwrap();
    append(&log, vec![entry(2, index + 1, 100)]).await;
    disk.set_capacity(None);
    while !log.has_room() {
        rt::sleep(Duration::from_millis(1)).await;
    }
    append(&log, vec![entry(2, index + 2, 5000)]).await;
}

#[tokio::test]
async fn as_many_files_are_kept_for_reuse_as_the_log_has() {
    let disk = SimDisk::new(1);
    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    let mut index = 0;
    let mut grow = async |entries: u64| {
        for _ in 0..entries {
            index += 1;
            append(&log, vec![entry(1, index, 900)]).await;
        }
        index
    };
    grow(80).await;
    for _ in 0..4 {
        let last = grow(40).await;
        log.purge(at(1, last - 80)).await.unwrap();
        idle().await;
        let metrics = log.metrics();
        assert!(metrics.spares <= 2 + metrics.segments, "{metrics:?}");
    }
    let files = disk.files().len();
    let last = grow(40).await;
    assert_eq!(disk.files().len(), files, "what was purged is used again, and nothing else");
    log.purge(at(1, last)).await.unwrap();
    idle().await;
    assert!(log.metrics().spares <= 2 + 2, "a log that became small keeps few");
}

#[tokio::test]
async fn the_files_of_earlier_segments_are_kept_over_a_start_unless_space_is_short() {
    let disk = SimDisk::new(1);
    let spares = || {
        let files = disk.files();
        let names = files.iter().filter(|(name, length)| name.starts_with("log-spare-") && *length == 4096);
        names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    for index in 1..=40 {
        append(&log, vec![entry(1, index, 900)]).await;
    }
    log.purge(at(1, 20)).await.unwrap();
    idle().await;
    log.close().await.unwrap();
    let (before, entries) = (spares(), read_all(&log).await);
    drop(log);
    assert!(before.len() > 2, "{before:?}");
    // One that was not finished, and one of another size.
    let unfinished = disk.mount().create("log-spare-00000000000000ff.tmp").await.unwrap();
    unfinished.write_at(0, Bytes::from_static(&[0; 100])).await.unwrap();

    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    assert_eq!(read_all(&log).await, entries);
    idle().await;
    let now = spares();
    assert_eq!(now, before[1..], "the first one became the last segment, and the others are as they were");
    assert!(disk.files().iter().all(|(name, _)| name != "log-spare-00000000000000ff.tmp"));
    for index in 41..=80 {
        append(&log, vec![entry(2, index, 900)]).await;
    }
    let entries = read_all(&log).await;
    log.close().await.unwrap();
    drop(log);

    let used: u64 = disk.files().iter().map(|(_, length)| length).sum();
    disk.set_capacity(Some(used + 4095));
    let log = Log::open(disk.mount(), small(), OWNER).await.unwrap();
    assert_eq!(read_all(&log).await, entries, "there is space for the last segment again");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_gets_back_what_is_kept_beyond_the_segments_prepared_ahead() {
    let disk = SimDisk::new(1);
    let config =
        LogConfig { space_check_interval: Duration::from_millis(1), reserve_bytes: 30_000, ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    for index in 1..=40 {
        append(&log, vec![entry(1, index, 900)]).await;
    }
    log.purge(at(1, 20)).await.unwrap();
    let kept = async {
        while log.metrics().spares != 2 + log.metrics().rotations - log.metrics().segments {
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::timeout(PATIENCE, kept).await.expect("two to be used next, and those that were purged");
    assert!(log.metrics().spares > 4);
    // Removing the superfluous spares does not free enough.
    let used: u64 = disk.files().iter().map(|(_, length)| length).sum();
    disk.set_capacity(Some(used + 1_000));
    let given_up = async {
        while log.metrics().spares > 2 {
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::timeout(PATIENCE, given_up).await.expect("those that were purged are superfluous");
    assert!(!log.has_room());
    // Segments purged now are not kept for reuse either.
    let freed = log.sealed_bytes();
    log.purge(at(1, 39)).await.unwrap();
    let room = async {
        while !log.has_room() {
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::timeout(PATIENCE, room).await.expect("purging makes room");
    let now: u64 = disk.files().iter().map(|(_, length)| length).sum();
    assert!(now + freed < used, "{used} bytes, {freed} of them sealed, became {now}");
    assert!(log.failure().borrow().is_none());
}

#[tokio::test]
async fn a_full_disk_is_not_filled_again_and_again_by_a_segment_that_does_not_fit() {
    let disk = SimDisk::new(1);
    let config = LogConfig { space_check_interval: Duration::from_millis(1), ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    idle().await;
    disk.set_capacity(Some(4096 * 3 + 1000));
    while log.has_room() {
        append(&log, vec![entry(1, log.state().last.map_or(1, |last| last.index + 1), 500)]).await;
        idle().await;
    }
    let attempts = Arc::new(AtomicU64::new(0));
    let count = attempts.clone();
    disk.on_call(Some(Box::new(move |call| {
        count.fetch_add(u64::from(call.operation == Operation::Preallocate), Ordering::Relaxed);
        Fault::None
    })));
    rt::sleep(Duration::from_millis(50)).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 0);
    assert_eq!(log.room_for_snapshot(), 1000, "what is no use for a segment is enough for a snapshot");
}

#[tokio::test]
async fn the_reserve_closes_admission_while_segments_are_still_ready() {
    let disk = SimDisk::new(1);
    let config =
        LogConfig { space_check_interval: Duration::from_millis(1), reserve_bytes: 10_000, ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    disk.set_capacity(Some(4096 * 3 + 9000));
    while log.has_room() {
        rt::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(log.metrics().spares, 2);
}

#[tokio::test]
async fn on_a_full_disk_what_is_queued_still_fits_into_the_segments_that_are_ready() {
    let disk = SimDisk::new(1);
    // By `max_batch_bytes` a batch may be larger than a segment.
    let log =
        Log::open(disk.mount(), LogConfig { max_batch_bytes: 1 << 20, ..small() }, OWNER).await.unwrap();
    append(&log, vec![entry(1, 1, 500)]).await;
    idle().await;
    assert_eq!(log.metrics().spares, 2);
    disk.set_capacity(Some(4096 * 3));
    // More than the active segment and one of the two prepared ones can hold.
    let entries: Vec<_> = (2..=12).map(|index| entry(1, index, 800)).collect();
    append(&log, entries.clone()).await;
    assert!(log.failure().borrow().is_none());
    assert_eq!(log.metrics().rotations, 3);
    disk.set_capacity(None);
    log.close().await.unwrap();
    assert_eq!(read_all(&open(&disk).await).await[1..], entries[..]);
}

#[tokio::test]
async fn a_log_without_any_space_stops_instead_of_hanging() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    disk.set_capacity(Some(0));
    let mut index = 0;
    while log.failure().borrow().is_none() {
        index += 1;
        let _ = log.append(vec![entry(1, index, 1000)], |_| {});
        idle().await;
    }
    assert!(log.failure().borrow().as_ref().unwrap().is_full());
    disk.set_capacity(None);
    disk.kill();
    let recovered = read_all(&open(&disk).await).await;
    assert!(recovered.len() >= 4);
}

#[tokio::test]
async fn one_failed_sync_stops_the_log_and_nothing_is_tried_again() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    append(&log, vec![entry(1, 1, 10)]).await;
    idle().await;
    disk.fail_nth(Operation::Sync, 1);
    let (done, durable) = tokio::sync::oneshot::channel();
    log.append(vec![entry(1, 2, 10)], move |result| drop(done.send(result))).unwrap();
    assert!(matches!(durable.await.unwrap(), Err(StorageError::Stopped(_))));
    stopped(&log).await;
    let writes = disk.counts().writes;
    assert!(matches!(log.save_vote(vote(1)).await, Err(StorageError::Stopped(_))));
    assert!(matches!(log.close().await, Err(StorageError::Stopped(_))));
    idle().await;
    assert_eq!(disk.counts().writes, writes);
}

#[tokio::test]
async fn an_entry_damaged_on_disk_is_noticed_when_it_is_read() {
    let disk = SimDisk::new(1);
    let config = LogConfig { cache_bytes: 0, ..small() };
    let log = Log::open(disk.mount(), config, OWNER).await.unwrap();
    append(&log, vec![entry(1, 1, 100)]).await;
    append(&log, vec![entry(1, 2, 100)]).await;
    let (name, _) = disk.files().into_iter().find(|(name, _)| name.ends_with(".wal")).unwrap();
    let end = 4000;
    for offset in (0..end).rev() {
        disk.flip(&name, offset, 3);
    }
    let error = log.read(1..3, 1000).await.unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt { file, .. } if *file == name), "{error}");
}

#[tokio::test]
async fn segments_removed_by_hand_are_missed() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    for index in 1..=40 {
        append(&log, vec![entry(1, index, 900)]).await;
    }
    log.close().await.unwrap();
    let image = disk.image();
    let live: Vec<_> =
        disk.files().into_iter().map(|file| file.0).filter(|name| name.ends_with(".wal")).collect();
    assert!(live.len() > 5);
    for (victim, named) in [(0, 0), (2, 2)] {
        disk.restore(&image);
        disk.mount().remove(&live[victim]).await.unwrap();
        let error = Log::open(disk.mount(), small(), OWNER).await.unwrap_err();
        assert!(matches!(&error, StorageError::Missing { file, .. } if *file == live[named]), "{error}");
    }
}

#[tokio::test]
async fn real_files_hold_what_the_model_says() {
    let directory = tempfile::tempdir().unwrap();
    let disk: DiskRef = Arc::new(crate::rt::disk::RealDisk::open(directory.path()).unwrap());
    let mut dice = Dice(5);
    let mut model = Model::default();
    for round in 0..12 {
        let log = Log::open(disk.clone(), small(), OWNER).await.unwrap();
        assert_eq!(Model::of(&log).await.unwrap(), model, "round {round}");
        let acknowledged = Acknowledged::default();
        for number in 1..=40 {
            let operation = model.draw(&mut dice);
            model.apply(&operation);
            log.ready().await.unwrap();
            submit(&log, operation, number, &acknowledged);
        }
        assert_eq!(Model::of(&log).await.unwrap(), model, "round {round}");
        log.close().await.unwrap();
        assert_eq!(acknowledged.get(), 40);
    }
}

#[tokio::test]
async fn a_closed_log_lets_go_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let disk: DiskRef = Arc::new(crate::rt::disk::RealDisk::open(directory.path()).unwrap());
    let log = Log::open(disk.clone(), small(), OWNER).await.unwrap();
    append(&log, vec![entry(1, 1, 10)]).await;
    log.close().await.unwrap();
    drop(disk);
    assert_eq!(read_all(&log).await, [entry(1, 1, 10)], "reading goes on");
    // Only a thread's last job may still hold it briefly.
    while crate::rt::disk::RealDisk::open(directory.path()).is_err() {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_start_on_a_full_disk_leaves_no_half_written_copy() {
    let disk = SimDisk::new(1);
    let log = open(&disk).await;
    append(&log, vec![entry(1, 1, 100)]).await;
    disk.kill();
    drop(log);
    // Enough for a part of the copy only: spares are removed first.
    let segments = || disk.files().iter().map(|file| file.1).max().unwrap();
    disk.set_capacity(Some(segments() + 1_000));
    assert!(Log::open(disk.mount(), small(), OWNER).await.unwrap_err().is_full());
    let names: Vec<String> = disk.files().into_iter().map(|file| file.0).collect();
    assert!(matches!(names.as_slice(), [only] if Log::is_log_file(only)), "{names:?}");
    disk.set_capacity(None);
    assert_eq!(read_all(&open(&disk).await).await, [entry(1, 1, 100)]);
}
