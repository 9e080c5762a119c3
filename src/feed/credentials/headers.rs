//! Headers of the WebSocket handshake.

use std::path::Path;

use tokio_tungstenite::tungstenite::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{Credential, CredentialError, CredentialProblem};

/// Longest file of headers, in bytes: servers accept no more in a whole request.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// What is wrong with a line of a file of headers. None of it repeats the line, which may hold a secret.
///
/// ```
/// use session_buddy_bridge::settings::{CredentialProblem, Credentials, HeaderProblem};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("headers");
/// std::fs::write(&path, "X-Api-Key: abc\nHost: elsewhere\n").unwrap();
/// let error = Credentials { headers_file: Some(path), ..Credentials::default() }.check().unwrap_err();
/// assert_eq!(error.problem, CredentialProblem::Header { line: 2, problem: HeaderProblem::Handshake });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// No colon.
    #[error("has no colon: write Name: value")]
    NoColon,
    /// A name with a space, or with another character that no name has; or none.
    #[error("does not start with the name of a header: write Name: value")]
    Name,
    /// A value with a control character, or one beyond ASCII.
    #[error("has a value with a character that no header can hold: use printable ASCII")]
    Value,
    /// A header that the handshake has, or that says where its request ends.
    #[error("sets a header that belongs to the WebSocket handshake: leave it out")]
    Handshake,
    /// A header that each request of remote write has, or that says where the request ends.
    #[error("sets a header that belongs to remote write: leave it out")]
    RemoteWrite,
}

/// The request that headers are added to: its own must not be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserved {
    Handshake,
    RemoteWrite,
}

pub(super) fn read(file: &Path, reserved: Reserved) -> Result<HeaderMap, CredentialError> {
    let text = Credential::Headers.text(file, HEADERS_BYTES_MAX)?;
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) = header(line, reserved).map_err(|problem| {
            Credential::Headers.wrong(Some(file), CredentialProblem::Header { line: number, problem })
        })?;
        headers.append(name, value);
    }
    match headers.is_empty() {
        true => Err(Credential::Headers.wrong(Some(file), CredentialProblem::Empty(Credential::Headers))),
        false => Ok(headers),
    }
}

fn header(line: &str, reserved: Reserved) -> Result<(HeaderName, HeaderValue), HeaderProblem> {
    let (name, value) = line.split_once(':').ok_or(HeaderProblem::NoColon)?;
    let name: HeaderName = name.parse().map_err(|_| HeaderProblem::Name)?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| HeaderProblem::Value)?;
    // Beyond ASCII servers disagree about what the bytes mean.
    value.to_str().map_err(|_| HeaderProblem::Value)?;
    value.set_sensitive(true);
    let of_every_request =
        [header::HOST, header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let of_remote_write = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
    let is_taken = of_every_request.contains(&name);
    match reserved {
        Reserved::Handshake if is_taken || name.as_str().starts_with("sec-websocket-") => Err(HeaderProblem::Handshake),
        Reserved::RemoteWrite
            if is_taken || of_remote_write.contains(&name) || name == "x-prometheus-remote-write-version" =>
        {
            Err(HeaderProblem::RemoteWrite)
        }
        _ => Ok((name, value)),
    }
}

/// Returns a value, and those of its parts that could be secrets, as in `Bearer SECRET` and `session=SECRET; a=b`.
pub(super) fn quotable(value: &str) -> impl Iterator<Item = &str> {
    let parts = value.split([' ', ';', ',', '=', '"']);
    std::iter::once(value).chain(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_header_or_says_what_it_is_not() {
        let (name, value) = header("X-Api-Key:  of: two \t", Reserved::Handshake).unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-api-key", "of: two"));
        assert_eq!(format!("{value:?}"), "Sensitive");
        for (line, problem) in [
            ("a-secret-alone", HeaderProblem::NoColon),
            (": value", HeaderProblem::Name),
            ("X Y: value", HeaderProblem::Name),
            (" X: value", HeaderProblem::Name),
            ("X: \u{1}", HeaderProblem::Value),
            ("X: é", HeaderProblem::Value),
            ("HOST: elsewhere", HeaderProblem::Handshake),
            ("connection: close", HeaderProblem::Handshake),
            ("Upgrade: h2c", HeaderProblem::Handshake),
            ("Sec-WebSocket-Key: x", HeaderProblem::Handshake),
            ("Sec-WebSocket-Extensions: permessage-deflate", HeaderProblem::Handshake),
            ("Content-Length: 10", HeaderProblem::Handshake),
            ("Transfer-Encoding: chunked", HeaderProblem::Handshake),
        ] {
            assert_eq!(header(line, Reserved::Handshake).unwrap_err(), problem, "{line}");
        }
    }

    #[test]
    fn a_file_has_a_header_a_line_and_errors_name_the_line_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headers");
        std::fs::write(&file, "X-One: 1\r\n\n  \nX-Two: 2\nx-one: 3").unwrap();
        let headers = read(&file, Reserved::Handshake).unwrap();
        assert_eq!(headers.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(headers.len(), 3);

        std::fs::write(&file, "X-One: 1\n\nhunter2\n").unwrap();
        assert_eq!(
            read(&file, Reserved::Handshake).unwrap_err().to_string(),
            format!("the headers file \"{}\" has a line 3 that has no colon: write Name: value", file.display())
        );
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(
            read(&file, Reserved::Handshake).unwrap_err().problem,
            CredentialProblem::Empty(Credential::Headers)
        );
    }
}
