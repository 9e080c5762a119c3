//! The opening handshake of a WebSocket client: RFC 6455, 4.1.
//!
//! tungstenite writes the request and parses what comes back. What the answer must be is checked here, because tungstenite
//! takes `Connection` for one word instead of a list, an informational answer for the final one, and accepts extensions that
//! nobody requested.

use super::disconnect_reason::printable;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse as _;
use tokio_tungstenite::tungstenite::http::header::{self, HeaderMap, HeaderName};
use tokio_tungstenite::tungstenite::http::{StatusCode, Version};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Longest answer, informational ones included, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no WebSocket.
#[derive(Debug)]
pub(super) enum HandshakeFailure {
    /// A final answer other than 101.
    Answered(Response),
    /// The stream failed.
    Io(io::Error),
    /// No answer, or not that of a WebSocket server.
    Invalid(HandshakeProblem),
}

/// What is wrong with a handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeProblem {
    /// The URL, or a header, makes no request.
    #[error("the request cannot be written ({0})")]
    Request(String),
    /// The connection broke.
    #[error("{0}")]
    Lost(String),
    /// The connection ended before the answer did.
    #[error("the server ended the connection in the middle of it")]
    Ended,
    /// Something else than HTTP/1.1.
    #[error("the answer is not HTTP/1.1 ({0})")]
    NotHttp(String),
    /// No end of the answer within the limit.
    #[error("the answer has more than {bytes_max} bytes of headers")]
    TooLong {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// Status 101 without `Upgrade: websocket`.
    #[error("the answer does not upgrade to WebSocket (it has no header Upgrade: websocket)")]
    NoUpgrade,
    /// Status 101 without `upgrade` in the list `Connection`.
    #[error("the answer does not upgrade the connection (it has no header Connection: Upgrade)")]
    NoConnectionUpgrade,
    /// The server, or a cache in front of it, has not read the request's key.
    #[error("the answer is not to this request (its Sec-WebSocket-Accept is missing or wrong)")]
    WrongKey,
    /// An extension that was not requested: its frames would be misread. RFC 6455, 9.1.
    #[error("the server uses the extension \"{0}\", which was not requested")]
    Extension(String),
    /// A subprotocol that was not requested.
    #[error("the server uses the subprotocol \"{0}\", which was not requested")]
    Subprotocol(String),
}

impl From<io::Error> for HandshakeFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<HandshakeProblem> for HandshakeFailure {
    fn from(problem: HandshakeProblem) -> Self {
        Self::Invalid(problem)
    }
}

/// Sends `request` and awaits the answer.
pub(super) async fn open<S>(
    mut stream: S,
    request: Request,
    config: WebSocketConfig,
) -> Result<WebSocketStream<S>, HandshakeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let unwritable = |error: &dyn std::fmt::Display| HandshakeProblem::Request(printable(&error.to_string()));
    let (request, key) = generate_request(request).map_err(|error| unwritable(&error))?;
    stream.write_all(&request).await?;
    stream.flush().await?;
    let (answer, rest) = final_answer(&mut stream).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeFailure::Answered(answer));
    }
    check_upgrade(answer.headers(), &derive_accept_key(key.as_bytes()))?;
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await)
}

/// Returns the first answer that is not informational, and what was read after it. Any number of informational ones may
/// come before it: RFC 9110, 15.2.
async fn final_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Response, Vec<u8>), HandshakeFailure> {
    let (mut buffer, mut bytes_before) = (Vec::new(), 0);
    loop {
        let parsed = Response::try_parse(&buffer);
        let parsed = parsed.map_err(|error| HandshakeProblem::NotHttp(printable(&error.to_string())))?;
        if let Some((bytes, answer)) = parsed {
            debug_assert_eq!(answer.version(), Version::HTTP_11);
            buffer.drain(..bytes);
            if answer.status().is_informational() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                bytes_before += bytes;
                continue;
            }
            return Ok((answer, buffer));
        }
        if bytes_before + buffer.len() > ANSWER_BYTES_MAX {
            return Err(HandshakeProblem::TooLong { bytes_max: ANSWER_BYTES_MAX }.into());
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(HandshakeProblem::Ended.into());
        }
    }
}

/// Checks what RFC 6455, 4.1, lists of an answer with status 101. Neither an extension nor a subprotocol was requested.
fn check_upgrade(headers: &HeaderMap, accept: &str) -> Result<(), HandshakeProblem> {
    if !elements(headers, header::UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
        return Err(HandshakeProblem::NoUpgrade);
    }
    if !elements(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return Err(HandshakeProblem::NoConnectionUpgrade);
    }
    if headers.get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value != accept) {
        return Err(HandshakeProblem::WrongKey);
    }
    let first = |name| elements(headers, name).next().map(printable);
    match (first(header::SEC_WEBSOCKET_EXTENSIONS), first(header::SEC_WEBSOCKET_PROTOCOL)) {
        (Some(extension), _) => Err(HandshakeProblem::Extension(extension)),
        (None, Some(subprotocol)) => Err(HandshakeProblem::Subprotocol(subprotocol)),
        (None, None) => Ok(()),
    }
}

