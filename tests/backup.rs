//! Backups of real clusters by the real command, and new clusters restored from them.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::cluster::{ALL, Cluster, MANY_SNAPSHOTS, PATIENCE, voters_are};
use common::load::Load;
use common::node::Node;
use common::run;
use futures_util::TryStreamExt;
use mokv::client::{ChangesOptions, Error, Position, ReadOptions, Role};
use serde_json::Value;

fn mokv(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).output().unwrap()
}

/// Returns the stdout of a command that must succeed, as JSON.
fn json(args: &[&str]) -> Value {
    let output = mokv(&[args, &["--output=json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the stderr of a command that must fail.
fn fails(args: &[&str]) -> String {
    fails_with(1, args)
}

/// The same, for this exit code.
fn fails_with(code: i32, args: &[&str]) -> String {
    let output = mokv(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn save(cluster: &Cluster, name: &str) -> (String, Value) {
    let file = cluster.path(name).to_str().unwrap().to_owned();
    let saved = json(&["snapshot", "save", &file, "--endpoints", &cluster.endpoints().join(",")]);
    (file, saved)
}

fn put_away(node: &Node) {
    std::fs::rename(&node.data_dir, away(node)).unwrap();
}

fn away(node: &Node) -> std::path::PathBuf {
    node.data_dir.with_extension("away")
}

#[test]
fn a_backup_under_load_becomes_a_new_cluster_that_the_old_directories_cannot_join() {
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS]).await;
        let client = cluster.client();
        for number in 0..200 {
            let value = format!("{number:01000}");
            client.set(format!("before/{number}"), value).await.unwrap();
        }
        // Digests are reported from then on.
        cluster.equal_state().await;
        let load = Load::start(&cluster, "load");
        load.goes_on(50).await;
        let (file, saved) = save(&cluster, "backup.snap");
        load.goes_on(50).await;
        load.stop().await;
        client.set("after", "the backup").await.unwrap();
        assert!(!Path::new(&format!("{file}.part")).exists());
        assert_eq!(json(&["snapshot", "inspect", &file]), saved, "what was saved is what is there");
        assert!(saved["keys"].as_u64().unwrap() >= 200);
        assert_eq!(saved["members"].as_object().unwrap().len(), 3);
        assert!(fails(&["snapshot", "save", &file]).contains("exists already"));

        let old = cluster.nodes[0].status().await.unwrap();
        for node in &mut cluster.nodes {
            assert_eq!(node.terminate().await.code(), Some(0));
        }
        put_away(&cluster.nodes[0]);
        put_away(&cluster.nodes[1]);
        let config = cluster.nodes[0].config_file.to_str().unwrap().to_owned();
        let restored = json(&["restore", &file, "--config-file", &config]);
        assert_eq!(restored["old_revision"], saved["revision"]);
        let begun = saved["revision"].as_u64().unwrap() + 1_000_000_000_000;
        assert_eq!((&restored["revision"], &restored["keys"]), (&begun.into(), &saved["keys"]));
        assert_ne!(restored["digest"], saved["digest"], "the revision is another");
        assert_eq!(saved["digest"].as_str().map(str::len), Some(32));
        assert_ne!(restored["cluster_id"].as_str(), old.cluster_id.as_deref());
        assert!(fails(&["restore", &file, "--config-file", &config]).contains("is not empty"));

        cluster.nodes[0].start();
        let alone = cluster.nodes[0].wait_status("it leads", |status| status.role == Role::Leader).await;
        assert_eq!(alone.cluster_id.as_deref(), restored["cluster_id"].as_str());
        assert_eq!(
            (alone.digest.as_deref(), alone.keys, alone.revision),
            (restored["digest"].as_str(), saved["keys"].as_u64().unwrap(), begun)
        );
        // The second starts empty and joins; the third has the old cluster's data and does not join. It starts last: a
        // new node that finds both clusters must not guess which of them to join.
        cluster.nodes[1].start();
        cluster.wait_members(0, "two vote", |servers| voters_are(servers, &["node-1", "node-2"])).await;
        cluster.nodes[2].start();
        let stranger = cluster.nodes[2]
            .wait_status("it knows its own cluster", |status| {
                status.cluster_id.is_some() || status.role == Role::Waiting
            })
            .await;
        assert_ne!(stranger.cluster_id, alone.cluster_id);
        cluster.nodes[2].kill();
        let mut command = cluster.nodes[2].command();
        command.args(["--wipe", "--yes"]);
        cluster.nodes[2].start_as(command);
        cluster.wait_members(0, "three vote", |servers| voters_are(servers, &ALL)).await;

        let client = cluster.client();
        let get = async |key: &str| client.get(key).await.unwrap().entry;
        assert_eq!(get("after").await, None, "the backup is older");
        assert_eq!(get("before/7").await.unwrap().value, format!("{:01000}", 7));
        let written = client.set("new", "again").await.unwrap();
        assert_eq!(written.revision, begun + 1);
        let read = ReadOptions::linearizable().at_revision(begun - 1);
        assert!(
            matches!(client.get_with("new", read).await, Err(Error::RevisionGone(_))),
            "of the old cluster"
        );
        cluster.equal_state().await;
    });
}

/// The permission bits of a file or directory.
fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn data_and_backups_are_for_their_user_alone_and_a_node_reports_what_is_not() {
    const OPEN: &str = "can be read by every user of this machine";
    run(async {
        let mut cluster = Cluster::prepare(1, &[]);
        cluster.start_all();
        cluster.leader().await;
        let (file, _) = save(&cluster, "backup.snap");
        assert_eq!(mode(&file), 0o600);
        let node = &mut cluster.nodes[0];
        assert_eq!(mode(&node.data_dir), 0o700);
        for file in node.files() {
            assert_eq!(mode(node.data_dir.join(&file)), 0o600, "{file}");
        }
        assert!(!node.log().contains(OPEN), "{}", node.log());
        node.kill();

        let key = cluster.path("key");
        std::fs::write(&key, "a secret of enough bytes").unwrap();
        let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        open(&key, 0o644);
        open(&cluster.nodes[0].data_dir, 0o755);
        let setting = format!("cluster-key-file: {}", key.display());
        cluster.configure(&cluster.nodes[0], &["bootstrap-expect: 1", &setting]);
        cluster.start_all();
        cluster.leader().await;
        let node = &cluster.nodes[0];
        let said = node.log();
        let warnings: Vec<&str> = said.lines().filter(|line| line.contains(OPEN)).collect();
        let [directory, file] = warnings[..] else { panic!("{warnings:?}") };
        assert!(directory.contains(&format!("'chmod -R go= {}'", node.data_dir.display())), "{directory}");
        assert!(file.contains(&format!("'chmod go= {}'", key.display())), "{file}");
        assert_eq!(mode(&node.data_dir), 0o755, "that is for an operator to decide");
    });
}

#[test]
fn what_one_node_has_left_becomes_a_new_cluster_when_the_quorum_is_lost() {
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS]).await;
        let client = cluster.client();
        for number in 0..250 {
            client.set(format!("key/{number}"), format!("{number}")).await.unwrap();
        }
        let before = cluster.equal_state().await;
        let kept: Vec<_> = client.changes("key/24").await.unwrap().try_collect().await.unwrap();
        let kept = kept.last().unwrap().position;
        let config = cluster.nodes[0].config_file.to_str().unwrap().to_owned();
        let recover = |more: &'static str| ["recover", "--config-file", &config, more];
        assert!(fails(&recover("--inspect")).contains("cannot use the data directory"), "it runs");
        cluster.nodes.iter_mut().for_each(Node::kill);
        for lost in &cluster.nodes[1..] {
            std::fs::remove_dir_all(&lost.data_dir).unwrap();
        }

        let left = json(&recover("--inspect"));
        assert_eq!((left["name"].as_str(), left["keys"].as_u64()), (Some("node-1"), Some(250)));
        assert_eq!(left["cluster_id"].as_str(), before.cluster_id.as_deref());
        assert!(left["last_index"].as_u64().unwrap() >= before.applied_index, "{left}");
        assert_eq!(left["members"].as_object().unwrap().len(), 3);
        let unasked = mokv(&["recover", "--config-file", &config]);
        assert_eq!(unasked.status.code(), Some(2), "there was no terminal to ask on");
        let recovered = json(&recover("--yes"));
        assert_eq!((&recovered["old_revision"], &recovered["keys"]), (&left["revision"], &left["keys"]));
        assert!(recovered["revision"].as_u64() > left["revision"].as_u64(), "{recovered}");
        assert_ne!(recovered["cluster_id"], left["cluster_id"]);
        let files = cluster.nodes[0].files();
        assert!(files.iter().any(|file| file.starts_with("left-") && file.ends_with(".wal")), "{files:?}");
        assert!(!files.iter().any(|file| file.starts_with("left-") && file.ends_with(".tmp")), "{files:?}");

        cluster.nodes[0].start();
        let alone = cluster.nodes[0].wait_status("it leads", |status| status.role == Role::Leader).await;
        assert_eq!((alone.digest.as_deref(), alone.keys), (recovered["digest"].as_str(), 250));
        // The set-aside files are counted, and removed on request while no process uses the directory.
        let counted = common::http1::get(&cluster.nodes[0].metrics, "/metrics").1;
        let counted = counted.lines().find_map(|line| line.strip_prefix("mokv_left_bytes ")).unwrap();
        let remove = ["left", "--remove", "--yes", "--config-file", &config];
        assert!(fails(&remove).contains("cannot use the data directory"), "it runs");
        cluster.nodes[0].kill();
        let shown = json(&["left", "--config-file", &config]);
        assert_eq!(shown["bytes"].as_f64().unwrap(), counted.parse::<f64>().unwrap());
        assert!(shown["bytes"].as_u64().unwrap() > 0 && shown["deleted"] == false, "{shown}");
        assert_eq!(
            mokv(&["left", "--remove", "--config-file", &config]).status.code(),
            Some(2),
            "there was no terminal to ask on"
        );
        assert_eq!(json(&remove)["files"], shown["files"]);
        let files = cluster.nodes[0].files();
        assert!(!files.iter().any(|file| file.starts_with("left-")), "{files:?}");
        cluster.nodes[0].start();
        cluster.nodes[0].wait_status("it leads again", |status| status.role == Role::Leader).await;
        // The other nodes start empty.
        cluster.start_all();
        cluster.wait_members(0, "three vote", |servers| voters_are(servers, &ALL)).await;
        let client = cluster.client();
        for number in 0..250 {
            let read = client.get(format!("key/{number}")).await.unwrap();
            assert_eq!(read.entry.unwrap().value, format!("{number}"));
        }
        let written = client.set("new", "again").await.unwrap();
        assert!(written.revision > before.revision);
        // What a client kept of the old cluster is not taken for the new one's.
        let behind = async |position| {
            let changes = client.changes_with(ChangesOptions::all().start_after(position)).await?;
            changes.try_collect::<Vec<_>>().await
        };
        let refused = behind(kept).await.unwrap_err();
        assert!(matches!(&refused, Error::RevisionGone(why) if why.as_str().contains("another cluster")));
        let unnamed = behind(Position { cluster: None, ..kept }).await.unwrap_err();
        assert!(matches!(&unnamed, Error::RevisionGone(why) if why.as_str().contains("compacted")));
        let new = client.changes("new").await.unwrap().next().await.unwrap().unwrap().position;
        assert_eq!(new.revision, written.revision);
        client.set("newer", "1").await.unwrap();
        assert_eq!(behind(new).await.unwrap().len(), 1);
        let other = Position { cluster: kept.cluster, ..new };
        assert!(matches!(behind(other).await, Err(Error::RevisionGone(_))), "its revision alone would do");
        cluster.equal_state().await;
    });
}

