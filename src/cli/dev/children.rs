//! The node processes of a development cluster: starts, watches and stops them. Each runs in its own process group, so
//! that Ctrl-C on the terminal reaches only `mokv dev`, which decides how they stop.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::plan::{NodePlan, Plan};
use crate::cli::failure::Failure;
use crate::config::settings::SETTINGS;
use crate::rt;
use crate::rt::disk::write_private;

/// Interval of the check for ended children.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A node process.
pub struct NodeProcess {
    /// The node that it runs.
    pub node: NodePlan,
    child: Child,
    /// Its end was reported.
    reported: bool,
}

impl NodeProcess {
    /// Starts `node`, which ends when the calling thread's process ends.
    ///
    /// Call it on the main thread: for the kernel the parent is dead when the *thread* that started the child ends.
    ///
    /// # Errors
    /// If its log file cannot be written or the process cannot be started.
    pub fn start(node: &NodePlan) -> Result<NodeProcess, Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::error(
                format!("cannot {what} {}: {error}", node.name),
                "check the data directory and its permissions",
            )
        };
        let log = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&node.log_file)
            .map_err(|error| failed("open the log file of", error))?;
        let also_log = log.try_clone().map_err(|error| failed("open the log file of", error))?;
        let program = std::env::current_exe().map_err(|error| failed("find the program to run", error))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--config-file")
            .arg(&node.config_file)
            .arg("--exit-with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(also_log)
            .stderr(log)
            .process_group(0);
        // The node's settings come from the written file only.
        for setting in SETTINGS {
            command.env_remove(setting.variable());
        }
        let child = command.spawn().map_err(|error| failed("start", error))?;
        Ok(NodeProcess { node: node.clone(), child, reported: false })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process ended, only once.
    pub fn newly_ended(&mut self) -> Option<ExitStatus> {
        let status = self.status()?;
        (!std::mem::replace(&mut self.reported, true)).then_some(status)
    }

    /// Returns how the process ended; `None` while it runs.
    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    fn runs(&mut self) -> bool {
        self.status().is_none()
    }

    /// Asks the process to stop. Sends no signal to a process that has ended: its id may belong to another one by now.
    fn terminate(&mut self) {
        if self.runs() {
            let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child's id is an id");
            // It may end right now, as intended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Whether any process runs.
pub fn any_runs(nodes: &mut [NodeProcess]) -> bool {
    nodes.iter_mut().any(NodeProcess::runs)
}

/// Asks all processes to stop and waits until they have ended.
pub async fn stop(nodes: &mut [NodeProcess]) {
    nodes.iter_mut().for_each(NodeProcess::terminate);
    while any_runs(nodes) {
        rt::sleep(POLL_INTERVAL).await;
    }
}

/// Kills the processes that still run. Returns their names.
pub fn kill(nodes: &mut [NodeProcess]) -> Vec<String> {
    let mut killed = Vec::new();
    for node in nodes {
        if node.runs() {
            // It may end right now, as intended. A killed child has to be waited for.
            let _ = node.child.kill();
            let _ = node.child.wait();
            killed.push(node.node.name.clone());
        }
    }
    killed
}

/// "ended with exit code 1", "was ended by signal 9".
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Writes the configuration files and starts every node.
///
/// # Errors
/// If a file cannot be written or a process cannot be started; the processes already started are stopped.
pub fn start_all(plan: &Plan) -> Result<Vec<NodeProcess>, Failure> {
    for node in &plan.nodes {
        let text = plan.config_text(node)?;
        // The node creates its own data directory, with access for its user only.
        let directory = node.config_file.parent().expect("it lies in the cluster's directory");
        let write = std::fs::create_dir_all(directory)
            .and_then(|()| write_private(&node.config_file, text.as_bytes()));
        write.map_err(|error| {
            let what = format!("cannot write {}: {error}", node.config_file.display());
            Failure::error(what, "check --data-dir and its permissions")
        })?;
    }
    let mut started = Vec::new();
    for node in &plan.nodes {
        match NodeProcess::start(node) {
            Ok(process) => started.push(process),
            Err(failure) => {
                kill(&mut started);
                return Err(failure);
            }
        }
    }
    Ok(started)
}
