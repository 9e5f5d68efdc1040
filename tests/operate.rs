//! The settings in the documents and in the chart agree with the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use mokv::config::settings::{Kind, SETTINGS, Setting};

const BEGIN: &str =
    "<!-- The table of settings: made from the code, by MOKV_UPDATE=1 cargo test --test operate -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Settings that the chart sets itself: from each pod's name, or because it runs in a pod.
const THE_CHARTS_OWN: [&str; 12] = [
    "data-dir",
    "node-name",
    "bind-addr",
    "advertise-addr",
    "rpc-port",
    "metrics-port",
    "start-join-addrs",
    "bootstrap",
    "bootstrap-expect",
    "cluster-key-file",
    "allow-insecure",
    "rejoin",
];
/// Forbidden in a pod: it would remove itself at every restart.
const NOT_IN_A_POD: [&str; 1] = ["leave-on-terminate"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

#[test]
fn the_table_of_settings_is_the_codes() {
    let document = read("docs/operate.md");
    let (before, rest) = document.split_once(BEGIN).expect("the table begins");
    let (_, after) = rest.split_once(END).expect("the table ends");
    let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    if std::env::var_os("MOKV_UPDATE").is_some() {
        std::fs::write(path("docs/operate.md"), &wanted).unwrap();
    }
    assert!(
        read("docs/operate.md") == wanted,
        "docs/operate.md has another table of settings than the code: MOKV_UPDATE=1 cargo test --test operate"
    );
}

#[test]
fn the_chart_takes_every_setting_that_is_not_its_own() {
    let schema: serde_json::Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let taken = schema["properties"]["config"]["propertyNames"]["enum"].as_array().unwrap();
    let taken: BTreeSet<&str> = taken.iter().map(|key| key.as_str().unwrap()).collect();
    let own = |key: &str| THE_CHARTS_OWN.contains(&key) || NOT_IN_A_POD.contains(&key);
    let offered = SETTINGS.iter().filter(|setting| setting.in_file()).map(|setting| setting.key);
    assert_eq!(taken, offered.filter(|key| !own(key)).collect());
    let expected = &schema["properties"]["bootstrapExpect"];
    let Some(Kind::Count { least, most }) =
        SETTINGS.iter().find(|setting| setting.key == "bootstrap-expect").map(|setting| setting.kind)
    else {
        panic!("bootstrap-expect is a number")
    };
    assert_eq!((expected["minimum"].as_u64(), expected["maximum"].as_u64()), (Some(least), Some(most)));
}

/// The table of all settings, under their headings: flag and key, variable, values, default and meaning.
fn table() -> String {
    let mut text =
        String::from("| flag and key | variable | value | default | what it does |\n| - | - | - | - | - |\n");
    for setting in SETTINGS {
        let key = match setting.in_file() {
            true => format!("`--{0}`, `{0}:`", setting.key),
            false => format!("`--{}`", setting.key),
        };
        let default = match setting.default {
            "" => "".to_owned(),
            default => format!("`{default}`"),
        };
        let help = setting.help.replace('|', "\\|").replace('<', "&lt;").replace('[', "\\[");
        let (variable, value) = (setting.variable(), value(setting));
        let _ = writeln!(text, "| {key} | `{variable}` | {value} | {default} | {help} |");
    }
    text
}

fn value(setting: &Setting) -> String {
    match setting.kind {
        Kind::Count { least, most } => format!("{least} to {most}"),
        Kind::Bytes { least, most } => format!("{least} to {most} bytes: `64KiB`, `2GiB`"),
        Kind::Time { least, most } => format!("{least:?} to {most:?}: `500ms`, `5s`, `2m`"),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        Kind::Switch => "`true` or `false`".to_owned(),
        Kind::HostPorts => "a list of `HOST:PORT`".to_owned(),
        kind => format!("`{}`", kind.placeholder()),
    }
}

#[test]
fn every_alert_stands_in_the_document() {
    let (rules, document) = (read("deploy/prometheus/alerts.yaml"), read("docs/operate.md"));
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::trim).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(document.contains(&format!("| `{alert}` ")), "docs/operate.md does not name {alert}");
    }
}
