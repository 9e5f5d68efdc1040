//! `mokv context`: names for clusters, each with its nodes and the credentials for them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::checked;
use super::contexts::{self, Contexts, check_name};
use super::credentials::Credentials;
use super::failure::Failure;
use super::format::Format;
use super::output::{Output, Row};

/// Name clusters: their nodes and credentials, for --context of all commands
///
/// They are kept in the file that MOKV_CONFIG names, else in mokv/contexts.yaml below XDG_CONFIG_HOME or ~/.config.
/// Certificates, keys and tokens stay in their own files. A command asks the nodes of --endpoints, else those of --context,
/// of MOKV_ENDPOINTS, of the context that MOKV_CONTEXT names, of the one that is in use, else 127.0.0.1:8400; credentials of a
/// context are shown to its own nodes, or where --context was given.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv context add prod --endpoints a.example:8400,b.example:8400 --tls-ca ca.pem --token-file token
  mokv context use prod
  mokv status                               of prod
  mokv status --context staging
  mokv context list")]
pub struct Context {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a context
    Add(Add),
    /// Use a context when a command names nothing else
    Use(Use),
    /// List the contexts
    #[command(visible_alias = "ls")]
    List(Shown),
    /// Remove a context
    #[command(visible_alias = "rm")]
    Remove(Named),
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    named: Named,
    /// Its nodes, comma-separated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Replace the context of this name, if there is one
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Debug, Args)]
struct Named {
    /// The context's name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
struct Use {
    /// The context's name
    #[arg(value_parser = parse_name, required_unless_present = "none")]
    name: Option<String>,
    /// Use none
    #[arg(long, conflicts_with = "name")]
    none: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
struct Shown {
    /// How to write the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn parse_name(name: &str) -> Result<String, String> {
    check_name(name).map(|()| name.to_owned())
}

impl Context {
    /// Adds, uses, lists or removes contexts.
    ///
    /// # Errors
    /// If the contexts file is invalid or cannot be written, or a name is taken or unknown.
    pub async fn run(self) -> Result<(), Failure> {
        let path = contexts::own_path()?;
        match self.action {
            Action::Add(add) => add.run(&path).await,
            Action::Use(chosen) => chosen.run(&path).await,
            Action::List(Shown { output }) => list(&Contexts::read(&path)?, output),
            Action::Remove(named) => named.remove(&path).await,
        }
    }
}

impl Add {
    async fn run(self, path: &Path) -> Result<(), Failure> {
        let Named { name, shown } = self.named;
        let Credentials { tls, tls_ca, tls_cert, tls_key, tls_server_name, token_file } = self.credentials;
        let added = contexts::Context {
            endpoints: checked(&self.endpoints)?,
            tls,
            tls_ca: from_anywhere(tls_ca)?,
            tls_cert: from_anywhere(tls_cert)?,
            tls_key: from_anywhere(tls_key)?,
            tls_server_name,
            token_file: from_anywhere(token_file)?,
        };
        let contexts = Contexts::change(path, |contexts| {
            if contexts.contexts.contains_key(&name) && !self.replace {
                return Err(Failure::usage(
                    format!("there is a context '{name}' in '{}' already", path.display()),
                    "give another name, or --replace",
                ));
            }
            contexts.contexts.insert(name.clone(), added);
            Ok(())
        });
        let contexts = contexts.await?;
        let next = match &contexts.current {
            Some(current) if *current == name => "it is in use".to_owned(),
            _ => format!("'mokv context use {name}' makes all commands ask its nodes"),
        };
        Output::new(shown.output)
            .answer(format!("context {name} is kept; {next}"), &json!({ "context": name }))
    }
}

impl Use {
    async fn run(self, path: &Path) -> Result<(), Failure> {
        let used = Contexts::change(path, |contexts| {
            if let Some(name) = &self.name {
                contexts.get(name, path)?;
            }
            contexts.current.clone_from(&self.name);
            Ok(())
        });
        used.await?;
        let sentence = match &self.name {
            Some(name) => format!("context {name} is in use"),
            None => "no context is in use".to_owned(),
        };
        Output::new(self.shown.output).answer(sentence, &json!({ "context": self.name }))
    }
}

impl Named {
    async fn remove(self, path: &Path) -> Result<(), Failure> {
        let removed = Contexts::change(path, |contexts| {
            contexts.get(&self.name, path)?;
            contexts.contexts.remove(&self.name);
            contexts.current.take_if(|current| *current == self.name);
            Ok(())
        });
        removed.await?;
        let sentence = format!("context {} is removed; files of credentials stay", self.name);
        Output::new(self.shown.output).answer(sentence, &json!({ "context": self.name }))
    }
}

fn list(contexts: &Contexts, format: Format) -> Result<(), Failure> {
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let is_current = contexts.current.as_ref() == Some(name);
        let credentials = context.credentials().names().join(" ");
        Row {
            cells: vec![
                if is_current { "*" } else { "" }.to_owned(),
                name.clone(),
                context.endpoints.join(","),
                credentials,
            ],
            json: json!({ "name": name, "in_use": is_current, "context": context }),
        }
    });
    Output::new(format).rows(&["", "NAME", "ENDPOINTS", "CREDENTIALS"], rows)
}

/// Returns the path as an absolute one, valid in any working directory.
fn from_anywhere(file: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let absolute = |file: PathBuf| {
        std::path::absolute(&file).map_err(|error| {
            let what = format!("cannot make the path '{}' absolute: {error}", file.display());
            Failure::usage(what, "give the absolute path")
        })
    };
    file.map(absolute).transpose()
}
