//! `mokv pod-config`: writes the configuration file of one pod of a Kubernetes StatefulSet, from the shared settings
//! and the pod's name. No pod is special: every pod gets the same first pods and the same expected number of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use crate::config::{self, NodeConfig};

/// The settings that are derived from the pod's name and must not be among the shared ones.
const OWN: [&str; 4] = ["node-name", "advertise-addr", "start-join-addrs", "bootstrap"];

/// Write the configuration file of one pod of a StatefulSet
///
/// The shared settings, which have to say 'bootstrap-expect', with the pod's name as node-name, its stable host name as
/// advertise-addr and the first pods, as many as are expected, as start-join-addrs. The file may stay as it is when the
/// StatefulSet grows or shrinks. It is checked as 'mokv serve' would check it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mokv pod-config --settings /etc/mokv/mokv.yaml --pod kv-mokv-1 --domain kv-mokv-headless.prod.svc.cluster.local \\
    --out /run/mokv/mokv.yaml")]
pub struct PodConfig {
    /// YAML file with the settings that all pods share
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// This pod's name: NAME-ORDINAL
    #[arg(long, value_name = "NAME")]
    pod: String,
    /// Domain of the headless service, in which every pod has its name
    #[arg(long, value_name = "DOMAIN")]
    domain: String,
    /// Where to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl PodConfig {
    /// Writes the file.
    ///
    /// # Errors
    /// If the name is not a StatefulSet pod's, the settings are refused, or the file cannot be written.
    pub async fn run(self) -> Result<(), Failure> {
        let shared = std::fs::read_to_string(&self.settings).map_err(|error| {
            let what = format!("cannot read {}: {error}", self.settings.display());
            Failure::usage(what, "name a readable YAML file with --settings")
        })?;
        let text = self.render(&shared)?;
        std::fs::write(&self.out, &text).map_err(|error| {
            let what = format!("cannot write {}: {error}", self.out.display());
            Failure::error(what, "check the path, its permissions and its space")
        })?;
        let config = read(&self.out)?;
        println!("{}: {} of {}", self.out.display(), config.node_name, self.domain);
        Ok(())
    }

    fn render(&self, shared: &str) -> Result<String, Failure> {
        let stateful_set = stateful_set(&self.pod)?;
        let given = config::parse_file(&self.settings, shared)?;
        if let Some(key) = OWN.into_iter().find(|key| given.contains_key(key)) {
            return Err(Failure::usage(
                format!("{}: '{key}' is set for all pods", self.settings.display()),
                "leave it out: each pod's own is made from its name",
            ));
        }
        let value = |key: &str| given.get(key).map(|given| given.values.concat());
        let expected = value("bootstrap-expect").and_then(|number| number.parse::<usize>().ok());
        let expected = expected.ok_or_else(|| {
            let what = format!("{}: 'bootstrap-expect' is not set to a number", self.settings.display());
            Failure::usage(what, "set it to the number of pods that form the cluster")
        })?;
        let gossip_port = value("bind-addr").and_then(|bind| bind.rsplit(':').next()?.parse::<u16>().ok());
        let gossip_port = gossip_port.unwrap_or(8401);
        let joins: Vec<String> = (0..expected)
            .map(|ordinal| format!("{stateful_set}-{ordinal}.{}:{gossip_port}", self.domain))
            .collect();
        let mut text = format!("# Of {}, and {}.\n", self.settings.display(), self.pod);
        let mut line = |key: &str, value: serde_json::Value| {
            // JSON is valid YAML.
            let _ = writeln!(text, "{key}: {value}");
        };
        line("node-name", json!(self.pod));
        line("advertise-addr", json!(format!("{}.{}", self.pod, self.domain)));
        line("start-join-addrs", json!(joins));
        for (key, given) in &given {
            match given.values.as_slice() {
                [value] => line(key, json!(value)),
                values => line(key, json!(values)),
            }
        }
        Ok(text)
    }
}

/// Returns the name of the pod's StatefulSet.
fn stateful_set(pod: &str) -> Result<&str, Failure> {
    match pod.rsplit_once('-') {
        Some((name, ordinal)) if !name.is_empty() && ordinal.parse::<u32>().is_ok() => Ok(name),
        _ => Err(Failure::usage(
            format!("'{pod}' is not the name of a StatefulSet's pod, NAME-ORDINAL"),
            "give metadata.name of the pod",
        )),
    }
}

/// Returns the configuration as 'mokv serve' will read it, without environment variables.
fn read(path: &Path) -> Result<NodeConfig, Failure> {
    let file = config::flags([("config-file", vec![path.display().to_string()])]);
    Ok(config::load(&file, |_| None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(pod: &str, shared: &str) -> Result<String, String> {
        let out = tempfile::NamedTempFile::new().unwrap();
        let settings = "shared.yaml".into();
        let command =
            PodConfig { settings, pod: pod.into(), domain: "headless.ns.svc".into(), out: out.path().into() };
        command.render(shared).map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_pod_gets_the_same_first_pods() {
        let shared =
            "bootstrap-expect: 3\nallow-insecure: true\nbind-addr: 0.0.0.0:9401\nlog-level: 'debug'\n";
        for pod in ["kv-mokv-0", "kv-mokv-4"] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("mokv.yaml");
            std::fs::write(&file, render(pod, shared).unwrap()).unwrap();
            let config = read(&file).unwrap();
            assert_eq!(config.node_name, pod);
            assert_eq!(config.advertised_rpc(), format!("{pod}.headless.ns.svc:8400"));
            let joins = ["kv-mokv-0", "kv-mokv-1", "kv-mokv-2"];
            assert_eq!(config.start_join_addrs, joins.map(|name| format!("{name}.headless.ns.svc:9401")));
            assert_eq!(config.bootstrap_expect, Some(3));
            assert_eq!(config.log_level, "debug");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (pod, shared, said) in [
            ("mokv", "bootstrap-expect: 3", "'mokv' is not the name"),
            ("mokv-x", "bootstrap-expect: 3", "'mokv-x' is not the name"),
            ("mokv-0", "log-level: info", "'bootstrap-expect' is not set"),
            ("mokv-0", "bootstrap-expect: 3\nnode-name: a", "'node-name' is set for all pods"),
            ("mokv-0", "bootstrap-expct: 3", "did you mean 'bootstrap-expect'?"),
        ] {
            let refused = render(pod, shared).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
