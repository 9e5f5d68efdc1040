//! TLS and tokens: the commands against a store that requires them.

mod store;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use mokv::rt::process::block_on;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use store::{Gate, Store};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A certificate authority, with a directory for PEM files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

/// A certificate and its key, signed by an authority.
struct Signed {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, files: tempfile::tempdir().unwrap() };
        authority.file("ca.pem", &authority.issuer.pem());
        authority
    }

    /// A certificate for this host name or IP address.
    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Signed { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    /// The server's side of TLS with this certificate. `asks_for_certificates`: it requires one of the client.
    fn server(&self, name: &str, asks_for_certificates: bool) -> TlsAcceptor {
        let Signed { certificate, key } = self.sign(name);
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = match asks_for_certificates {
            true => config.with_client_cert_verifier(verifier.build().unwrap()),
            false => config.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, contents: &str) -> String {
        std::fs::write(PathBuf::from(self.path(name)), contents).unwrap();
        self.path(name)
    }

    fn ca(&self) -> String {
        self.path("ca.pem")
    }
}

/// Runs a test against an empty store with these requirements; the test receives a function that runs a command.
fn behind(gate: Gate, story: impl FnOnce(&dyn Fn(&[&str]) -> Output) + Send + 'static) {
    block_on(async {
        let store = Store::start_behind(gate).await;
        let endpoint = store.address.clone();
        let run = move |args: &[&str]| mokv(&[args, &["--endpoints", &endpoint, "--timeout", "3s"]].concat());
        mokv::rt::spawn_blocking(move || story(&run)).await.unwrap();
    })
    .unwrap();
}

fn mokv(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).output().unwrap()
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: Output, exit: i32, word: &str) {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert!(said.contains(word) && !said.contains("panicked"), "{said}");
}

#[test]
fn a_store_behind_tls_serves_clients_that_trust_its_authority() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let gate = Gate { tls: Some(authority.server("127.0.0.1", false)), token: None };
    behind(gate, move |run| {
        succeeds(run(&["set", "k", "over TLS", "--tls-ca", &authority.ca()]));
        assert_eq!(succeeds(run(&["get", "k", "--tls-ca", &authority.ca()])), "over TLS");
        assert!(succeeds(run(&["list", "--tls-ca", &authority.ca()])).contains("over TLS"));
        // The client accepts no other authority or name, and the server no plain text.
        fails(run(&["get", "k", "--tls-ca", &stranger.ca()]), 6, "invalid peer certificate");
        fails(
            run(&["get", "k", "--tls-ca", &authority.ca(), "--tls-server-name", "mokv.test"]),
            6,
            "not valid",
        );
        fails(run(&["get", "k"]), 6, "cannot read 'k'");
    });
}

#[test]
fn the_authorities_of_the_machine_are_trusted_unless_others_are_named() {
    let authority = Authority::new();
    let gate = Gate { tls: Some(authority.server("127.0.0.1", false)), token: None };
    block_on(async {
        let store = Store::start_behind(gate).await;
        let endpoint = store.address.clone();
        let output = mokv::rt::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
            command.args(["set", "k", "v", "--tls", "--endpoints", &endpoint]);
            command.env("SSL_CERT_FILE", authority.ca()).output().unwrap()
        });
        succeeds(output.await.unwrap());
    })
    .unwrap();
}

#[test]
fn one_name_can_stand_for_all_nodes() {
    let authority = Authority::new();
    let gate = Gate { tls: Some(authority.server("mokv.test", false)), token: None };
    behind(gate, move |run| {
        fails(run(&["set", "k", "v", "--tls-ca", &authority.ca()]), 6, "not valid for name");
        succeeds(run(&["set", "k", "v", "--tls-ca", &authority.ca(), "--tls-server-name", "mokv.test"]));
    });
}

#[test]
fn a_client_shows_its_certificate_to_servers_that_ask() {
    let authority = Authority::new();
    let gate = Gate { tls: Some(authority.server("127.0.0.1", true)), token: None };
    behind(gate, move |run| {
        let Signed { certificate, key } = authority.sign("a client");
        let ca = authority.ca();
        let certificate = authority.file("client.pem", &certificate.pem());
        let key = authority.file("client.key", &key.serialize_pem());
        let identity = ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
        succeeds(run(&[&["set", "k", "v"][..], &identity].concat()));
        fails(run(&["get", "k", "--tls-ca", &ca]), 6, "cannot read 'k'");
    });
}

#[test]
fn a_request_with_the_right_token_is_served() {
    let gate = Gate { tls: None, token: Some("open-sesame") };
    behind(gate, |run| {
        let files = tempfile::tempdir().unwrap();
        let token = files.path().join("token");
        std::fs::write(&token, "open-sesame\n").unwrap();
        succeeds(run(&["set", "k", "v", "--token-file", token.to_str().unwrap()]));
        fails(run(&["get", "k"]), 1, "another token is asked for here");
    });
}

#[test]
fn credentials_that_are_none_are_refused_before_anything_is_sent() {
    let authority = Authority::new();
    let nothing = authority.path("nothing.pem");
    let garbage = authority.file("garbage.pem", "no PEM at all");
    let newer = Authority::new();
    let key = newer.file("other.key", &newer.sign("other").key.serialize_pem());
    let certificate = authority.file("client.pem", &authority.sign("a client").certificate.pem());
    let get = |args: &[&str]| mokv(&[&["get", "k"], args].concat());
    fails(get(&["--tls-ca", &nothing]), 2, "nothing.pem");
    fails(get(&["--tls-ca", &garbage]), 2, "no certificate");
    fails(
        get(&["--tls-ca", &authority.ca(), "--tls-cert", &garbage, "--tls-key", &key]),
        2,
        "client's certificate",
    );
    let unequal = ["--tls-ca", &authority.ca(), "--tls-cert", &certificate, "--tls-key", &key];
    fails(get(&unequal), 2, "do not go together");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = get(&[&unequal[..], &["--output=json"]].concat()).stderr;
    let said: Vec<serde_json::Value> =
        String::from_utf8(said).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(said[0]["warning"].as_str().unwrap().contains("can be read by every user"), "{said:?}");
    assert_eq!((said.len(), &said[1]["error"]["code"]), (2, &"usage".into()), "{said:?}");
    fails(get(&["--tls-cert", &certificate]), 2, "--tls-key");
    fails(get(&["--tls", "--tls-server-name", "not a name"]), 2, "server's name");
    fails(get(&["--token-file", &nothing]), 2, "nothing.pem");
}
