//! Flags for authentication between a command and the proxies in front of the nodes.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::{Failure, warn};
use super::format::Format;
use crate::client::{Builder, Tls};
use crate::rt::disk::other_readers;

/// Credentials for a proxy. Nodes themselves use plain text and require no token.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "For proxies in front of the nodes")]
pub struct Credentials {
    /// Use TLS, trusting the certificate authorities that this machine trusts
    #[arg(long)]
    pub tls: bool,
    /// Use TLS, trusting only the certificate authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Use TLS and present this certificate (PEM, with those it builds on)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Use TLS, and expect certificates for this name instead of the one in each address
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Send the token in this file with every request, as 'authorization: Bearer TOKEN'
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl Credentials {
    /// Adds the credentials to the builder of a client. Warnings about them are written in the format `output`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn give(&self, mut builder: Builder, output: Option<Format>) -> Result<Builder, Failure> {
        if let Some(file) = &self.token_file {
            let token = String::from_utf8(read("--token-file", file)?);
            let token = token.map_err(|_| {
                Failure::usage(
                    format!("--token-file: '{}' holds no text", file.display()),
                    "name a file that holds the token and nothing else",
                )
            })?;
            builder = builder.token(token.trim());
        }
        match self.tls(output)? {
            Some(tls) => Ok(builder.tls(tls)),
            None => Ok(builder),
        }
    }

    /// Returns these credentials, completed by those of a context where none are given here.
    pub fn or(&self, context: Credentials) -> Credentials {
        let (tls_cert, tls_key) = match (&self.tls_cert, &self.tls_key) {
            (None, None) => (context.tls_cert, context.tls_key),
            own => (own.0.clone(), own.1.clone()),
        };
        Credentials {
            tls: self.tls || context.tls,
            tls_ca: self.tls_ca.clone().or(context.tls_ca),
            tls_cert,
            tls_key,
            tls_server_name: self.tls_server_name.clone().or(context.tls_server_name),
            token_file: self.token_file.clone().or(context.token_file),
        }
    }

    /// Returns the names of the given flags.
    pub fn names(&self) -> Vec<&'static str> {
        let said = [
            ("tls", self.tls),
            ("tls-ca", self.tls_ca.is_some()),
            ("tls-cert", self.tls_cert.is_some()),
            ("tls-key", self.tls_key.is_some()),
            ("tls-server-name", self.tls_server_name.is_some()),
            ("token-file", self.token_file.is_some()),
        ];
        said.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect()
    }

    fn tls(&self, output: Option<Format>) -> Result<Option<Tls>, Failure> {
        let mut tls = self.tls.then(Tls::new);
        if let Some(file) = &self.tls_ca {
            tls = Some(tls.unwrap_or_default().authorities(read("--tls-ca", file)?));
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            if let Ok(Some(readers)) = other_readers(key) {
                let key = key.display();
                let text = format!(
                    "--tls-key: {key} can be read by {readers}; 'chmod go= {key}' restricts it to you"
                );
                warn(output, &text);
            }
            let (certificate, key) = (read("--tls-cert", certificate)?, read("--tls-key", key)?);
            tls = Some(tls.unwrap_or_default().identity(certificate, key));
        }
        if let Some(name) = &self.tls_server_name {
            tls = Some(tls.unwrap_or_default().server_name(name));
        }
        Ok(tls)
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| {
        Failure::usage(
            format!("{flag}: cannot read '{}': {error}", file.display()),
            "name a file that can be read",
        )
    })
}
