//! `mokv txn`: a transaction, typed at a prompt or read from a file, shown before it is sent.

mod script;

use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};

use super::confirm::confirmed;
use super::connect::Connect;
use super::failure::{Exit, Failure, complain};
use super::get::entry_json;
use super::key::add_key;
use super::output::{Row, escaped, keys, shortened};
use crate::client::{Operation, OperationResult, Transacted, Transaction};
use script::Script;

/// The longest line of a script.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Test conditions, and read and write several keys in one step
///
/// All of it happens at one revision, or nothing does. Conditions come first and are tested against the state before;
/// 'then' begins what is done if all hold, 'else' what is done otherwise. A read sees the writes before it. Exit code 4:
/// a condition did not hold.
#[derive(Debug, Args)]
#[command(after_help = "\
Conditions, where OP is =, !=, < or >:
  if KEY exists                    if KEY absent
  if KEY value OP VALUE            if KEY version OP N
  if KEY mod-revision OP N         if KEY create-revision OP N
  if prefix PREFIX ...             of all keys that begin so: each must pass, or any must exist
Operations:
  set KEY VALUE                    get KEY [at REVISION]
  delete KEY                       list PREFIX [limit N] [at REVISION]
  delete-prefix PREFIX [limit N]   begin ... end    a transaction within
A word with spaces is in double quotes. \\t \\n \\r \\\\ \\\" \\xHH stand for one byte, and '#' begins a comment.

Examples:
  mokv txn                         types it at a prompt
  mokv txn transfer.txn            if account/a mod-revision = 12
                                   then
                                     set account/a 90
                                     set account/b 110
                                   else
                                     get account/a
  echo 'get a
        list b/' | mokv txn - --yes")]
