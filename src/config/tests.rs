//! Precedence, the original's configuration files, and all that must be refused.

use std::path::PathBuf;

use super::*;

fn nothing_set(_: &str) -> Option<String> {
    None
}

fn layer(given: &[(&'static str, &str)]) -> Layer {
    flags(given.iter().map(|(key, word)| (*key, vec![(*word).to_owned()])))
}

fn with_flags(given: &[(&'static str, &str)]) -> Result<NodeConfig, ConfigError> {
    load(&layer(given), nothing_set)
}

fn refusal(given: &[(&'static str, &str)]) -> String {
    with_flags(given).expect_err("this must be refused").to_string()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mokv.yaml");
    std::fs::write(&path, text).unwrap();
    (directory, path.display().to_string())
}

fn example(name: &str) -> NodeConfig {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    with_flags(&[("config-file", &path.display().to_string())]).unwrap()
}

#[test]
fn every_default_in_the_table_is_possible() {
    let config = with_flags(&[("node-name", "alpha")]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("mokv-data/alpha"));
    assert_eq!(config.bind_addr, "127.0.0.1:8401".parse().unwrap());
    assert_eq!((config.rpc_port, config.metrics_port), (8400, 4000));
    assert_eq!(config.advertised_rpc(), "127.0.0.1:8400");
    assert_eq!(config.advertised_gossip(), "127.0.0.1:8401");
    assert_eq!(config.limits.max_value_bytes, 1 << 20);
    assert_eq!(config.log_format, LogFormat::Text);
    assert!(!config.bootstrap && config.start_join_addrs.is_empty() && config.cluster_key.is_none());
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let (_directory, path) = file("node-name: alpha\nrpc-port: 3\nmetrics-port: 3000\nlog-level: debug\n");
    let environment = |name: &str| match name {
        "MOKV_RPC_PORT" => Some("2".to_owned()),
        "MOKV_METRICS_PORT" => Some("2000".to_owned()),
        "MOKV_LOG_FORMAT" => Some(String::new()),
        _ => None,
    };
    let config = load(&layer(&[("config-file", &path), ("rpc-port", "1")]), environment).unwrap();
    assert_eq!(config.rpc_port, 1, "the flag wins");
    assert_eq!(config.metrics_port, 2000, "then the environment");
    assert_eq!(config.log_level, "debug", "then the file");
    assert_eq!(config.log_format, LogFormat::Text, "then the default; an empty variable is not set");
}

#[test]
fn the_environment_can_name_the_file() {
    let (_directory, path) = file("node-name: from-file\n");
    let config = load(&Layer::new(), |name| (name == "MOKV_CONFIG_FILE").then(|| path.clone())).unwrap();
    assert_eq!(config.node_name, "from-file");
}

#[test]
fn the_three_files_of_the_original_mean_what_they_meant() {
    let first = example("config.yaml");
    assert_eq!((first.node_name.as_str(), first.bootstrap), ("my-node", true));
    assert_eq!(first.data_dir, PathBuf::from("/tmp/mokv"));
    assert_eq!(first.log_level, "info");
    let third = example("config3.yaml");
    assert_eq!(third.bind_addr, "127.0.0.1:8405".parse().unwrap());
    assert_eq!((third.rpc_port, third.metrics_port, third.bootstrap), (8404, 4006, false));
    assert_eq!(example("config2.yaml").start_join_addrs, ["127.0.0.1:8401"]);
}

#[test]
fn an_impossible_value_in_a_file_is_refused_with_file_line_and_key() {
    let (_directory, path) = file("node-name: alpha\n\nrpc-port: many\n");
    assert_eq!(
        refusal(&[("config-file", &path)]),
        format!("{path} line 3: rpc-port: 'many' is not a port; give a number from 1 to 65535"),
    );
    let (_directory, path) = file("start-join-addrs:\n  - node-1\n");
    assert!(refusal(&[("config-file", &path)]).starts_with(&format!("{path} line 1: start-join-addrs: ")));
    let (_directory, path) = file("rpc-port: [1, 2]\n");
    assert!(refusal(&[("config-file", &path)]).contains("rpc-port: has 2 values; give one PORT"));
}

#[test]
fn an_impossible_value_elsewhere_is_refused_with_its_flag_or_variable() {
    assert!(refusal(&[("rpc-port", "0")]).starts_with("--rpc-port: "));
    let said = load(&Layer::new(), |name| (name == "MOKV_LOG_LEVEL").then(|| "loud".to_owned()));
    assert!(said.unwrap_err().to_string().starts_with("MOKV_LOG_LEVEL: 'loud' is not a log level"));
    assert!(refusal(&[("config-file", "/nonexistent.yaml")]).starts_with("--config-file: cannot read"));
    assert!(refusal(&[("node-name", "../up")]).starts_with("--node-name: "));
    assert!(refusal(&[("bind-addr", "node-1:8401")]).contains("give the name as advertise-addr"));
}

#[test]
fn a_variable_that_is_no_setting_is_refused_unless_kubernetes_sets_it() {
    let check = |name: &str, value: &str| {
        layers::check_variables([(name.to_owned(), value.to_owned())]).map_err(|error| error.to_string())
    };
    assert_eq!(
        check("MOKV_RCP_PORT", "8400").unwrap_err(),
        "MOKV_RCP_PORT: there is no such setting; did you mean MOKV_RPC_PORT?"
    );
    assert!(check("MOKV_ZEBRA", "1").unwrap_err().contains("'mokv serve --help'"));
    for (name, value) in [
        ("MOKV_RPC_PORT", "8400"),
        ("MOKV_ENDPOINTS", "a:1"),
        ("MOKV_SEED", "17"),
        ("PATH", "/bin"),
        // Variables of a service named mokv, and of mokv-headless.
        ("MOKV_SERVICE_HOST", "10.96.0.7"),
        ("MOKV_SERVICE_PORT", "8400"),
        ("MOKV_SERVICE_PORT_RPC", "8400"),
        ("MOKV_PORT", "tcp://10.96.0.7:8400"),
        ("MOKV_PORT_8400_TCP", "tcp://10.96.0.7:8400"),
        ("MOKV_PORT_8400_TCP_PROTO", "tcp"),
        ("MOKV_PORT_8400_TCP_PORT", "8400"),
        ("MOKV_PORT_8400_TCP_ADDR", "10.96.0.7"),
        ("MOKV_HEADLESS_SERVICE_HOST", "None"),
        ("MOKV_HEADLESS_PORT_8401_UDP_ADDR", "10.96.0.7"),
        // Variables of a linked container.
        ("MOKV_NAME", "/web/mokv"),
        ("MOKV_ENV_PATH", "/bin"),
    ] {
        assert_eq!(check(name, value), Ok(()), "{name}");
    }
}

#[test]
fn join_addresses_are_one_value_or_many_without_doubles() {
    let given =
        flags([("start-join-addrs", vec!["a:1, b:2".to_owned(), "c:3".to_owned(), "a:1".to_owned()])]);
    assert_eq!(load(&given, nothing_set).unwrap().start_join_addrs, ["a:1", "b:2", "c:3"]);
}

#[test]
fn an_unreachable_address_is_not_published() {
    let open = ("allow-insecure", "true");
    assert!(refusal(&[("bind-addr", "0.0.0.0:8401"), open]).contains("set advertise-addr"));
    let config =
        with_flags(&[("bind-addr", "0.0.0.0:8401"), ("advertise-addr", "n1.example.org"), open]).unwrap();
    assert_eq!(config.advertised_gossip(), "n1.example.org:8401");
    assert_eq!(config.rpc_bind(), "0.0.0.0:8400".parse().unwrap());
    let config = with_flags(&[("bind-addr", "[::1]:8401")]).unwrap();
    assert_eq!(config.advertised_rpc(), "[::1]:8400");
}

#[test]
fn without_a_key_the_node_stays_on_this_machine_unless_allow_insecure_is_set() {
    assert!(refusal(&[("bind-addr", "10.0.0.1:8401")]).contains("allow-insecure"));
    assert!(with_flags(&[("bind-addr", "10.0.0.1:8401"), ("allow-insecure", "true")]).is_ok());
    let (_directory, path) = file("0123456789abcdef\n");
    let config = with_flags(&[("bind-addr", "10.0.0.1:8401"), ("cluster-key-file", &path)]).unwrap();
    assert_eq!(config.cluster_key.as_ref().unwrap().as_bytes(), b"0123456789abcdef");
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "the key is never printed");
}

#[test]
fn a_short_cluster_key_is_refused() {
    let (_directory, path) = file("secret\n");
    assert!(refusal(&[("cluster-key-file", &path)]).contains("holds 6 bytes"));
}

#[test]
fn a_formation_that_can_never_come_about_is_refused() {
    assert!(refusal(&[("bootstrap-expect", "3")]).contains("list the gossip addresses of all"));
    let own_and_one = "127.0.0.1:8401,127.0.0.1:8403";
    assert!(
        refusal(&[("bootstrap-expect", "3"), ("start-join-addrs", own_and_one)]).contains("names 1 other")
    );
    assert!(refusal(&[("bootstrap-expect", "0")]).contains("from 1 to 9"));
    assert!(refusal(&[("bootstrap-expect", "3"), ("bootstrap", "true")]).contains("contradict"));
    assert!(with_flags(&[("bootstrap-expect", "1"), ("bootstrap", "true")]).is_ok());
    // One name may resolve to all nodes.
    assert!(with_flags(&[("bootstrap-expect", "3"), ("start-join-addrs", "mokv.default.svc:8401")]).is_ok());
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    assert!(refusal(&[("metrics-port", "8400")]).starts_with("--metrics-port: 8400 is rpc-port too"));
    assert!(refusal(&[("max-value-bytes", "2MiB")]).starts_with("max-request-bytes: "));
    assert!(refusal(&[("log-segment-bytes", "1MiB")]).contains("at least 4MiB"));
    let refused = refusal(&[("snapshot-log-bytes", "5GiB")]);
    assert!(
        refused.contains("less than snapshot-log-bytes, 5GiB") && refused.contains("at most 4GiB"),
        "{refused}"
    );
    assert!(refusal(&[("election-timeout", "200ms")]).contains("300ms, three heartbeats"));
    assert!(refusal(&[("replace-silence", "1s"), ("election-timeout", "1s")]).contains("2s, two election"));
}

#[test]
fn a_local_configuration_has_the_defaults() {
    let config = NodeConfig::local("alpha", "127.0.0.1:8401".parse().unwrap());
    let mut loaded = with_flags(&[("node-name", "alpha")]).unwrap();
    loaded.allow_insecure = true;
    assert_eq!(config, loaded);
}