/// Returns the elements of the list in all headers called `name`: RFC 9110, 5.6.1.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    /// Performs a handshake with a server that answers each request with what `answer` makes of the accept key.
    async fn answered<A: Into<Vec<u8>>>(
        answer: impl Fn(&str) -> A,
    ) -> Result<WebSocketStream<DuplexStream>, HandshakeFailure> {
        let (client, mut server) = duplex(256 * 1024);
        let request = "ws://h/".into_client_request().unwrap();
        let key = request.headers()[header::SEC_WEBSOCKET_KEY].to_str().unwrap().to_owned();
        server.write_all(&answer(&derive_accept_key(key.as_bytes())).into()).await.unwrap();
        server.shutdown().await.unwrap();
        open(client, request, WebSocketConfig::default()).await
    }

    fn upgrade(accept: &str, connection: &str, more: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: {connection}\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        )
    }

    async fn problem(answer: impl Fn(&str) -> String) -> HandshakeProblem {
        match answered(answer).await {
            Err(HandshakeFailure::Invalid(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn connection_is_a_list_in_any_case_over_any_number_of_headers() {
        for connection in
            ["Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade , close", "close\r\nConnection:UPGRADE"]
        {
            assert!(answered(|accept| upgrade(accept, connection, "")).await.is_ok(), "{connection}");
        }
        for connection in ["", "keep-alive", "upgraded", "Upgrade keep-alive"] {
            let problem = problem(|accept| upgrade(accept, connection, "")).await;
            assert_eq!(problem, HandshakeProblem::NoConnectionUpgrade, "{connection}");
        }
    }

    #[tokio::test]
    async fn informational_answers_come_before_the_final_one() {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
        let before = format!("HTTP/1.1 100 Continue\r\n\r\n{early}{early}");
        assert!(answered(|accept| before.clone() + &upgrade(accept, "Upgrade", "")).await.is_ok());
        match answered(|_| format!("{before}HTTP/1.1 404 Not Found\r\n\r\n")).await {
            Err(HandshakeFailure::Answered(answer)) => assert_eq!(answer.status(), 404),
            other => panic!("{other:?}"),
        }
        // Hints alone are no answer, and hints without end are given up.
        assert_eq!(problem(|_| before.clone()).await, HandshakeProblem::Ended);
        let too_long = HandshakeProblem::TooLong { bytes_max: ANSWER_BYTES_MAX };
        assert_eq!(problem(|_| early.repeat(ANSWER_BYTES_MAX / early.len() + 2)).await, too_long);
    }

    #[tokio::test]
    async fn an_extension_or_a_subprotocol_that_was_not_requested_fails_the_handshake() {
        let extension = "permessage-deflate; server_no_context_takeover";
        let with = |header: String| problem(move |accept| upgrade(accept, "Upgrade", &header));
        let problem = with(format!("Sec-WebSocket-Extensions: {extension}\r\n")).await;
        assert_eq!(problem, HandshakeProblem::Extension(extension.to_owned()));
        let problem = with("Sec-WebSocket-Protocol: chat\r\n".to_owned()).await;
        assert_eq!(problem, HandshakeProblem::Subprotocol("chat".to_owned()));
        let none = "Sec-WebSocket-Extensions: \r\n";
        assert!(answered(|accept| upgrade(accept, "Upgrade", none)).await.is_ok(), "an empty list names no extension");
    }

    #[tokio::test]
    async fn what_is_no_websocket_server_is_named() {
        assert_eq!(problem(|_| String::new()).await, HandshakeProblem::Ended);
        assert_eq!(problem(|_| upgrade("another", "Upgrade", "")).await, HandshakeProblem::WrongKey);
        let other = problem(|accept| upgrade(accept, "Upgrade", "").replace("WebSocket\r", "h2c\r")).await;
        assert_eq!(other, HandshakeProblem::NoUpgrade);
        assert!(matches!(problem(|_| "220 mail\r\n\r\n".to_owned()).await, HandshakeProblem::NotHttp(_)));
        let endless = problem(|_| format!("HTTP/1.1 101 X\r\nA: {}", "x".repeat(2 * ANSWER_BYTES_MAX))).await;
        assert_eq!(endless, HandshakeProblem::TooLong { bytes_max: ANSWER_BYTES_MAX });
    }

    #[tokio::test]
    async fn frames_that_arrive_with_the_answer_are_received() {
        let frame = [0x81, 2, b'h', b'i'];
        let mut socket = answered(|accept| [upgrade(accept, "Upgrade", "").as_bytes(), &frame].concat()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hi"));
    }
}
