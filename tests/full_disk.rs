//! A node on a small disk of its own, which a client fills: a tmpfs that no other process sees.
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;

use common::cluster::{Cluster, set};
use common::{run, wait_for};
use mokv::client::Error;

/// Size of the disk, in MiB. A node reserves 32 of them for Raft.
const DISK: usize = 96;
const VALUE_BYTES: usize = 512 << 10;

/// The arguments of `unshare` for a user who may mount, and for one who may not.
const NAMESPACES: [&[&str]; 2] = [&["-m"], &["-Urm"]];

/// The arguments of `unshare` with which a mount works on this machine. `None`: none do.
fn namespace() -> Option<&'static [&'static str]> {
    let mounts = |arguments: &&&[&str]| {
        let script = "mount -t tmpfs none /mnt";
        let tried = Command::new("unshare").args(**arguments).args(["sh", "-c", script]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    NAMESPACES.iter().find(mounts).copied()
}

#[test]
fn a_full_disk_takes_values_again_once_keys_are_deleted_and_has_lost_none() {
    let Some(namespace) = namespace() else {
        assert!(std::env::var_os("CI").is_none(), "no mount namespace can be made here");
        println!("not played: no mount namespace can be made here");
        return;
    };
    run(async {
        let mut cluster = Cluster::prepare(3, &["min-free-bytes: 32MiB"]);
        let small = &mut cluster.nodes[1];
        std::fs::create_dir(&small.data_dir).unwrap();
        let mut command = Command::new("unshare");
        let directory = small.data_dir.to_str().unwrap();
        let script = format!("mount -t tmpfs -o mode=700,size={DISK}m none {directory} && exec \"$@\"");
        command.args(namespace).args(["sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_mokv")]);
        command.args(small.arguments());
        small.start_as(command);
        cluster.start_all();
        cluster.leader().await;
        let client = cluster.client();
        set(&client, "kept", "from before").await;
        let value = vec![b'x'; VALUE_BYTES];
        let mut taken = 0;
        let said = loop {
            match client.set(format!("large/{taken}"), value.clone()).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken * VALUE_BYTES < DISK << 20, "more was taken than the disk of a member holds");
        };
        assert!(matches!(said, Error::ResourceExhausted(_)), "{said:?}");
        assert!(said.to_string().contains("node-2"), "which node's disk it is: {said}");
        println!("after {taken} values: {said}");
        for number in 0..taken {
            client.delete(format!("large/{number}")).await.unwrap();
        }
        wait_for("values are taken again", async || client.set("after", value.clone()).await.ok()).await;
        let kept = client.get("kept").await.unwrap().entry.unwrap();
        assert_eq!(&kept.value[..], b"from before");
        let state = cluster.equal_state().await;
        assert_eq!(state.keys, 2, "the small disk has what the others have");
        assert!(cluster.nodes.iter_mut().all(|node| !node.has_ended()), "no node has ended");
    });
}
