//! Whoever gets an error can follow it to its cause, by type.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::generate_simple_self_signed;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::{
    ClientIdentity, Credentials, FeedTarget, PemError, StateLocation, TlsFiles, TokenSource, WebConfigFile,
};
use session_buddy_bridge::{Bridge, BridgeError, Settings};
use tokio::task::JoinError;
use url::ParseError;

/// The first cause of `error`, itself included, that is a `T`.
fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    error.downcast_ref().or_else(|| cause(error.source()?))
}

fn io_cause(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    cause::<io::Error>(error).map(io::Error::kind)
}

#[test]
fn a_configuration_file_that_is_missing_is_not_found() {
    let error = Settings::from_config_file("/nowhere/bridge.yaml").unwrap_err();
    assert_eq!(io_cause(&error), Some(io::ErrorKind::NotFound));
}

#[test]
fn a_feed_of_a_configuration_file_that_is_invalid_has_its_own_cause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, "feeds:\n  - url: ws://\n").unwrap();
    let error = Settings::from_config_file(&path).unwrap_err();
    assert_eq!(cause::<ParseError>(&error), Some(&ParseError::EmptyHost), "{error}");
}

#[test]
fn a_web_configuration_file_that_is_missing_is_not_found_and_one_that_is_malformed_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.yaml");
    assert_eq!(io_cause(&WebConfigFile::open(&path).unwrap_err()), Some(io::ErrorKind::NotFound));
    fs::write(&path, "tls_server_config: [").unwrap();
    let error = WebConfigFile::open(&path).unwrap_err();
    let source = error.source().expect("a cause").to_string();
    assert!(error.to_string().ends_with(&source), "{error}: {source}");
}

#[test]
fn a_url_that_is_none_has_the_error_of_its_parser() {
    assert_eq!(cause::<ParseError>(&FeedTarget::new("ws://").unwrap_err()), Some(&ParseError::EmptyHost));
}

#[test]
fn a_state_file_that_cannot_be_written_has_the_error_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // A file where a folder should be.
    let (state, listen) = (StateLocation::Path(file.join("state.db")), vec!["127.0.0.1:0".parse().unwrap()]);
    let error = Bridge::bind(Settings { state, listen, ..Settings::new(Vec::new()) }).unwrap_err();
    assert!(matches!(error, BridgeError::State(_)), "{error}");
    assert!(io_cause(&error).is_some(), "{error:?}");
}

#[test]
fn a_state_that_sqlite_cannot_write_has_the_error_of_sqlite() {
    let connection = Connection::open_with_flags(":memory:", OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let error = Store::on(connection, Path::new("state.db"), Ok).unwrap_err();
    let code = cause::<rusqlite::Error>(&error).and_then(rusqlite::Error::sqlite_error_code);
    assert_eq!(code, Some(ErrorCode::ReadOnly), "{error:?}");
}

#[test]
fn a_unix_socket_that_cannot_be_bound_has_the_error_of_the_system() {
    let listen_unix = vec!["/nowhere/bridge.sock".into()];
    let error = Bridge::bind(Settings { listen: Vec::new(), listen_unix, ..Settings::new(Vec::new()) }).unwrap_err();
    assert_eq!(io_cause(&error), Some(io::ErrorKind::NotFound), "{error}");
}

#[test]
fn a_token_file_that_is_missing_is_not_found() {
    let token = Some(TokenSource::File("/nowhere/token".into()));
    let error = Credentials { token, ..Credentials::default() }.check().unwrap_err();
    assert_eq!(io_cause(&error), Some(io::ErrorKind::NotFound), "{error}");
}

/// A section that is well-formed and holds no certificate.
const HOLLOW: &str = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
/// A key whose line breaks were lost on the way.
const FLAT_KEY: &str = "-----BEGIN PRIVATE KEY----- hunter2 -----END PRIVATE KEY-----";

#[test]
fn a_certificate_that_cannot_be_used_has_the_error_of_the_tls_library() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, HOLLOW).unwrap();
    let tls = TlsFiles { ca: Some(ca), identity: None };
    let error = Credentials { tls, ..Credentials::default() }.check().unwrap_err();
    let cause = cause::<rustls::Error>(&error);
    assert!(matches!(cause, Some(rustls::Error::InvalidCertificate(_))), "{error:?}");
}

#[test]
fn a_key_that_is_broken_pem_says_how_by_type_and_is_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem()).unwrap();
    fs::write(&key, FLAT_KEY).unwrap();
    let tls = TlsFiles { ca: None, identity: Some(ClientIdentity { certificate, key }) };
    let error = Credentials { tls, ..Credentials::default() }.check().unwrap_err();
    assert_eq!(cause::<PemError>(&error), Some(&PemError::MissingEnd), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// Writes a web configuration with this certificate and key, and returns why it cannot be used.
fn web_config_error(folder: &Path, certificate: &str, key: &str) -> impl Error + 'static {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    write("certificate.pem", certificate);
    write("key.pem", key);
    let path = write("web.yaml", "tls_server_config:\n  cert_file: certificate.pem\n  key_file: key.pem\n");
    WebConfigFile::open(&path).unwrap_err()
}

#[test]
fn a_certificate_or_key_of_a_web_configuration_has_the_error_of_its_parser() {
    let folder = tempfile::tempdir().unwrap();
    let pair = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let other_key = generate_simple_self_signed(["localhost".to_owned()]).unwrap().signing_key.serialize_pem();

    for (certificate, key) in [(FLAT_KEY, key.as_str()), (certificate.as_str(), FLAT_KEY)] {
        let error = web_config_error(folder.path(), certificate, key);
        assert_eq!(cause::<PemError>(&error), Some(&PemError::MissingEnd), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    for (certificate, key) in [(HOLLOW, key.as_str()), (certificate.as_str(), other_key.as_str())] {
        let error = web_config_error(folder.path(), certificate, key);
        assert!(cause::<rustls::Error>(&error).is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_task_that_panicked_has_the_error_of_the_runtime() {
    let error = BridgeError::Panicked(tokio::spawn(async { panic!("by this test") }).await.unwrap_err());
    assert!(cause::<JoinError>(&error).is_some_and(JoinError::is_panic), "{error}");
    assert!(error.to_string().contains("by this test"), "{error}");
}
