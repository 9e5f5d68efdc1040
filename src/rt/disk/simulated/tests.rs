use super::*;
use crate::rt::disk::FileRef;
use bytes::Bytes;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Runs a future without any runtime.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

async fn file_with(disk: &SimDisk, durable: &'static [u8]) -> FileRef {
    let mounted = disk.mount();
    let file = mounted.create("f").await.unwrap();
    file.write_and_sync(0, Bytes::from_static(durable)).await.unwrap();
    mounted.sync_dir().await.unwrap();
    file
}

async fn content(disk: &SimDisk) -> Option<Bytes> {
    disk.mount().open("f").await.ok()?.read_at(0, 1 << 20).await.ok()
}

#[test]
fn a_kill_keeps_what_only_a_power_loss_takes() {
    run(async {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let file = file_with(&disk, b"old").await;
            file.write_at(0, Bytes::from_static(b"new")).await.unwrap();
            disk.kill();
            assert!(file.read_at(0, 3).await.is_err(), "the old process's handle is dead");
            assert_eq!(content(&disk).await.unwrap(), "new");
            disk.power_loss();
            let after = content(&disk).await.unwrap();
            assert!(after == "old" || after == "new");
            lost += usize::from(after == "old");
        }
        assert!((5..45).contains(&lost), "some writes are lost and some survive: {lost}");
    });
}

#[test]
fn a_failed_sync_is_forgotten_and_its_data_is_gone_after_a_power_loss() {
    run(async {
        let mut lost = 0;
        for seed in 0..40 {
            let disk = SimDisk::new(seed);
            let file = file_with(&disk, b"old").await;
            file.write_at(0, Bytes::from_static(b"new")).await.unwrap();
            disk.fail_nth(Operation::Sync, 1);
            file.sync().await.unwrap_err();
            file.sync().await.unwrap();
            disk.kill();
            assert_eq!(content(&disk).await.unwrap(), "new", "the cache shows what the platter never got");
            disk.mount().open("f").await.unwrap().sync().await.unwrap();
            disk.power_loss();
            lost += usize::from(content(&disk).await.unwrap() == "old");
        }
        assert!(lost > 20, "a failed sync makes at most a part durable: {lost}");
    });
}

#[test]
fn names_need_a_sync_of_the_directory_and_a_rename_is_atomic() {
    run(async {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..60 {
            let disk = SimDisk::new(seed);
            let mounted = disk.mount();
            for (name, bytes) in [("f", "old"), ("g", "new")] {
                let file = mounted.create(name).await.unwrap();
                file.write_and_sync(0, Bytes::from_static(bytes.as_bytes())).await.unwrap();
            }
            mounted.sync_dir().await.unwrap();
            mounted.rename("g", "f").await.unwrap();
            assert_eq!(disk.counts().unsynced_names, 1);
            disk.power_loss();
            match (&content(&disk).await.unwrap()[..], disk.files().len()) {
                (b"new", 1) => kept += 1,
                (b"old", 2) => lost += 1,
                other => panic!("half a rename: {other:?}"),
            }
        }
        assert!(kept > 5 && lost > 5, "{kept} {lost}");
    });
}

#[test]
fn power_loss_tears_writes_at_sectors_and_never_touches_synced_bytes() {
    run(async {
        let mut torn = 0;
        for seed in 0..100 {
            let disk = SimDisk::new(seed);
            let file = file_with(&disk, &[1; 4096]).await;
            file.write_at(100, Bytes::from(vec![2; 3000])).await.unwrap();
            disk.power_loss();
            let after = content(&disk).await.unwrap();
            assert!(after[..100].iter().chain(&after[3100..]).all(|byte| *byte == 1));
            for sector in after[..3100].chunks(512) {
                let new =
                    &sector[sector.len().min(if sector.as_ptr() == after.as_ptr() { 100 } else { 0 })..];
                assert!(new.iter().all(|byte| *byte == new[0]), "a sector is written whole or not at all");
            }
            torn += usize::from(after[100..3100].contains(&1) && after[100..3100].contains(&2));
        }
        assert!(torn > 10, "{torn}");
    });
}

