//! A panic in any task of a node ends the whole node: it does not go on answering after its Raft task has ended.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::ports::PortBlock;
use mokv::client::Client;
use mokv::config::NodeConfig;
use mokv::map::Change;
use mokv::node::{self, Options};
use mokv::raft::{LogId, Observer};
use mokv::rt::disk::RealDisk;
use mokv::rt::timeout;

/// A time limit that the slowest machine meets.
const PATIENCE: Duration = Duration::from_secs(120);

/// Panics where entries are applied, which is inside a task of Raft, at the first write of the key `fatal`.
struct Bomb;

impl Observer for Bomb {
    fn applied(&self, _at: LogId, _payload: &Bytes, changes: &[Change], _digest: u128) {
        assert!(changes.iter().all(|change| change.new.key() != b"fatal"), "the bomb");
    }

    fn installed(&self, _at: LogId, _digest: u128) {}
}

#[test]
fn a_panic_where_entries_are_applied_ends_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let mut ports = PortBlock::take();
    let address = ([127, 0, 0, 1], ports.next()).into();
    let mut config = NodeConfig::local("only", address);
    config.bootstrap = true;
    (config.rpc_port, config.metrics_port) = (ports.next(), ports.next());
    let endpoint = config.advertised_rpc();
    common::run(async {
        let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
        let options = Options { observer: Some(Arc::new(Bomb)), ..Options::default() };
        let node = mokv::rt::spawn(node::run(config, disk, options, std::future::pending()));
        let client = Client::builder().endpoints([&endpoint]).timeout(PATIENCE).build().unwrap();
        client.set("harmless", "value").await.unwrap();
        let asking = client.with_timeout(Duration::from_secs(5));
        // Whatever result the client receives, it is not success.
        asking.set("fatal", "value").await.unwrap_err();
        let end =
            timeout(PATIENCE, node).await.expect("the node ends").expect("and its own task in good order");
        let words = end.unwrap_err().to_string();
        assert!(words.contains("panicked, which is a bug"), "{words}");
        asking.get("harmless").await.unwrap_err();
    });
}

/// The panic hook of `mokv serve` covers every other panic: none leaves half a process running.
#[test]
fn a_panic_in_any_task_ends_the_process() {
    const INSIDE: &str = "MOKV_TEST_PANIC_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        mokv::rt::process::end_on_panic(|| eprintln!("its last words"));
        common::run(async {
            let task = mokv::rt::spawn(async { panic!("a bug in one task") });
            let _ = task.await;
        });
        std::process::exit(0);
    }
    let itself = std::env::current_exe().unwrap();
    let mut inside = std::process::Command::new(itself);
    inside.args(["a_panic_in_any_task_ends_the_process", "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = inside.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("its last words") && said.contains("a bug in one task"), "{said}");
    assert!(!output.status.success(), "the process went on: {output:?}");
}
