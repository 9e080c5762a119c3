//! Whoever gets an error can follow it to its cause, by type.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use session_buddy_bridge::internals::store::Store;
use session_buddy_bridge::settings::{FeedTarget, StateLocation, WebConfigFile};
use session_buddy_bridge::{Bridge, BridgeError, Settings};
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
