use super::*;
use crate::incarnations::{Incarnation, Incarnations, REMEMBERED};
use crate::membership::claim::PledgedNode;
use crate::node_id::NodeId;
use crate::rt::disk::{Fault, Operation, SimDisk};
use bytes::Bytes;
use proptest::prelude::*;

fn is_log_file(name: &str) -> bool {
    name.ends_with(".log")
}

async fn start(disk: &SimDisk, name: &str) -> Result<Identity, IdentityError> {
    Identity::load_or_create(disk.mount(), name, is_log_file).await
}

async fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let disk = disk.mount();
    if disk.exists(name).await.unwrap() {
        disk.remove(name).await.unwrap();
    }
    let file = disk.create(name).await.unwrap();
    file.write_and_sync(0, Bytes::copy_from_slice(bytes)).await.unwrap();
    disk.sync_dir().await.unwrap();
}

async fn get(disk: &SimDisk, name: &str) -> Option<Bytes> {
    let file = disk.mount().open(name).await.ok()?;
    let length = file.len().await.unwrap();
    Some(file.read_at(0, length as usize).await.unwrap())
}

/// Arms a fault at the call number `call` from now on.
fn arrange(disk: &SimDisk, call: u64, fault: Fault) {
    let call = disk.counts().calls + call;
    disk.on_call(Some(Box::new(move |seen| if seen.number == call { fault } else { Fault::None })));
}

const ACCIDENTS: [Fault; 5] =
    [Fault::KillBefore, Fault::KillAfter, Fault::PowerLossBefore, Fault::PowerLossAfter, Fault::Error];

fn pledge_with(node_id: NodeId) -> Pledge {
    let node =
        |node_id: NodeId| PledgedNode { node_id, name: format!("n{}", node_id.0), rpc_addr: "a:1".into() };
    Pledge::propose(vec![node(node_id), node(NodeId(1))])
}

#[tokio::test]
async fn e1_every_start_raises_the_boot_counter_and_keeps_the_id() {
    let disk = SimDisk::new(1);
    let first = start(&disk, "a").await.unwrap();
    assert_ne!(first.node_id(), NodeId(0));
    assert_eq!(first.boot(), 1);
    let second = start(&disk, "a").await.unwrap();
    assert_eq!((second.node_id(), second.boot()), (first.node_id(), 2));
    disk.power_loss();
    assert_eq!(start(&disk, "a").await.unwrap().boot(), 3, "the counter was durable");
    let mut past = vec![];
    for _ in 0..REMEMBERED + 3 {
        let identity = start(&disk, "a").await.unwrap();
        past.truncate(REMEMBERED);
        assert!(identity.past().starts_with(&past), "a start adds one incarnation and keeps those before");
        past.insert(0, identity.incarnation());
    }
    assert_eq!(start(&disk, "a").await.unwrap().past(), &past[..REMEMBERED]);
}

#[tokio::test]
async fn e1_a_boot_counter_is_never_handed_out_twice_whenever_the_power_fails() {
    for (seed, fault) in ACCIDENTS.into_iter().enumerate() {
        let disk = SimDisk::new(seed as u64);
        let mut highest = 0;
        for call in 0..100 {
            arrange(&disk, 1 + call % 13, fault);
            let result = start(&disk, "a").await;
            disk.on_call(None);
            if let Ok(identity) = result {
                assert!(identity.boot() > highest, "boot {} after {highest}", identity.boot());
                highest = identity.boot();
            }
        }
        assert!(highest > 0);
    }
}

#[tokio::test]
async fn e1_identity_and_log_start_only_together() {
    let disk = SimDisk::new(1);
    put(&disk, "000001.log", b"records").await;
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::LogWithoutIdentity), "{error}");

    let disk = SimDisk::new(1);
    let mut identity = start(&disk, "a").await.unwrap();
    put(&disk, "000001.log", b"records").await;
    identity.mark_formatted().await.unwrap();
    start(&disk, "a").await.unwrap();
    disk.mount().remove("000001.log").await.unwrap();
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::IdentityWithoutLog(_)), "{error}");
}

