use super::*;
use crate::membership::claim::PledgedNode;
use crate::membership::disk::Disk;
use crate::membership::test_disk::TestDisk;
use proptest::prelude::*;
use std::sync::Arc;

fn is_log_file(name: &str) -> bool {
    name.ends_with(".log")
}

async fn start(disk: &TestDisk, name: &str) -> Result<Identity, IdentityError> {
    Identity::load_or_create(Arc::new(disk.clone()), name, is_log_file).await
}

fn pledge_with(node_id: u64) -> Pledge {
    let node = |node_id: u64| PledgedNode { node_id, name: format!("n{node_id}"), rpc_addr: "a:1".into() };
    Pledge::propose(vec![node(node_id), node(1)])
}

#[tokio::test]
async fn e1_every_start_raises_the_boot_counter_and_keeps_the_id() {
    let disk = TestDisk::default();
    let first = start(&disk, "a").await.unwrap();
    assert_ne!(first.node_id(), 0);
    assert_eq!(first.boot(), 1);
    let second = start(&disk, "a").await.unwrap();
    assert_eq!((second.node_id(), second.boot()), (first.node_id(), 2));
    disk.restart(false);
    assert_eq!(start(&disk, "a").await.unwrap().boot(), 3, "the counter was durable");
}

#[tokio::test]
async fn e1_a_boot_counter_is_never_handed_out_twice_whenever_the_power_fails() {
    for keep_unsynced in [false, true] {
        let disk = TestDisk::default();
        let mut highest = 0;
        for calls in 0..60 {
            disk.fail_after(calls % 13);
            if let Ok(identity) = start(&disk, "a").await {
                assert!(identity.boot() > highest, "boot {} after {highest}", identity.boot());
                highest = identity.boot();
            }
            disk.restart(keep_unsynced);
        }
        assert!(highest > 0);
    }
}

#[tokio::test]
async fn e1_identity_and_log_start_only_together() {
    let disk = TestDisk::default();
    disk.put("000001.log", b"records");
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::LogWithoutIdentity), "{error}");

    let disk = TestDisk::default();
    let mut identity = start(&disk, "a").await.unwrap();
    disk.put("000001.log", b"records");
    identity.mark_formatted().await.unwrap();
    let identity = start(&disk, "a").await.unwrap();
    identity.check_log(identity.node_id()).unwrap();
    assert!(matches!(identity.check_log(identity.node_id() ^ 1), Err(IdentityError::OtherLog { .. })));
    disk.remove("000001.log").await.unwrap();
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::IdentityWithoutLog(_)), "{error}");
}

#[tokio::test]
async fn a_directory_serves_one_name_and_one_name_only() {
    let disk = TestDisk::default();
    start(&disk, "a").await.unwrap();
    let error = start(&disk, "b").await.unwrap_err();
    assert!(error.to_string().contains("belongs to node 'a', not to 'b'"), "{error}");
    assert!(matches!(start(&disk, "").await, Err(IdentityError::BadName(_))));
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_noticed() {
    let disk = TestDisk::default();
    start(&disk, "a").await.unwrap();
    let intact = disk.get(FILE).unwrap();
    for bit in 0..intact.len() * 8 {
        let mut damaged = intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        disk.put(FILE, &damaged);
        let error = start(&disk, "a").await.unwrap_err();
        assert!(matches!(error, IdentityError::Damaged(_)), "bit {bit}: {error}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_its_number() {
    let disk = TestDisk::default();
    start(&disk, "a").await.unwrap();
    let mut bytes = disk.get(FILE).unwrap();
    bytes[8] = 9;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    disk.put(FILE, &bytes);
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::Newer(9)), "{error}");
}

#[tokio::test]
async fn e3_a_pledge_is_kept_over_restarts_and_never_exchanged_for_another() {
    let disk = TestDisk::default();
    let mut identity = start(&disk, "a").await.unwrap();
    let pledge = pledge_with(identity.node_id());
    identity.pledge_to(pledge.clone()).await.unwrap();
    identity.pledge_to(pledge.clone()).await.unwrap();
    let other = pledge_with(identity.node_id());
    assert!(matches!(identity.pledge_to(other.clone()).await, Err(IdentityError::PledgedAlready(_))));
    disk.restart(false);
    let mut identity = start(&disk, "a").await.unwrap();
    assert_eq!(identity.pledge(), Some(&pledge));
    assert!(identity.adopt_cluster(other.cluster_id).await.is_err());
    identity.adopt_cluster(pledge.cluster_id).await.unwrap();
}

#[tokio::test]
async fn e4_a_cluster_id_is_adopted_once() {
    let disk = TestDisk::default();
    let (own, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
    start(&disk, "a").await.unwrap().adopt_cluster(own).await.unwrap();
    disk.restart(false);
    let mut identity = start(&disk, "a").await.unwrap();
    assert_eq!(identity.cluster_id(), Some(own));
    identity.adopt_cluster(own).await.unwrap();
    assert!(matches!(identity.adopt_cluster(other).await, Err(IdentityError::OtherCluster { .. })));
}

#[tokio::test]
async fn e6_who_left_starts_over_under_a_new_id_with_its_data_kept_whenever_the_power_fails() {
    for calls in 0.. {
        for keep_unsynced in [false, true] {
            let disk = TestDisk::default();
            let mut identity = start(&disk, "a").await.unwrap();
            let old = identity.node_id();
            identity.adopt_cluster(ClusterId([7; 16])).await.unwrap();
            disk.put("000001.log", b"records");
            disk.put("000002.snapshot", b"state");
            identity.mark_formatted().await.unwrap();
            identity.mark_left().await.unwrap();

            disk.fail_after(calls);
            let result = start(&disk, "a").await;
            let finished = !disk.has_failed();
            disk.restart(keep_unsynced);
            if finished {
                result.unwrap();
            }
            let identity = start(&disk, "a").await.unwrap();
            assert_ne!(identity.node_id(), old);
            assert_eq!(identity.cluster_id(), None);
            assert_eq!(identity.former_cluster_id(), Some(ClusterId([7; 16])));
            assert!(!identity.log_formatted());
            let kept = |name: &str| disk.get(&format!("left-{old:016x}-{name}"));
            assert_eq!(kept("000001.log").as_deref(), Some(&b"records"[..]), "{calls} calls");
            assert_eq!(kept("000002.snapshot").as_deref(), Some(&b"state"[..]));
            assert!(kept(FILE).is_some());
            assert_eq!(disk.names().len(), 4, "{:?}", disk.names());
            if finished && keep_unsynced {
                return;
            }
        }
    }
}

#[tokio::test]
async fn c3_quarantine_outlives_restarts_and_ends_with_the_data() {
    let disk = TestDisk::default();
    start(&disk, "a").await.unwrap().quarantine().await.unwrap();
    disk.restart(false);
    let identity = start(&disk, "a").await.unwrap();
    assert!(identity.quarantined());
    assert!(!identity.set_aside().await.unwrap().quarantined());
}

proptest! {
    #[test]
    fn noise_is_no_identity(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Record::decode(&noise).is_err());
    }
}