#[test]
fn a_full_disk_refuses_growth_and_counts_what_it_was_asked() {
    run(async {
        let disk = SimDisk::new(1);
        disk.set_capacity(Some(100));
        let file = file_with(&disk, b"0123456789").await;
        assert_eq!(disk.mount().free_bytes().await.unwrap(), 90);
        assert_eq!(file.preallocate(101).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.preallocate(100).await.unwrap();
        assert_eq!(
            file.write_at(95, Bytes::from_static(b"123456")).await.unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        file.write_at(0, Bytes::from_static(b"9876543210")).await.unwrap();
        let counts = disk.counts();
        assert_eq!((counts.unsynced_writes, counts.bytes_written), (1, 20));
        assert_eq!(&file.read_at(0, 4).await.unwrap()[..], b"9876");
    });
}

#[test]
fn a_hook_sees_every_call_and_can_stop_the_world_at_any() {
    run(async {
        let disk = SimDisk::new(1);
        let file = file_with(&disk, b"old").await;
        let mut writes = 0;
        disk.on_call(Some(Box::new(move |call| {
            writes += u64::from(call.operation == Operation::Write && call.name == "f");
            if writes == 2 { Fault::KillAfter } else { Fault::None }
        })));
        file.write_at(0, Bytes::from_static(b"one")).await.unwrap();
        file.write_at(0, Bytes::from_static(b"two")).await.unwrap_err();
        disk.on_call(None);
        assert_eq!(content(&disk).await.unwrap(), "two");
        assert_eq!(disk.counts().kills, 1);
    });
}

#[test]
fn disks_are_copied_rolled_back_wiped_and_damaged() {
    run(async {
        let disk = SimDisk::new(1);
        let file = file_with(&disk, b"old").await;
        let image = disk.image();
        file.write_and_sync(0, Bytes::from_static(b"new")).await.unwrap();
        disk.restore(&image);
        assert!(file.len().await.is_err());
        assert_eq!(content(&disk).await.unwrap(), "old");
        assert!(disk.flip("f", 1, 0));
        disk.power_loss();
        assert_eq!(content(&disk).await.unwrap(), "omd");
        disk.wipe();
        assert_eq!(content(&disk).await, None);
        assert!(!disk.flip("f", 0, 0));
    });
}

#[test]
fn an_open_file_outlives_its_name_and_a_power_loss_may_bring_the_name_back() {
    run(async {
        let mut back = 0;
        for seed in 0..40 {
            let disk = SimDisk::new(seed);
            let file = file_with(&disk, b"old").await;
            disk.mount().remove("f").await.unwrap();
            assert_eq!(&file.read_at(0, 3).await.unwrap()[..], b"old");
            disk.power_loss();
            back += usize::from(content(&disk).await.is_some());
        }
        assert!((5..35).contains(&back), "{back}");
    });
}

#[test]
fn equal_seeds_fail_alike() {
    let outcomes = |seed| {
        run(async {
            let disk = SimDisk::new(seed);
            let file = file_with(&disk, b"old").await;
            disk.set_rates(FaultRates { write: 0.3, sync: 0.3, read: 0.3 });
            let mut outcomes = Vec::new();
            for _ in 0..100 {
                outcomes.push(file.write_at(3, Bytes::from(vec![7; 2000])).await.is_ok());
                outcomes.push(file.sync().await.is_ok());
                outcomes.push(file.read_at(0, 1).await.is_ok());
            }
            disk.set_rates(FaultRates::default());
            file.write_at(0, Bytes::from(vec![8; 9000])).await.unwrap();
            disk.power_loss();
            (outcomes, content(&disk).await)
        })
    };
    assert_eq!(outcomes(7), outcomes(7));
    assert_ne!(outcomes(7), outcomes(8));
}

#[tokio::test]
async fn a_slow_disk_takes_its_time_and_may_die_in_the_middle_of_a_write() {
    let mut torn = 0;
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let file = file_with(&disk, &[1; 2000]).await;
        let slow = Duration::from_micros(200)..Duration::from_micros(400);
        disk.set_latency(Some(Latency {
            read: Duration::ZERO..Duration::ZERO,
            write: slow.clone(),
            sync: slow,
        }));
        let writing = crate::rt::spawn(async move { file.write_at(0, vec![2; 2000].into()).await });
        while disk.counts().unsynced_writes == 0 {
            crate::rt::task::yield_now().await;
        }
        disk.kill();
        assert!(writing.await.unwrap().is_err());
        let after = content(&disk).await.unwrap();
        let new = after.iter().take_while(|byte| **byte == 2).count();
        assert!(after[new..].iter().all(|byte| *byte == 1), "any beginning, and nothing else");
        torn += usize::from(new > 0 && new < 2000);
    }
    assert!(torn > 15, "{torn}");
}
