//! The commands against a store: their output, byte for byte, and their exit codes.

mod store;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

use mokv::rt::process::block_on;
use store::Store;

/// Runs a test against an empty store.
fn with_store(story: impl FnOnce(&Shell) + Send + 'static) {
    block_on(async {
        let store = Store::start().await;
        let shell = Shell { endpoint: store.address.clone() };
        mokv::rt::spawn_blocking(move || story(&shell)).await.unwrap();
    })
    .unwrap();
}

struct Shell {
    endpoint: String,
}

impl Shell {
    fn run(&self, args: &[&str]) -> Output {
        self.run_with_stdin(args, b"")
    }

    fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mokv"))
            .args(args)
            .args(["--endpoints", &self.endpoint])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Returns the stdout of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the stdout of a command that must exit with this code.
    fn ok_or(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns exit code and stderr of a command that must fail.
    fn fails(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} must fail");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_value_goes_in_and_comes_out_byte_by_byte() {
    with_store(|shell| {
        assert_eq!(shell.ok(&["set", "greeting", "hello"]), "revision 2\n");
        assert_eq!(shell.ok(&["get", "greeting"]), "hello", "a pipe gets the value and nothing else");
        assert_eq!(json(&shell.ok(&["get", "greeting", "-ojson"]))["value"]["text"], "hello");
        let table = "KEY       REVISION  VERSION  VALUE\ngreeting  2         1        hello\n";
        assert_eq!(shell.ok(&["get", "greeting", "--output", "table"]), table);
        let bytes: Vec<u8> = (0..=255).chain(*b"\n\n").collect();
        assert!(shell.run_with_stdin(&["set", "bytes", "-", "--no-session"], &bytes).status.success());
        assert_eq!(shell.run(&["get", "bytes", "--stale"]).stdout, bytes);
        shell.ok(&["set", "empty", ""]);
        assert_eq!(shell.ok(&["get", "empty"]), "");
    });
}

#[test]
fn an_absent_key_exits_with_3_and_writes_nothing_to_stdout() {
    with_store(|shell| {
        let output = shell.run(&["get", "absent"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("no key 'absent'"));
        assert_eq!(shell.ok(&["delete", "absent"]), "there was no such key, revision 1\n");
    });
}

#[test]
fn a_conditional_write_that_fails_returns_the_present_revision() {
    with_store(|shell| {
        shell.ok(&["set", "lock", "mine", "--if-revision", "0"]);
        let (code, said) = shell.fails(&["set", "lock", "yours", "--if-revision", "0"]);
        assert_eq!(code, Some(4));
        assert!(said.contains("the key is at revision 2"), "{said}");
        assert!(shell.fails(&["delete", "lock", "--if-revision", "9"]).1.contains("revision 2"));
        assert_eq!(shell.ok(&["delete", "lock", "--if-revision", "2"]), "deleted, revision 3\n");
    });
}

#[test]
fn exit_codes_tell_a_script_what_happened() {
    with_store(|shell| {
        let code = |args: &[&str]| shell.run(&[args, &["--timeout", "300ms"]].concat()).status.code();
        assert_eq!(code(&["set", "key", "value"]), Some(0));
        assert_eq!(code(&["leave", "--yes"]), Some(1), "refused");
        assert_eq!(code(&["get"]), Some(2), "wrong usage");
        assert_eq!(code(&["get", "absent"]), Some(3), "not found");
        assert_eq!(code(&["members", "remove", "nobody"]), Some(3), "not found");
        assert_eq!(code(&["set", "key", "other", "--if-revision", "9"]), Some(4), "condition failed");
        assert_eq!(code(&["delete", "key", "--if-revision", "9"]), Some(4), "condition failed");
        assert_eq!(code(&["set", "lost", "value", "--no-session"]), Some(5), "outcome unknown");
        assert_eq!(code(&["set", "lost", "value"]), Some(5), "outcome unknown");
        assert_eq!(code(&["set", "idle", "value"]), Some(6), "no node could serve it");
        assert_eq!(code(&["status"]), Some(0));
        shell.ok(&["set", "ill", "value"]);
        let status = shell.run(&["status"]);
        assert_eq!(status.status.code(), Some(7), "not healthy");
        assert!(String::from_utf8(status.stdout).unwrap().ends_with("only: the key 'ill' is there\n"));
        assert_eq!(
            json(&shell.ok_or(7, &["status", "--output=json"]))["reasons"][0],
            "the key 'ill' is there"
        );
        let help = shell.ok_or(0, &["--help"]);
        for (code, words) in
            (0..).zip(["done", "failed", "wrong usage", "not found", "condition", "outcome", "no node"])
        {
            assert!(help.contains(&format!("{code} {words}")), "{help}");
        }
    });
}

#[test]
fn lists_are_lines_that_no_value_can_break() {
    with_store(|shell| {
        for (key, value) in [("b", "two\nlines"), ("a/1", "tab\there"), ("a/2", "back\\slash")] {
            shell.ok(&["set", key, value]);
        }
        assert_eq!(shell.ok(&["list"]), "a/1\ttab\\there\na/2\tback\\\\slash\nb\ttwo\\nlines\n");
        assert_eq!(shell.ok(&["list", "--prefix", "a/", "--keys-only"]), "a/1\na/2\n");
        assert_eq!(shell.ok(&["list", "--limit", "1", "--start-after", "a/1", "--keys-only"]), "a/2\n");
        assert_eq!(shell.ok(&["list", "--prefix", "zebra"]), "");
        assert_eq!(shell.ok(&["list", "--prefix", "a/", "--count"]), "2\n");
        assert_eq!(json(&shell.ok(&["list", "--count", "--output=json"]))["count"], 3);
        let table = shell.ok(&["list", "--output=table", "--limit", "1"]);
        assert_eq!(table, "KEY  REVISION  VALUE\na/1  3         tab\\there\n(1 key at revision 4)\n");
        let lines = shell.ok(&["list", "--output=json"]);
        let first = json(lines.lines().next().unwrap());
        assert_eq!(first["key"], "a/1");
        assert_eq!(first["value"]["text"], "tab\there");
        assert_eq!((&first["mod_revision"], &first["revision"]), (&3.into(), &4.into()));
        let keys_only = json(shell.ok(&["list", "--output=json", "--keys-only", "--limit", "1"]).trim_end());
        assert!(keys_only.get("value").is_none());
    });
}

#[test]
fn a_key_that_is_no_text_is_typed_and_shown_with_escapes() {
    with_store(|shell| {
        shell.ok(&["set", "--escaped-keys", r"a\xff\t", "value"]);
        shell.ok(&["set", r"a\xff", "the key has a backslash"]);
        assert_eq!(
            shell.ok(&["list", "--keys-only"]),
            concat!(r"a\\xff", "\n", r"a\xff\t", "\n"),
            "as one would type them with the flag"
        );
        assert_eq!(shell.ok(&["get", "--escaped-keys", r"a\\xff"]), "the key has a backslash");
        let read = json(&shell.ok(&["get", "--escaped-keys", r"a\xff\t", "-ojson"]));
        assert_eq!((&read["key"], &read["key_base64"]), (&serde_json::Value::Null, &"Yf8J".into()));
        let bytes = OsStr::from_bytes(b"a\xff\t");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
        let raw = command.arg("get").arg(bytes).args(["--endpoints", &shell.endpoint]).output().unwrap();
        assert_eq!(raw.stdout, b"value", "bytes of the shell are a key as they are");
        let (code, said) = shell.fails(&["get", "--escaped-keys", r"a\q"]);
        assert_eq!(code, Some(2));
        assert!(said.contains(r"'\q' in 'a\q' is no escape sequence"), "{said}");
        assert_eq!(shell.ok(&["delete", "--escaped-keys", "--prefix", r"a\xff", "--yes"]), "deleted 1 key\n");
    });
}

#[test]
fn the_history_of_a_key_is_a_table_and_a_deletion_is_no_value() {
    with_store(|shell| {
        shell.ok(&["set", "k", "one"]);
        shell.ok(&["set", "other", "x"]);
        shell.ok(&["set", "k", "two\nlines"]);
        shell.ok(&["delete", "k"]);
        shell.ok(&["set", "k", "deleted"]);
        let all = "REVISION  VERSION  CREATED  VALUE\n2         1        2        one\n\
                   4         2        2        two\\nlines\n5         -        -        deleted\n\
                   6         1        6        deleted\n";
        assert_eq!(shell.ok(&["history", "k"]), all);
        let plain = |args: &[&str]| shell.ok(&[&["history", "k", "--output=plain"], args].concat());
        assert_eq!(plain(&["--from=3", "--limit=2"]), "2\t1\t2\tone\n4\t2\t2\ttwo\\nlines\n");
        assert_eq!(plain(&["--from=5", "--to=5"]), "5\t-\t-\tdeleted\n");
        assert_eq!(plain(&["--from=6", "--stale"]), "6\t1\t6\tdeleted\n");
        let lines = shell.ok(&["history", "k", "-ojson"]);
        let lines: Vec<_> = lines.lines().map(json).collect();
        let first = serde_json::json!({
            "key": "k", "key_base64": "aw==", "revision": 2, "place": 0, "deleted": false, "create_revision": 2,
            "version": 1, "value": { "text": "one", "base64": "b25l" },
        });
        assert_eq!(lines[0], first);
        let deletion = serde_json::json!({
            "key": "k", "key_base64": "aw==", "revision": 5, "place": 0, "deleted": true,
        });
        assert_eq!(lines[2], deletion);

        let long = "x".repeat(5_000);
        shell.ok(&["set", "--escaped-keys", r"\xff", &long]);
        let table = shell.ok(&["history", "--escaped-keys", r"\xff"]);
        assert!(table.ends_with("x... (5000 bytes)\n"), "{table}");
        let plain = shell.ok(&["history", "--escaped-keys", r"\xff", "--output=plain"]);
        assert_eq!(plain, format!("7\t1\t7\t{long}\n"), "only a table is cut");
        let (code, said) = shell.fails(&["history", "--escaped-keys", r"\xfe"]);
        assert_eq!(code, Some(3));
        assert!(said.contains(r"no version of '\xfe' is kept up to revision 7"), "{said}");
        assert_eq!(shell.fails(&["history", "k", "--to=1"]).0, Some(3), "there was none yet");
    });
}

#[test]
fn changes_are_lines_in_the_order_in_which_they_were_made() {
    with_store(|shell| {
        assert_eq!(shell.ok(&["changes"]), "");
        assert_eq!(shell.ok(&["changes", "--output=table"]), "(0 changes up to revision 1)\n");
        shell.ok(&["set", "b", "tab\there"]);
        shell.run_with_stdin(&["txn", "-", "--yes"], b"then\nset a/2 x\ndelete b\nset a/1 y\n");
        shell.ok(&["set", "--escaped-keys", r"a/\xff", ""]);
        let all = "2\tb\t1\ttab\\there\n3\ta/2\t1\tx\n3\tb\t-\tdeleted\n3\ta/1\t1\ty\n4\ta/\\xff\t1\t\n";
        assert_eq!(shell.ok(&["changes"]), all);
        let of_a = "REVISION  KEY     VERSION  VALUE\n3         a/2     1        x\n\
                    3         a/1     1        y\n4         a/\\xff  1\n(3 changes up to revision 4)\n";
        assert_eq!(shell.ok(&["changes", "--prefix", "a/", "--output=table"]), of_a);
        let keys = |args: &[&str]| shell.ok(&[&["changes", "--keys-only"], args].concat());
        assert_eq!(
            keys(&["--from=3", "--limit=1"]),
            "3\ta/2\t1\n3\tb\t-\n3\ta/1\t1\n",
            "a transaction is whole"
        );
        assert_eq!(keys(&["--to=2"]), "2\tb\t1\n");
        assert_eq!(keys(&["--escaped-keys", "--prefix", r"a/\xff", "--stale"]), "4\ta/\\xff\t1\n");
        let lines = shell.ok(&["changes", "-ojson", "--keys-only"]);
        let lines: Vec<_> = lines.lines().map(json).collect();
        let number = |line: &serde_json::Value, field: &str| line[field].as_u64().unwrap();
        let places: Vec<_> =
            lines.iter().map(|line| (number(line, "revision"), number(line, "place"))).collect();
        assert_eq!(places, [(2, 0), (3, 0), (3, 1), (3, 2), (4, 0)]);
        assert_eq!((&lines[4]["key"], &lines[4]["key_base64"]), (&serde_json::Value::Null, &"YS//".into()));
        assert!(lines[0].get("value").is_none() && lines[2]["deleted"] == true);
    });
}

#[test]
fn a_revision_that_the_history_does_not_have_is_named_with_what_it_has() {
    with_store(|shell| {
        for value in ["1", "2", "3"] {
            shell.ok(&["set", "k", value]);
        }
        shell.ok(&["compact", "3"]);
        for command in [&["history", "k"][..], &["changes"]] as [&[&'static str]; 2] {
            let with = |args: &[&'static str]| [command, args].concat();
            let (code, said) = shell.fails(&with(&["--from=2"]));
            assert_eq!(code, Some(1), "{said}");
            let floor = "revision 2 is compacted; the earliest that can be read is 3";
            assert!(said.contains(floor) && said.contains("leave out --from"), "{said}");
            let (code, said) = shell.fails(&with(&["--from=9"]));
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("revision 9 is not there yet; the store is at revision 4"), "{said}");
            assert_eq!(shell.fails(&with(&["--from=4", "--to=3"])).0, Some(2));
            assert_eq!(shell.fails(&with(&["--from=0"])).0, Some(1));
            assert_eq!(shell.fails(&with(&["--from=now"])).0, Some(2));
            assert_eq!(shell.ok(&with(&["--output=plain"])).lines().count(), 2);
        }
    });
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    with_store(|shell| {
        shell.ok(&["set", "key", "value"]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_mokv"))
            .args(["list", "--endpoints", &shell.endpoint])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
    });
}

#[test]
fn members_and_status_in_tables_and_in_json() {
    with_store(|shell| {
        let table = shell.ok(&["members"]);
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(lines.next().unwrap(), ["NAME", "NODE", "ID", "RPC", "ADDRESS", "ROLE"]);
        assert_eq!(lines.next().unwrap(), ["only", "0000000000000abc", &shell.endpoint, "leader"]);
        assert_eq!(json(&shell.ok(&["members", "--output=json"]))["node_id"], "0000000000000abc");
        assert!(shell.ok(&["status"]).lines().nth(1).unwrap().starts_with("only "));
        assert_eq!(json(&shell.ok(&["status", "--output=json"]))["role"], "leader");
        assert!(shell.ok(&["members", "--output=plain"]).starts_with("only\t0000000000000abc\t"));
    });
}

#[test]
fn a_measurement_counts_what_it_did() {
    with_store(|shell| {
        let space = ["--key-space-size", "50", "--clients", "4", "--conns", "2", "--output=json"];
        let bench = |args: &[&str]| shell.ok(&[&["bench"], args, &space].concat());
        let put = json(&bench(&["put", "--total", "200", "--sequential-keys", "--val-size", "100"]));
        assert_eq!(
            (&put["operation"], &put["succeeded"], &put["failed"]),
            (&"put".into(), &200.into(), &0.into())
        );
        let latency = |name: &str| put["latency_us"][name].as_u64().unwrap();
        assert!(0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
        assert_eq!(shell.ok(&["list", "--prefix", "bench/", "--count"]), "50\n");
        assert_eq!(shell.run(&["get", "bench/0000000000"]).stdout.len(), 100);
        shell.ok(&["delete", "bench/0000000007"]);
        let rate = ["get", "--stale", "--duration", "200ms", "--rate", "500", "--no-prepare"];
        let get = json(&bench(&rate));
        assert!((1..=100).contains(&get["succeeded"].as_u64().unwrap()), "100 are due in this time: {get}");
        let mixed = bench(&["mixed", "--rw-ratio", "3", "--total", "400", "--distribution", "zipf"]);
        let lines: Vec<_> = mixed.lines().map(json).collect();
        let succeeded = |line: &serde_json::Value| line["succeeded"].as_u64().unwrap();
        assert_eq!(lines.iter().map(succeeded).sum::<u64>(), 400);
        assert!(succeeded(&lines[0]) < succeeded(&lines[1]), "more gets than puts: {mixed}");
        assert_eq!(lines[1]["absent"], 0, "the keys are written first, the deleted one as well");
        assert!(
            shell
                .fails(&["bench", "put", "--key-size", "8", "--key-space-size", "1000"])
                .1
                .contains("--key-size 9")
        );
    });
}

#[test]
fn a_watched_status_comes_again_and_again() {
    with_store(|shell| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mokv"))
            .args(["status", "--watch=10ms", "--output=json", "--endpoints", &shell.endpoint])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
        let roles: Vec<_> = lines.map(|line| json(&line.unwrap())["role"].clone()).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(roles, ["leader", "leader", "leader"]);
    });
}

#[test]
fn operators_commands_and_members_that_do_not_exist() {
    with_store(|shell| {
        assert_eq!(shell.ok(&["transfer-leader"]), "only leads\n");
        assert_eq!(
            shell.ok(&["snapshot", "take", "--output=plain"]),
            format!("only\t{}\t7\n", shell.endpoint)
        );
        let settings = shell.ok(&["configure", "--max-store-bytes", "2GiB", "--output=plain"]);
        assert_eq!(
            settings,
            "max-sessions\t10000\nmax-store-bytes\t2147483648\nhistory-max-age\t300s\n\
             history-max-bytes\t134217728\nhistory-min-revisions\t100\nmax-transaction-changes\t10000\n\
             max-transaction-bytes\t67108864\nwanted-size\t0\n"
        );
        let settings = shell.ok(&["configure", "--history-max-age=2m", "--output=plain"]);
        assert!(settings.contains("history-max-age\t120s\n"), "{settings}");
        assert_eq!(shell.fails(&["configure", "--history-max-age=1500ms"]).0, Some(2));
        assert_eq!(shell.ok(&["compact", "7"]), "the earliest revision that can be read is 7\n");
        assert_eq!(
            json(&shell.ok(&["compact", "--output=json"])),
            serde_json::json!({ "floor_revision": 1 })
        );
        for sessions in ["0", "1000001"] {
            assert_eq!(shell.fails(&["configure", "--max-sessions", sessions]).0, Some(2), "{sessions}");
        }
        shell.ok(&["configure", "--max-sessions", "1000000"]);
        let resized = json(&shell.ok(&["members", "resize", "--to=1", "--output=json"]));
        assert_eq!(resized, serde_json::json!({ "wanted_size": 1, "removed": [] }));
        for args in [&["transfer-leader", "--to", "nobody"][..], &["members", "remove", "nobody"]] {
            let (code, said) = shell.fails(args);
            assert_eq!(code, Some(3), "{said}");
            assert!(said.contains("'nobody'"), "{said}");
        }
    });
}

#[test]
fn no_length_of_time_that_can_be_typed_is_too_long() {
    with_store(|shell| {
        for time in ["999999999h", "18446744073709551615ms"] {
            let time = ["--timeout", time];
            shell.ok(&[&["set", "key", "value"], &time[..]].concat());
            assert_eq!(shell.ok(&[&["get", "key"], &time[..]].concat()), "value");
            shell.ok(&[&["list"], &time[..]].concat());
            shell.ok(&[&["status"], &time[..]].concat());
            shell.ok(&[&["members"], &time[..]].concat());
            shell.ok(&[&["delete", "key"], &time[..]].concat());
        }
        let (code, said) = shell.fails(&["get", "key", "--timeout", "18446744073709551616ms"]);
        assert_eq!(code, Some(2), "{said}");
    });
}

#[test]
fn several_keys_are_read_at_once_and_absent_ones_are_reported() {
    with_store(|shell| {
        shell.ok(&["put", "a", "1"]);
        shell.ok(&["set", "b", "two\nlines"]);
        let table =
            "KEY  REVISION  VERSION  VALUE\na    2         1        1\nb    3         1        two\\nlines\n";
        assert_eq!(shell.ok(&["get", "a", "b"]), table);
        assert_eq!(shell.ok(&["get", "b", "a", "--output=plain"]), "b\ttwo\\nlines\na\t1\n");
        let lines = shell.ok(&["get", "a", "b", "--output=json"]);
        let keys: Vec<_> = lines.lines().map(|line| json(line)["key"].clone()).collect();
        assert_eq!(keys, ["a", "b"]);
        let output = shell.run(&["get", "a", "x", "y", "--output=plain"]);
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"a\t1\n", "what there is is shown");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no key 'x'") && said.contains("no key 'y'"), "{said}");
        let listed = shell.ok(&["list"]);
        assert_eq!(shell.ok(&["ls"]), listed);
        assert_eq!(shell.ok(&["rm", "a"]), "deleted, revision 4\n");
        assert_eq!(shell.ok(&["del", "b"]), "deleted, revision 5\n");
    });
}

#[test]
fn a_variable_names_the_nodes_and_a_flag_wins() {
    with_store(|shell| {
        shell.ok(&["set", "key", "value"]);
        let get = |variable: &str, flags: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
            command.args(["get", "key", "--timeout=500ms"]).args(flags).env("MOKV_ENDPOINTS", variable);
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(get(&shell.endpoint, &[]), (Some(0), "value".to_owned()));
        assert_eq!(get(&format!("127.0.0.1:9, {}", shell.endpoint), &[]), (Some(0), "value".to_owned()));
        assert_eq!(get("127.0.0.1:9", &[]).0, Some(6));
        assert_eq!(get("127.0.0.1:9", &["--endpoints", &shell.endpoint]), (Some(0), "value".to_owned()));
        assert_eq!(get("nonsense", &[]).0, Some(2));
    });
}

#[test]
fn a_prefix_is_deleted_when_that_is_meant() {
    with_store(|shell| {
        for number in 0..150 {
            shell.ok(&["set", &format!("user/{number}"), "x", "--no-session"]);
        }
        shell.ok(&["set", "other", "y"]);
        let (code, said) = shell.fails(&["delete", "--prefix", "user/"]);
        assert_eq!(code, Some(2), "there is no node to ask");
        assert!(said.contains("150 keys") && said.contains("--yes"), "{said}");
        assert_eq!(shell.ok(&["list", "--count"]), "151\n", "nothing was deleted");
        assert_eq!(shell.ok(&["delete", "--prefix", "user/1", "--yes"]), "deleted 61 keys\n");
        let json = json(&shell.ok(&["delete", "--prefix", "user/", "--yes", "--output=json"]));
        assert_eq!((&json["deleted"], &json["changed_meanwhile"]), (&89.into(), &0.into()));
        assert_eq!(shell.ok(&["delete", "--prefix", "user/"]), "deleted 0 keys\n");
        assert_eq!(shell.ok(&["list", "--keys-only"]), "other\n");
        for wrong in [&["delete"][..], &["delete", "a", "--prefix", "a"], &["delete", "a", "--yes"]] {
            assert_eq!(shell.fails(wrong).0, Some(2), "{wrong:?}");
        }
    });
}

#[test]
fn a_transaction_is_a_script_that_is_shown_before_it_is_sent() {
    with_store(|shell| {
        shell.ok(&["set", "a", "1"]);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("move.txn");
        let script = "if a mod-revision = 2\nif b absent\nthen\n  delete a\n  set b \"two words\"\n  list \"\"\nelse\n  get a\n";
        std::fs::write(&file, script).unwrap();
        let file = file.to_str().unwrap();

        let (code, said) = shell.fails(&["txn", file]);
        assert_eq!(code, Some(2), "there is no node to ask");
        assert!(said.contains("  set b \"two words\"") && said.contains("--yes"), "{said}");
        assert_eq!(shell.ok(&["list", "--keys-only"]), "a\n", "nothing was sent");

        let done = shell.ok(&["txn", file, "--yes", "--output=plain"]);
        let expected = "delete\ta\t-\tdeleted\nset\tb\t3\twritten\nlist\tb\t3\ttwo words\nlist\t\t-\t1 key\n\
                        the conditions hold, revision 3\n";
        assert_eq!(done, expected);
        let again = shell.ok_or(4, &["txn", file, "--yes", "--output=json"]);
        let lines: Vec<_> = again.lines().map(json).collect();
        assert_eq!((&lines[0]["operation"], &lines[0]["exists"]), (&"get".into(), &false.into()));
        assert_eq!((&lines[1]["succeeded"], &lines[1]["revision"]), (&false.into(), &3.into()));

        // A read is not asked about.
        std::fs::write(file, "get b\n").unwrap();
        let read = shell.ok(&["txn", file, "--output=plain"]);
        assert_eq!(read, "get\tb\t3\ttwo words\nexecuted, revision 3\n");
        std::fs::write(file, "set b 1\nset b 2\n").unwrap();
        let (code, said) = shell.fails(&["txn", file, "--yes"]);
        assert!(code == Some(2) && said.contains("twice"), "{said}");
        std::fs::write(file, "get b\njump\n").unwrap();
        let (code, said) = shell.fails(&["txn", file]);
        assert!(code == Some(2) && said.contains("line 2 of") && said.contains("'jump'"), "{said}");
        let (code, said) = shell.fails(&["txn", "nowhere.txn"]);
        assert!(code == Some(1) && said.contains("cannot read nowhere.txn"), "{said}");
        assert_eq!(shell.fails(&["txn"]).0, Some(2), "there is no terminal");
    });
}

#[test]
fn several_keys_are_read_at_one_revision() {
    with_store(|shell| {
        shell.ok(&["set", "a", "1"]);
        shell.ok(&["set", "b", "2"]);
        let lines = shell.ok(&["get", "a", "b", "--output=json"]);
        let read: Vec<_> = lines.lines().map(json).collect();
        assert_eq!((&read[0]["mod_revision"], &read[1]["mod_revision"]), (&2.into(), &3.into()));
        assert!(read.iter().all(|read| read["revision"] == 3));
        let (code, said) = shell.fails(&["get", "a", "nothing"]);
        assert!(code == Some(3) && said.contains("there is no key 'nothing' at revision 3"), "{said}");
    });
}

/// A command with a home directory of its own, without the environment variables of the user who runs the tests.
fn at_home(home: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    for variable in ["MOKV_ENDPOINTS", "MOKV_CONTEXT", "MOKV_CONFIG", "XDG_CONFIG_HOME"] {
        command.env_remove(variable);
    }
    command.args(args).env("HOME", home).current_dir(home);
    command
}

#[test]
fn contexts_name_clusters_for_all_commands() {
    use std::os::unix::fs::PermissionsExt;
    with_store(|shell| {
        let home = tempfile::tempdir().unwrap();
        let mokv = |args: &[&str]| at_home(home.path(), args).output().unwrap();
        let ok = |args: &[&str]| {
            let output = mokv(args);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        shell.ok(&["set", "key", "value"]);
        assert_eq!(ok(&["context", "list", "--output=plain"]), "");
        ok(&["context", "add", "here", "--endpoints", &shell.endpoint]);
        ok(&["context", "add", "away", "--endpoints", "127.0.0.1:9,127.0.0.1:10", "--token-file", "token"]);
        let file = home.path().join(".config/mokv/contexts.yaml");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        assert_eq!(ok(&["get", "key", "--context", "here"]), "value");
        assert_eq!(ok(&["context", "use", "here"]), "context here is in use\n");
        assert_eq!(ok(&["get", "key"]), "value");
        assert_eq!(ok(&["members", "--output=plain"]).lines().count(), 1);
        let token = home.path().canonicalize().unwrap().join("token");
        let listed = ok(&["context", "list", "--output=json"]);
        let away = json(listed.lines().next().unwrap());
        assert_eq!((&away["name"], &away["in_use"]), (&"away".into(), &false.into()));
        assert_eq!(away["context"]["token-file"], token.to_str().unwrap(), "it is found from everywhere");
        let table = ok(&["context", "list"]);
        assert!(table.contains("*  here"), "{table}");

        // A flag takes precedence over a variable, and a variable over a context.
        let asked = |command: &mut Command| {
            let said = command.output().unwrap().stderr;
            let said = String::from_utf8(said).unwrap();
            said.split("(asked ")
                .nth(1)
                .map_or(said.clone(), |rest| rest.split(')').next().unwrap().to_owned())
        };
        let get = ["get", "key", "--timeout=300ms"];
        let with_variable = |args: &[&str]| {
            let mut command = at_home(home.path(), args);
            command.env("MOKV_ENDPOINTS", "127.0.0.1:11").env("MOKV_CONTEXT", "away");
            command
        };
        assert_eq!(asked(&mut with_variable(&get)), "127.0.0.1:11");
        let flag = [&get[..], &["--endpoints=127.0.0.1:12"]].concat();
        assert_eq!(asked(&mut with_variable(&flag)), "127.0.0.1:12");
        let output = with_variable(&["get", "key", "--context=here"]).output().unwrap();
        assert_eq!(output.stdout, b"value");
        std::fs::write(&token, "secret").unwrap();
        assert_eq!(
            asked(at_home(home.path(), &get).env("MOKV_CONTEXT", "away")),
            "127.0.0.1:9, 127.0.0.1:10"
        );
        let json_error = [&get[..], &["--output=json"]].concat();
        let output = at_home(home.path(), &json_error).env("MOKV_CONTEXT", "away").output().unwrap();
        let said = json(&String::from_utf8(output.stderr).unwrap());
        assert_eq!(said["error"]["context"], "away", "{said}");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("context 'away': cannot read 'key'"), "{said}");
        std::fs::remove_file(&token).unwrap();
        let no_token = asked(at_home(home.path(), &get).env("MOKV_CONTEXT", "away"));
        assert!(
            no_token.contains("--token-file") && no_token.contains("error: context 'away': "),
            "{no_token}"
        );

        let again = mokv(&["context", "add", "here", "--endpoints", "127.0.0.1:1"]);
        assert_eq!(again.status.code(), Some(2), "nothing is replaced by mistake");
        assert_eq!(mokv(&["get", "key", "--context", "nowhere"]).status.code(), Some(3));
        assert_eq!(mokv(&["context", "remove", "nowhere"]).status.code(), Some(3));
        assert_eq!(mokv(&["context", "add", "a b", "--endpoints", "a:1"]).status.code(), Some(2));
        ok(&["context", "remove", "here"]);
        assert_eq!(asked(&mut at_home(home.path(), &get)), "127.0.0.1:8400", "what was in use is gone");

        std::fs::write(&file, "contexts:\n  here:\n    endpoint: [127.0.0.1:1]\n").unwrap();
        for args in [&get[..], &["context", "list"], &["context", "use", "here"]] {
            let output = mokv(args);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            let place = format!("{} line 3: ", file.display());
            assert!(said.contains(&place) && said.contains("endpoint") && said.contains("next:"), "{said}");
        }
        let left = std::fs::read_to_string(&file).unwrap();
        assert!(left.contains("endpoint: "), "what cannot be read is not written over: {left}");
        shell.ok(&["get", "key"]);
    });
}

#[test]
fn a_context_whose_endpoints_no_client_takes_is_not_added() {
    let home = tempfile::tempdir().unwrap();
    let add = |endpoints: &str| {
        let args = ["context", "add", "here", "--replace", "--endpoints", endpoints];
        at_home(home.path(), &args).output().unwrap()
    };
    for bad in ["a", "a:0", "a:65536", ":1", "http://a:1", "a b:1", "a:1,", "a:1,,b:1"] {
        let output = add(bad);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad}: {said}");
        assert!(said.contains("is no endpoint") && said.contains("next:"), "{bad}: {said}");
    }
    assert!(!home.path().join(".config/mokv/contexts.yaml").exists());
    assert!(add(" a:1 , [::1]:2").status.success());
    let listed = at_home(home.path(), &["context", "list", "--output=plain"]).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "\there\ta:1,[::1]:2\t\n");
}

#[test]
fn contexts_added_at_the_same_time_are_all_kept() {
    let home = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..24).map(|number| format!("c{number:02}")).collect();
    let adding: Vec<_> = (names.iter())
        .map(|name| {
            let args = ["context", "add", name, "--endpoints", "a:1"];
            at_home(home.path(), &args).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in adding {
        assert!(child.wait().unwrap().success());
    }
    let listed = at_home(home.path(), &["context", "list", "--output=json"]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let kept: Vec<_> = listed.lines().map(|line| json(line)["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kept, names);
}

#[test]
fn with_json_output_errors_are_json_and_exit_as_ever() {
    with_store(|shell| {
        let fails = |args: &[&str]| {
            let output = shell.run(args);
            assert!(output.stdout.is_empty(), "{args:?}: results and errors are kept apart");
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(said.lines().count(), 1, "{said}");
            let said = json(&said);
            assert_eq!(said["exit_code"], output.status.code().unwrap(), "{said}");
            let error = &said["error"];
            assert!(error["message"].is_string() && error["next"].is_string(), "{said}");
            let words = |field: &str| error[field].as_str().unwrap_or("-").to_owned();
            (output.status.code().unwrap(), words("code"), words("outcome"))
        };
        let is = |exit: i32, code: &str, outcome: &str| (exit, code.to_owned(), outcome.to_owned());
        shell.ok(&["set", "lock", "mine"]);
        assert_eq!(
            fails(&["set", "lock", "x", "--if-revision=9", "--output=json"]),
            is(4, "condition-failed", "refused")
        );
        assert_eq!(fails(&["get", "absent", "-ojson"]), is(3, "not-found", "-"));
        assert_eq!(fails(&["members", "remove", "node-9", "-o", "json"]), is(3, "not-found", "refused"));
        assert_eq!(fails(&["leave", "--yes", "--output", "json"]), is(1, "refused", "refused"));
        assert_eq!(fails(&["get", "k", "--output=json", "--tls-ca=/nowhere"]), is(2, "usage", "-"));
        assert_eq!(fails(&["get", "--output=json"]), is(2, "usage", "-"));
        let incomplete = shell.run(&["get", "--output=json"]);
        let said = json(&String::from_utf8(incomplete.stderr).unwrap());
        assert!(
            said["error"]["message"].as_str().unwrap().contains("<KEY>"),
            "it says what is missing: {said}"
        );
        // Without a place to write messages, only the exit code is left.
        let mut mute = Command::new(env!("CARGO_BIN_EXE_mokv"));
        mute.args(["get", "--output=json"])
            .stderr(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!(mute.status().unwrap().code(), Some(2));
        assert_eq!(fails(&["get", "k", "--nonsense", "--output=json"]), is(2, "usage", "-"));
        let output =
            shell.run(&["snapshot", "take", "--only=127.0.0.1:9", "--timeout=300ms", "--output=json"]);
        let said = json(&String::from_utf8(output.stderr).unwrap());
        let node = &said["error"]["nodes"][0];
        assert_eq!(
            (&node["rpc_addr"], &node["outcome"]),
            (&"127.0.0.1:9".into(), &"not executed".into()),
            "{said}"
        );
        assert_eq!(
            fails(&["get", "k", "--output=json", "--timeout=200ms", "--context=no-such-context"]).1,
            "not-found",
            "a context that does not exist"
        );
    });
}
