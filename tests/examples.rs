//! The examples, run against a real cluster as their first lines describe.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::cluster::Cluster;
use common::run;

/// The folder of the examples. Cargo builds them when it builds all tests, but not when it builds this one alone.
fn build() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_mokv")).parent().unwrap();
    let profile = match beside.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        name => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--examples", "--profile", profile]);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    beside.join("examples")
}

fn start(example: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(example);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", example.display()))
}

/// Returns the stdout of an example that must succeed.
fn output(mut child: Child, stdin: &str) -> String {
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_do_what_they_say() {
    run(async {
        let examples = build();
        let [counter, loader, reader] =
            ["counter", "bulk_loader", "config_reader"].map(|name| examples.join(name));
        let cluster = Cluster::start(&[]).await;
        let endpoint = cluster.nodes[0].rpc.as_str();
        // Many increments at the same time: the counter loses none.
        let raising: Vec<Child> = (0..10).map(|_| start(&counter, &[endpoint, "visits"])).collect();
        let mut seen: Vec<String> = raising.into_iter().map(|child| output(child, "")).collect();
        seen.sort_by_key(String::len);
        seen[..9].sort();
        let expected: Vec<String> = (1..=10).map(|visits| format!("visits is {visits}\n")).collect();
        assert_eq!(seen, expected);

        let lines: String = (0..1000).map(|number| format!("config/{number:04}\tvalue {number}\n")).collect();
        assert_eq!(output(start(&loader, &[endpoint]), &lines), "1000 keys written, 0 failed\n");

        let looked = output(start(&reader, &[endpoint, "config/099", "2"]), "");
        // The node that this client asks first may lag a little; its answer has the revision.
        let last = looked.lines().rfind(|line| line.starts_with("at revision")).unwrap();
        assert!(last.ends_with(':'), "{last}");
        cluster.equal_state().await;
        let looked = output(start(&reader, &[endpoint, "config/099", "1"]), "");
        let entries = looked.lines().skip(1).map(str::trim);
        let expected = (990..1000).map(|number| format!("config/{number:04} = value {number}"));
        assert_eq!(entries.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    });
}