#[tokio::test]
async fn a_directory_serves_one_name_and_one_name_only() {
    let disk = SimDisk::new(1);
    start(&disk, "a").await.unwrap();
    let error = start(&disk, "b").await.unwrap_err();
    assert!(error.to_string().contains("belongs to node 'a', not to 'b'"), "{error}");
    assert!(matches!(start(&disk, "").await, Err(IdentityError::BadName(_))));
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_noticed() {
    let disk = SimDisk::new(1);
    start(&disk, "a").await.unwrap();
    let intact = get(&disk, FILE).await.unwrap().to_vec();
    for bit in 0..intact.len() * 8 {
        let mut damaged = intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        put(&disk, FILE, &damaged).await;
        let error = start(&disk, "a").await.unwrap_err();
        assert!(matches!(error, IdentityError::Damaged(_)), "bit {bit}: {error}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_its_number() {
    let disk = SimDisk::new(1);
    start(&disk, "a").await.unwrap();
    let mut bytes = get(&disk, FILE).await.unwrap().to_vec();
    bytes[8] = 9;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    put(&disk, FILE, &bytes).await;
    let error = start(&disk, "a").await.unwrap_err();
    assert!(matches!(error, IdentityError::Newer(9)), "{error}");
}

#[tokio::test]
async fn e3_a_pledge_is_kept_over_restarts_and_never_exchanged_for_another() {
    let disk = SimDisk::new(1);
    let mut identity = start(&disk, "a").await.unwrap();
    let pledge = pledge_with(identity.node_id());
    identity.pledge_to(pledge.clone()).await.unwrap();
    identity.pledge_to(pledge.clone()).await.unwrap();
    let other = pledge_with(identity.node_id());
    assert!(matches!(identity.pledge_to(other.clone()).await, Err(IdentityError::PledgedAlready(_))));
    disk.power_loss();
    let mut identity = start(&disk, "a").await.unwrap();
    assert_eq!(identity.pledge(), Some(&pledge));
    assert!(identity.adopt_cluster(other.cluster_id).await.is_err());
    identity.adopt_cluster(pledge.cluster_id).await.unwrap();
}

#[tokio::test]
async fn e4_a_cluster_id_is_adopted_once() {
    let disk = SimDisk::new(1);
    let (own, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
    start(&disk, "a").await.unwrap().adopt_cluster(own).await.unwrap();
    disk.power_loss();
    let mut identity = start(&disk, "a").await.unwrap();
    assert_eq!(identity.cluster_id(), Some(own));
    identity.adopt_cluster(own).await.unwrap();
    assert!(matches!(identity.adopt_cluster(other).await, Err(IdentityError::OtherCluster { .. })));
}

#[tokio::test]
async fn where_a_node_was_last_goes_with_its_id() {
    let disk = SimDisk::new(1);
    let mut first = start(&disk, "a").await.unwrap();
    assert_eq!(first.rpc_addr(), None);
    let found = Start { boot: 1, found: crate::positions::Reach { term: 0, index: None } };
    first.note_start(found, "here:8400").await.unwrap();
    let second = start(&disk, "a").await.unwrap();
    assert_eq!(second.rpc_addr(), Some("here:8400"), "until it takes part elsewhere");
    assert_eq!(second.set_aside().await.unwrap().rpc_addr(), None);
}

#[tokio::test]
async fn e6_a_node_that_left_starts_over_under_a_new_id_with_its_data_kept_whenever_the_power_fails() {
    for (seed, fault) in ACCIDENTS.into_iter().enumerate() {
        for call in 1..60 {
            let disk = SimDisk::new(seed as u64 * 100 + call);
            let mut identity = start(&disk, "a").await.unwrap();
            let old = identity.node_id();
            identity.adopt_cluster(ClusterId([7; 16])).await.unwrap();
            put(&disk, "000001.log", b"records").await;
            put(&disk, "000002.snapshot", b"state").await;
            put(&disk, "spare.tmp", b"prepared and never used").await;
            identity.mark_formatted().await.unwrap();
            identity.mark_left().await.unwrap();

            arrange(&disk, call, fault);
            let _ = start(&disk, "a").await;
            disk.on_call(None);
            let identity = start(&disk, "a").await.unwrap();
            assert_ne!(identity.node_id(), old);
            assert_eq!(identity.cluster_id(), None);
            assert_eq!(identity.former_cluster_id(), Some(ClusterId([7; 16])));
            assert!(!identity.log_formatted());
            let kept = |name: &str| format!("left-{old}-{name}");
            let story = format!("{fault:?} at call {call}");
            assert_eq!(get(&disk, &kept("000001.log")).await.as_deref(), Some(&b"records"[..]), "{story}");
            assert_eq!(get(&disk, &kept("000002.snapshot")).await.as_deref(), Some(&b"state"[..]), "{story}");
            assert!(get(&disk, &kept(FILE)).await.is_some(), "{story}");
            assert_eq!(disk.files().len(), 4, "{story}: {:?}", disk.files());
        }
    }
}

#[tokio::test]
async fn a_wiped_node_is_new_and_remembers_only_that_it_has_a_past() {
    let disk = SimDisk::new(1);
    let identity = Identity::wipe(disk.mount(), "a").await.unwrap();
    assert_eq!(identity.former_cluster_id(), None, "an empty directory has none");
    let mut identity = start(&disk, "a").await.unwrap();
    let old = identity.node_id();
    assert_eq!(
        Identity::wipe(disk.mount(), "a").await.unwrap().former_cluster_id(),
        None,
        "nor a pristine one"
    );
    identity.adopt_cluster(ClusterId([7; 16])).await.unwrap();
    put(&disk, "000001.log", b"records").await;
    assert!(matches!(Identity::wipe(disk.mount(), "b").await, Err(IdentityError::OtherName { .. })));
    let identity = Identity::wipe(disk.mount(), "a").await.unwrap();
    assert_ne!(identity.node_id(), old);
    assert_eq!(identity.former_cluster_id(), Some(ClusterId([7; 16])));
    assert_eq!(disk.files().len(), 1);
}

#[tokio::test]
async fn a_wipe_helps_where_the_messages_ask_for_it_and_never_frees_a_node_to_form_a_cluster_by_a_crash() {
    for (seed, fault) in ACCIDENTS.into_iter().enumerate() {
        for call in 1..30 {
            let disk = SimDisk::new(seed as u64 * 100 + call);
            put(&disk, FILE, b"noise").await;
            put(&disk, "000001.log", b"records").await;
            put(&disk, "000002.snapshot", b"state").await;
            assert!(start(&disk, "a").await.is_err());
            arrange(&disk, call, fault);
            let _ = Identity::wipe(disk.mount(), "a").await;
            disk.on_call(None);
            if let Ok(identity) = start(&disk, "a").await {
                assert!(identity.former_cluster_id().is_some(), "{fault:?} at call {call}");
            }
            Identity::wipe(disk.mount(), "a").await.unwrap();
            let identity = start(&disk, "a").await.unwrap();
            assert!(identity.former_cluster_id().is_some(), "{fault:?} at call {call}");
            assert_eq!(disk.files().len(), 1);
        }
    }
}

#[tokio::test]
async fn c3_quarantine_outlives_restarts_and_ends_with_the_data() {
    let disk = SimDisk::new(1);
    start(&disk, "a").await.unwrap().quarantine().await.unwrap();
    disk.power_loss();
    let identity = start(&disk, "a").await.unwrap();
    assert!(identity.quarantined());
    assert!(!identity.set_aside().await.unwrap().quarantined());
}

#[tokio::test]
async fn a8_a_contradiction_outlives_restarts_and_ends_with_the_data() {
    let disk = SimDisk::new(1);
    let found = wire::Contradiction { own_term: 2, own_index: 40, leader: 7, ..Default::default() };
    start(&disk, "a").await.unwrap().contradict(found).await.unwrap();
    disk.power_loss();
    let identity = start(&disk, "a").await.unwrap();
    assert_eq!(identity.contradiction(), Some(&found));
    assert_eq!(identity.set_aside().await.unwrap().contradiction(), None);
}

proptest! {
    #[test]
    fn noise_is_no_identity(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Record::decode(&noise).is_err());
    }
}

#[tokio::test]
async fn e1_what_was_reported_of_others_outlives_restarts_and_not_the_identity() {
    let disk = SimDisk::new(1);
    let met = Incarnations { reported: 3, met: Some(Incarnation { boot: 2, id: 9 }) };
    let incarnations = std::collections::BTreeMap::from([
        (NodeId(7), met),
        (NodeId(u64::MAX), Incarnations::from_report(1)),
    ]);
    start(&disk, "a").await.unwrap().remember(incarnations.clone()).await.unwrap();
    disk.power_loss();
    let identity = start(&disk, "a").await.unwrap();
    assert_eq!(*identity.incarnations(), incarnations);
    assert!(identity.set_aside().await.unwrap().incarnations().is_empty());
}

#[tokio::test]
async fn what_a_full_disk_does_not_take_is_removed_at_once() {
    let disk = SimDisk::new(1);
    let mut identity = start(&disk, "a").await.unwrap();
    let before = disk.files();
    disk.set_capacity(Some(before.iter().map(|file| file.1).sum()));
    identity.remember(BTreeMap::from([(NodeId(7), Incarnations::default())])).await.unwrap_err();
    assert_eq!(disk.files(), before);
    disk.set_capacity(None);
    disk.fail_nth(Operation::Write, 1);
    identity.remember(BTreeMap::from([(NodeId(7), Incarnations::default())])).await.unwrap_err();
    assert_eq!(disk.files(), before);
}
