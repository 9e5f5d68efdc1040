//! grpcurl, which learns a server's services only from the server's reflection.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// grpcurl, run against a node.
pub struct Grpcurl {
    pub program: PathBuf,
    pub address: String,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Refusal {
    pub exit_code: Option<i32>,
    /// `google.rpc.Status` as JSON, its details unpacked.
    pub status: Value,
}

impl Grpcurl {
    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(["-plaintext", "-connect-timeout", "60", "-max-time", "60"]).args(options);
        command.arg(&self.address).args(words).output().unwrap()
    }

    /// Returns the output of `list` or `describe`.
    pub fn ask(&self, words: &[&str]) -> String {
        let output = self.run(&[], words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns all answers to one request.
    pub fn call(&self, method: &str, request: Value) -> Result<Vec<Value>, Refusal> {
        let output = self.run(&["-format-error", "-d", &request.to_string()], &[method]);
        if output.status.success() {
            let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
            return Ok(answers.collect::<Result<_, _>>().unwrap());
        }
        let status = serde_json::from_slice(&output.stderr);
        let said = || String::from_utf8_lossy(&output.stderr);
        let status = status.unwrap_or_else(|_| panic!("{method} {request}: {}", said()));
        Err(Refusal { exit_code: output.status.code(), status })
    }

    /// Returns the only answer to a request.
    pub fn answer(&self, method: &str, request: Value) -> Value {
        let answers = self.call(method, request.clone());
        let answers = answers.unwrap_or_else(|refusal| panic!("{method} {request}: {refusal:?}"));
        <[Value; 1]>::try_from(answers).unwrap_or_else(|all| panic!("{method} {request}: {all:?}"))[0].clone()
    }
}