#[test]
fn nothing_is_recovered_from_a_directory_that_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for args in [["--inspect", "--data-dir"], ["--yes", "--data-dir"]] {
        let said = fails(&[&["recover"], &args[..], &[path]].concat());
        assert!(said.contains(path) && said.contains("next:") && !said.contains("panicked"), "{said}");
    }
    let absent = directory.path().join("absent");
    let said = fails(&["recover", "--yes", "--data-dir", absent.to_str().unwrap()]);
    assert!(said.contains("there is no data directory") && !absent.exists(), "{said}");
}

#[test]
fn a_damaged_backup_is_named_and_restores_nothing() {
    run(async {
        let mut cluster = Cluster::prepare(1, &[]);
        cluster.start_all();
        let client = cluster.client().with_timeout(PATIENCE);
        for number in 0..50 {
            client.set(format!("key/{number}"), vec![b'v'; 500]).await.unwrap();
        }
        let (file, _) = save(&cluster, "backup.snap");
        let whole = std::fs::read(&file).unwrap();
        let streamed = mokv(&["snapshot", "save", "-", "--endpoints", &cluster.nodes[0].rpc]);
        assert!(streamed.status.success());
        let copy = cluster.path("copy.snap");
        std::fs::write(&copy, &streamed.stdout).unwrap();
        let looked = mokv(&["snapshot", "inspect", copy.to_str().unwrap()]);
        assert!(looked.status.success(), "stdout holds the backup and nothing else");
        let config = cluster.path("fresh.yaml");
        let fresh = cluster.path("fresh");
        std::fs::write(
            &config,
            format!("node-name: fresh\ndata-dir: {}\nbind-addr: 127.0.0.1:1\n", fresh.display()),
        )
        .unwrap();
        let restore = ["restore", &file, "--config-file", config.to_str().unwrap()];
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let shortened = whole[..whole.len() - 10].to_vec();
        for damaged in [flipped, shortened, b"no backup at all".to_vec(), Vec::new()] {
            std::fs::write(&file, damaged).unwrap();
            for said in [fails(&["snapshot", "inspect", &file]), fails(&restore)] {
                assert!(
                    said.contains(&file) && said.contains("next:") && !said.contains("panicked"),
                    "{said}"
                );
                assert!(said.contains("another backup") && !said.contains("wipe"), "{said}");
            }
        }
        std::fs::write(&file, &whole).unwrap();
        assert!(mokv(&restore).status.success(), "nothing was in the way");
        assert!(fails(&["snapshot", "inspect", "/nowhere/at/all"]).contains("/nowhere/at/all"));
        let (nobody, nowhere) = (["--endpoints", "127.0.0.1:9"], cluster.path("not-there/backup.snap"));
        let save = |code: i32, file: &str, more: &[&str]| {
            fails_with(code, &[&["snapshot", "save", file, "--timeout=300ms"], more].concat())
        };
        assert!(save(6, "unsaved.snap", &nobody).contains("127.0.0.1:9"));
        assert!(!Path::new("unsaved.snap").exists() && !Path::new("unsaved.snap.part").exists());
        let endpoints = ["--endpoints", &cluster.nodes[0].rpc];
        assert!(save(1, nowhere.to_str().unwrap(), &endpoints).contains("not-there"));
    });
}
