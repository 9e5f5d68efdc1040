//! `mokv probe`: queries a node's health at its metrics port, for health checks in images that have no other program.

use std::time::Duration;

use clap::{Args, ValueEnum};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use super::failure::{Exit, Failure};
use crate::config::parse_time;
use crate::rt;
use crate::rt::net::TcpStream;

/// The most bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 << 10;

/// Ask a node on this machine whether it is live or ready; exit code 0: yes, 7: no, 6: it does not answer
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv probe live
  mokv probe ready --metrics-addr 127.0.0.1:4000")]
pub struct Probe {
    /// What to ask
    #[arg(value_enum)]
    question: Question,
    /// The node's metrics port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4000")]
    metrics_addr: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    /// Whether it answers. A node that replays its log or has no leader is live, too
    Live,
    /// Whether it has recovered, knows a leader, lags by at most ready-max-lag entries, and votes
    Ready,
}

impl Probe {
    /// Queries the node.
    ///
    /// # Errors
    /// If the node answers no, or does not answer in time.
    pub async fn run(self) -> Result<(), Failure> {
        let path = match self.question {
            Question::Live => "/livez",
            Question::Ready => "/readyz",
        };
        let address = &self.metrics_addr;
        let failed = |exit: Exit, why: String| {
            Failure::error(format!("the node at {address} {why}"), "its log and 'mokv status' say more")
                .with_exit(exit)
        };
        let (status, answer) = match rt::timeout(self.timeout, get(address, path)).await {
            Ok(answer) => {
                answer.map_err(|error| failed(Exit::Unreachable, format!("does not answer: {error}")))?
            }
            Err(_) => {
                return Err(failed(Exit::Unreachable, format!("did not answer within {:?}", self.timeout)));
            }
        };
        match status {
            http::StatusCode::OK => Ok(()),
            _ => Err(failed(Exit::Unhealthy, format!("says: {}", answer.trim_end()))),
        }
    }
}

type Wrong = Box<dyn std::error::Error + Send + Sync>;

/// Returns the status and the body of a GET.
async fn get(address: &str, path: &str) -> Result<(http::StatusCode, String), Wrong> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut requests, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let _connection = rt::task::spawn_guarded(async move {
        // The request returns the connection's errors.
        let _ = connection.await;
    });
    let request = http::Request::get(path).header(http::header::HOST, address).body(Empty::<&[u8]>::new())?;
    let answer = requests.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
