//! The tools that the programs in other languages need: found on this machine, or built once into the target folder.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use mokv::rt;
use rustix::process::{Pid, Signal, kill_process_group};

const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl";
const GRPCURL_VERSION: &str = "v1.9.4";

/// Time limit for the first download and build.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const PAUSE: Duration = Duration::from_millis(20);

/// Whether there is a Go that is new enough for our module.
pub fn go_is_here() -> bool {
    let mut asks = Command::new("go");
    asks.args(["list", "-m"]).current_dir(sources("go"));
    is_here(asks, "Go 1.26 or later")
}

/// Whether there is a Python that is new enough and can make virtual environments.
pub fn python_is_here() -> bool {
    let mut asks = Command::new("python3");
    asks.args(["-c", "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"]);
    is_here(asks, "Python 3.10 or later with its module venv (on Debian: python3-venv)")
}

/// Prints a message about what is missing; in continuous integration nothing may be missing.
fn is_here(mut asks: Command, what: &str) -> bool {
    let answer = asks.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if answer.is_ok_and(|status| status.success()) {
        return true;
    }
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!must, "a tool is missing, and CI is true: install {what}");
    say(&format!(
        "\n*** SKIPPED: a client in another language was NOT tried. Install {what}, and run: \
         cargo test --test foreign ***\n"
    ));
    false
}

/// Prints past the test harness, which would capture it.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Where the sources of a program are.
pub fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(language)
}

/// Where a built program is kept. It outlives the test, so that the next one finds it.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign").join(name)
}

/// Builds the Go program. Returns its path.
pub async fn go_program() -> PathBuf {
    let program = built("go-client");
    let mut generate = Command::new("go");
    generate.args(["generate", "."]).current_dir(sources("go"));
    make("stubs for Go", generate).await;
    let mut build = Command::new("go");
    // Without version control information: the tool may be missing, or fail.
    build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".").current_dir(sources("go"));
    make("the Go client", build).await;
    program
}

/// Installs grpcurl. Returns its path.
pub async fn grpcurl() -> PathBuf {
    let folder = built(&format!("grpcurl-{GRPCURL_VERSION}"));
    let program = folder.join("grpcurl");
    if !program.exists() {
        let mut install = Command::new("go");
        install.arg("install").arg(format!("{GRPCURL}@{GRPCURL_VERSION}")).env("GOBIN", &folder);
        make("grpcurl", install).await;
    }
    program
}

/// Makes a virtual environment with the Python program's requirements. Returns its interpreter.
pub async fn python() -> PathBuf {
    let folder = built("python");
    let interpreter = folder.join("bin/python");
    let requirements = sources("python").join("requirements.txt");
    // Another version of Python, or of any requirement, gives another environment.
    let version = Command::new("python3").arg("--version").output().unwrap().stdout;
    let wanted = [version, std::fs::read(&requirements).unwrap()].concat();
    let made_for = folder.join("made-for");
    if std::fs::read(&made_for).is_ok_and(|made| made == wanted) {
        return interpreter;
    }
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(&folder);
    make("a virtual environment", create).await;
    let mut install = Command::new(&interpreter);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // Wheels only: without a compiler, building gRPC takes long and fails with an unclear error.
    install.args(["--only-binary", ":all:", "--requirement"]).arg(requirements);
    make("libraries for Python", install).await;
    std::fs::write(made_for, wanted).unwrap();
    interpreter
}

/// Runs a build command.
async fn make(what: &str, mut command: Command) {
    say(&format!("making {what}: {command:?}"));
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = Running::start(command).ended(BUILD_LIMIT).await;
    assert!(status.success(), "{what} cannot be made: {status}");
}

/// A process. Dropping this kills it and the processes that it started.
pub struct Running(pub Child);

impl Running {
    pub fn start(mut command: Command) -> Running {
        Running(command.process_group(0).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self, limit: Duration) -> ExitStatus {
        let end = rt::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(rt::now() < end, "it runs for longer than {limit:?} and is killed");
            rt::sleep(PAUSE).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its group may be gone already. Its id is not reused as long as the process has not been waited for.
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("it has a pid");
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.0.wait();
        }
    }
}
