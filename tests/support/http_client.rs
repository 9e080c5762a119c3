//! A small blocking HTTP/1.1 client that shows exactly what came over the wire. Called inside a runtime, it needs one
//! with several threads.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order received; names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {:?}", self.headers);
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path)
}

/// One GET of `/metrics` by a client that prefers OpenMetrics.
pub fn get_openmetrics(address: SocketAddr) -> Response {
    get_metrics(address, "Accept: application/openmetrics-text;version=1.0.0")
}

/// One GET of `/metrics` by a client that accepts gzip.
pub fn get_gzip(address: SocketAddr) -> Response {
    get_metrics(address, "Accept-Encoding: gzip")
}

fn get_metrics(address: SocketAddr, header: &str) -> Response {
    let mut connection = Connection::open(address);
    let headers = format!("Host: test\r\nConnection: close\r\n{header}");
    connection.send(format!("GET /metrics HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes());
    connection.response_to("GET")
}

/// One request without a body on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str) -> Response {
    Connection::open(address).only_request(method, path)
}

/// One GET at a Unix socket.
pub fn get_over_unix(socket: &Path, path: &str) -> Response {
    let stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    Connection::over(stream).only_request("GET", path)
}

/// [`get`] from a server that may not be there, may be killed while it answers, or is not the bridge and need not declare how
/// long its answer is.
///
/// # Errors
/// If there is no whole answer.
pub fn try_get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut connection = Connection::try_open(address)?;
    // HTTP/1.0, so that the answer is not chunked.
    connection.try_send(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut response = connection.try_head(&["HTTP/1.0 ", "HTTP/1.1 "])?;
    connection.stream.read_to_end(&mut response.body)?;
    let declared = response.header("content-length").map(|length| length.parse::<usize>());
    match declared {
        Some(Ok(bytes)) if bytes == response.body.len() => Ok(response),
        None => Ok(response),
        _ => Err(malformed(format!("a body of {} bytes, declared as {declared:?}", response.body.len()))),
    }
}

/// A connection on which bytes are sent as given and responses are read one by one.
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("a connection")
    }

    fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    /// Tells the server that nothing more will be sent.
    pub fn end_sending(&mut self) -> io::Result<()> {
        self.stream.get_mut().shutdown(Shutdown::Write)
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over a stream that is connected, and has timeouts.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes the bytes");
    }

    /// For bytes that the server may refuse to read.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// A request without a body, its response, and the end of the connection.
    pub fn only_request(mut self, method: &str, path: &str) -> Response {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        let response = self.response_to(method);
        self.expect_end();
        response
    }

    /// Waits until something has arrived, without taking it.
    pub fn wait_for_bytes(&mut self) {
        assert!(!self.stream.fill_buf().expect("bytes").is_empty(), "the connection ended");
    }

    /// The next response, to a request of the method `method`.
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|error| panic!("no response: {error}"))
    }

    /// [`Connection::response_to`] where the connection may be refused, as TLS does.
    ///
    /// # Errors
    /// If the connection fails or ends, or what comes is not a response of HTTP/1.1 with a declared length.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.try_head(&["HTTP/1.1 "])?;
        if method != "HEAD" {
            let length = response.header("content-length").and_then(|length| length.parse().ok());
            response.body = vec![0; length.ok_or_else(|| malformed(format!("no length: {:?}", response.headers)))?];
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Waits until the server closes its side, and panics if it says anything before.
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "{} bytes follow: {:?}", rest.len(), String::from_utf8_lossy(&rest));
    }

    /// Everything up to the end of the connection, which may be a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        self.rest_or_reset().0
    }

    /// Everything up to the end of the connection, and whether that was a reset.
    pub fn rest_or_reset(&mut self) -> (Vec<u8>, bool) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => (rest, false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (rest, true),
            Err(error) => panic!("the connection did not end: {error}"),
        }
    }

    /// A response of one of these versions, without its body.
    fn try_head(&mut self, versions: &[&str]) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = versions.iter().find_map(|version| status_line.strip_prefix(version));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| malformed(format!("no status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim_ascii().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or_else(|| malformed(format!("no whole line: {line:?}")))?;
        Ok(line.to_owned())
    }
}

fn malformed(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