pub struct Txn {
    /// The file; '-' reads stdin [default: a prompt on the terminal]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Do not ask before it is sent
    #[arg(long)]
    yes: bool,
    /// Send once, without a session: more often an unknown outcome
    #[arg(long)]
    no_session: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Txn {
    /// Reads, shows and executes the transaction.
    ///
    /// # Errors
    /// If it is none, or was refused or has an unknown outcome, or its conditions did not hold.
    pub async fn run(self) -> Result<(), Failure> {
        let transaction = self.read()?;
        // A read changes nothing.
        if transaction.may_write() && !self.yes {
            let question =
                format!("{}\n\nThis may change the store.", script::shown(&transaction).join("\n"));
            if !confirmed(&question, "send")? {
                return Err(Failure::error("nothing was sent", "type 'send' to go on, or add --yes"));
            }
        }
        let client = match self.no_session {
            true => self.connect.client_without_session(),
            false => self.connect.client(),
        };
        let client = client?.with_total_timeout(self.connect.timeout);
        let transacted = client.transact(transaction.clone()).await;
        let transacted =
            transacted.map_err(|error| self.connect.failure("execute the transaction", error))?;
        if transaction.may_write() && !self.no_session {
            // A failure changes nothing for the user: the cluster evicts unused sessions later.
            let _ = client.close().await;
        }
        self.report(&transaction, &transacted)
    }

    fn read(&self) -> Result<Transaction, Failure> {
        match &self.file {
            None if io::stdin().is_terminal() => prompt(),
            None => Err(Failure::usage(
                "there is no terminal to type the transaction on",
                "name a file, or '-' for stdin",
            )),
            Some(file) if file.as_os_str() == "-" => read_script("stdin", io::stdin().lock()),
            Some(file) => {
                let name = file.display().to_string();
                let text = std::fs::read(file).map_err(|error| {
                    let what = format!("cannot read {name}: {error}");
                    Failure::error(what, "check the path and its permissions")
                })?;
                read_script(&name, &text[..])
            }
        }
    }

    fn report(&self, transaction: &Transaction, transacted: &Transacted) -> Result<(), Failure> {
        let Transacted { revision, succeeded, ref results, .. } = *transacted;
        let mut output = self.connect.output();
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        match results {
            Ok(results) => {
                let mut rows = Vec::new();
                for (operation, result) in branch.iter().zip(results) {
                    add_rows(&mut rows, operation, result, revision);
                }
                if !rows.is_empty() {
                    output.rows(&["OPERATION", "KEY", "REVISION", "RESULT"], rows)?;
                }
            }
            Err(missing) => complain(format_args!("{missing}")),
        }
        let held = match (transaction.conditions.len(), succeeded) {
            (0, _) => format!("executed, revision {revision}"),
            (_, true) => format!("the conditions hold, revision {revision}"),
            (_, false) => format!("a condition does not hold, revision {revision}"),
        };
        output.answer(&held, &json!({ "succeeded": succeeded, "revision": revision }))?;
        if succeeded {
            return Ok(());
        }
        let done = match transaction.otherwise.is_empty() {
            true => "nothing was done",
            false => "what follows 'else' was done",
        };
        let next = "read the keys of the conditions, and adapt them";
        Err(Failure::error(format!("a condition does not hold, and {done}"), next)
            .with_exit(Exit::ConditionFailed))
    }
}

/// Adds what an operation did or found.
fn add_rows(rows: &mut Vec<Row>, operation: &Operation, result: &OperationResult, revision: u64) {
    let row = |name: &str, key: &[u8], at: String, result: String, mut json: Json| {
        json["operation"] = json!(name);
        if json.get("key").is_none() {
            add_key(&mut json, if name == "list" || name == "delete-prefix" { "prefix" } else { "key" }, key);
        }
        Row { cells: vec![name.to_owned(), escaped(key), at, result], json }
    };
    match (operation, result) {
        (Operation::Set { key, .. }, OperationResult::Set) => {
            rows.push(row(
                "set",
                key,
                revision.to_string(),
                "written".into(),
                json!({ "revision": revision }),
            ));
        }
        (Operation::Delete { key }, OperationResult::Deleted(deleted)) => {
            let what = if *deleted == 0 { "there was no such key" } else { "deleted" };
            rows.push(row("delete", key, "-".into(), what.into(), json!({ "deleted": deleted })));
        }
        (Operation::DeleteRange { range, .. }, OperationResult::Deleted(deleted)) => {
            let what = format!("deleted {}", keys(*deleted));
            rows.push(row("delete-prefix", &range.start, "-".into(), what, json!({ "deleted": deleted })));
        }
        (Operation::Get { key, .. }, OperationResult::Got(None)) => {
            rows.push(row("get", key, "-".into(), "there is no such key".into(), json!({ "exists": false })));
        }
        (_, OperationResult::Got(Some(entry))) => {
            let (at, value) = (entry.mod_revision.to_string(), shortened(&entry.value));
            rows.push(row("get", &entry.key, at, value, entry_json(entry, revision, false)));
        }
        (Operation::List { range, .. }, OperationResult::Listed { entries, more }) => {
            for entry in entries {
                let (at, value) = (entry.mod_revision.to_string(), shortened(&entry.value));
                rows.push(row("list", &entry.key, at, value, entry_json(entry, revision, false)));
            }
            let what = match more {
                true => format!("{}, and more", keys(entries.len() as u64)),
                false => keys(entries.len() as u64),
            };
            let json = json!({ "count": entries.len(), "more": more });
            rows.push(row("list", &range.start, "-".into(), what, json));
        }
        (Operation::Nested(nested), OperationResult::Nested { succeeded, results }) => {
            let branch = if *succeeded { &nested.then } else { &nested.otherwise };
            for (operation, result) in branch.iter().zip(results) {
                add_rows(rows, operation, result, revision);
            }
        }
        // The library has compared them.
        _ => {}
    }
}

fn read_script(name: &str, mut lines: impl BufRead) -> Result<Transaction, Failure> {
    let mut script = Script::default();
    let next = "'mokv txn --help' shows what a line can be";
    for number in 1.. {
        let Some(line) = read_line(&mut lines).map_err(|error| {
            Failure::error(format!("cannot read {name}: {error}"), "check the file and its permissions")
        })?
        else {
            break;
        };
        let added = script.add(&line);
        added.map_err(|wrong| Failure::usage(format!("line {number} of {name}: {wrong}"), next))?;
    }
    script.finish().map_err(|wrong| Failure::usage(format!("{name}: {wrong}"), next))
}

/// Reads a transaction from the terminal. A wrong line is reported, and can be typed again.
fn prompt() -> Result<Transaction, Failure> {
    complain(format_args!(
        "Type conditions and operations, a line each, and 'send' at the end. 'mokv txn --help' shows what a line can be."
    ));
    let mut script = Script::default();
    let mut lines = io::stdin().lock();
    let failed = |error| Failure::error(format!("cannot read the terminal: {error}"), "name a file");
    loop {
        let mut stderr = io::stderr();
        write!(stderr, "txn> ").and_then(|()| stderr.flush()).map_err(failed)?;
        let Some(line) = read_line(&mut lines).map_err(failed)? else {
            return Err(Failure::error("nothing was sent", "type 'send' at the end"));
        };
        if line.trim_ascii() == b"send" {
            let next = "'mokv txn --help' shows what a line can be";
            return script.finish().map_err(|wrong| Failure::usage(wrong, next));
        }
        if let Err(wrong) = script.add(&line) {
            complain(format_args!("{wrong}; type the line again"));
        }
    }
}

/// Returns the next line without its end; `None`: there is none.
fn read_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    use io::Read as _;
    let mut line = Vec::new();
    lines.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
    if line.len() > MAX_LINE_BYTES {
        return Err(io::Error::other(format!("a line is longer than {MAX_LINE_BYTES} bytes")));
    }
    if line.is_empty() {
        return Ok(None);
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some(line))
}
