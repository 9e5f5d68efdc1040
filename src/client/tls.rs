//! TLS between a client and the nodes, or the proxies in front of them.
//!
//! Invariants: nothing is sent to a peer whose certificate does not prove its name, and this check cannot be switched
//! off; keys never appear in messages. Certificates and keys are checked when the client is built, not at the first
//! call.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// The ALPN identifier of HTTP/2 (RFC 9113, section 3.2).
const HTTP2: &[u8] = b"h2";

/// How the client authenticates its peers and itself. PEM contents are checked when the client is built.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mokv::client::{Client, Tls};
///
/// let tls = Tls::new().authorities(std::fs::read("ca.pem")?).server_name("mokv.example");
/// let client = Client::builder().endpoints(["proxy:443"]).tls(tls).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the operating system's certificate authorities and presents no certificate.
    pub fn new() -> Tls {
        Tls::default()
    }

    /// Trusts only these certificate authorities (PEM).
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Tls {
        self.authorities = Some(pem.into());
        self
    }

    /// Presents this certificate chain (PEM, the client's own first) to peers that request one; its key is PKCS #8,
    /// PKCS #1 or SEC 1, in PEM.
    pub fn identity(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Tls {
        self.identity = Some((certificates.into(), key.into()));
        self
    }

    /// Sets the name or IP address that every peer's certificate must prove, instead of the one in its address.
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.server_name = Some(name.into());
        self
    }
}

// Implemented by hand: a key must never appear in messages or logs.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Makes TLS handshakes.
#[derive(Clone)]
pub(super) struct Handshake {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Handshake {
    /// # Errors
    /// An error message if a certificate, a key or the server name is invalid.
    pub(super) fn new(tls: Tls) -> Result<Handshake, String> {
        let mut roots = RootCertStore::empty();
        match tls.authorities {
            Some(pem) => {
                for authority in certificates(&pem).map_err(|error| format!("the authorities {error}"))? {
                    roots
                        .add(authority)
                        .map_err(|error| format!("an authority is not acceptable: {error}"))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    let error = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                    return Err(format!("this machine trusts no certificate authority{error}; name one"));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_root_certificates(roots);
        let mut config = match tls.identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain =
                    certificates(&chain).map_err(|error| format!("the client's certificate {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|_| "the client's key is no private key in PEM".to_owned())?;
                config.with_client_auth_cert(chain, key).map_err(|error| {
                    format!("the client's certificate and key do not go together: {error}")
                })?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let server_name = tls.server_name.map(ServerName::try_from).transpose();
        let server_name =
            server_name.map_err(|_| "the server's name is neither a name nor an IP address".to_owned())?;
        Ok(Handshake { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// Makes the handshake with the node at `address` (`host:port`) over a new connection to it.
    ///
    /// # Errors
    /// If the peer does not prove its name, or rejects this client.
    pub(super) async fn with<S>(&self, address: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => host(address).to_owned().try_into().map_err(io::Error::other)?,
        };
        self.connector
            .connect(name, stream)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("no TLS with {address}: {error}")))
    }
}

/// Returns the host of `host:port` or `[address]:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("hold no certificate in PEM".to_owned()),
        Err(error) => Err(format!("are no certificates in PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_about_the_host_alone() {
        for (address, expected) in
            [("node-1:8400", "node-1"), ("10.0.0.1:1", "10.0.0.1"), ("[::1]:8400", "::1")]
        {
            assert_eq!(host(address), expected);
            assert!(ServerName::try_from(host(address)).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_is_not_what_it_should_be_is_refused_at_once() {
        let refused = |tls: Tls, word: &str| {
            let said = Handshake::new(tls).err().expect("it is refused");
            assert!(said.contains(word), "{said}");
        };
        refused(Tls::new().authorities("no PEM"), "authorities hold no certificate");
        let garbled = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        refused(Tls::new().authorities(garbled), "authorities are no certificates");
    }
}
