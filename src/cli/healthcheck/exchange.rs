//! One HTTP request over TCP or a Unix socket, plain or over TLS, until a deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned};

use super::endpoint::Address;
use crate::http::connect_unix;

/// Bytes of a response that are read: only its first line matters.
const RESPONSE_BYTES_MAX: usize = 256;

/// An error of the system or of TLS.
pub(super) type ExchangeError = io::Error;

/// What is requested.
pub(super) struct Request<'a> {
    pub target: &'a str,
    pub host: &'a str,
    /// The value of the header `Authorization`.
    pub authorization: Option<&'a str>,
}

/// How a server answered.
pub(super) enum Answer {
    Status(Status),
    /// It ended the connection because the client has no certificate.
    CertificateRequired,
    /// It ended the connection after the client's certificate was presented.
    CertificateRefused(io::Error),
}

/// The first line of a response.
pub(super) struct Status {
    pub line: String,
    /// `None` if it is not HTTP.
    pub code: Option<u16>,
    /// Whether the request had the password.
    pub was_authorized: bool,
}

/// Which servers are trusted.
pub(super) enum Trust {
    /// Those with a certificate for this name from an authority that the system trusts.
    System { name: ServerName<'static>, roots: Arc<RootCertStore> },
    /// The bridge on this machine, whatever its certificate is. Only one with this certificate is sent a password.
    Own(Option<CertificateDer<'static>>),
}

impl Trust {
    /// Trusts the authorities of this system for `host`.
    ///
    /// # Errors
    /// The system has none.
    pub fn system(host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(loaded.certs).0 == 0 {
            return Err(match loaded.errors.pop() {
                Some(error) => io::Error::other(error),
                None => io::Error::new(io::ErrorKind::NotFound, "there are none; install CA certificates"),
            });
        }
        Ok(Self::System { name, roots: roots.into() })
    }

    /// Trusts the bridge whose configured certificate this is.
    pub fn own(certificate: Option<CertificateDer<'static>>) -> Self {
        Self::Own(certificate)
    }
}

/// Sends `request` as a GET to `address`, over TLS if there is `trust`, and returns the answer. `identity` is presented if the
/// server requests a certificate.
///
/// # Errors
/// There is no answer until `deadline`, or the server is not trusted.
pub(super) fn exchange(
    address: &Address,
    trust: Option<&Trust>,
    identity: Option<&Arc<CertifiedKey>>,
    request: &Request<'_>,
    deadline: Instant,
) -> Result<Answer, ExchangeError> {
    let socket = Socket::connect(address, deadline)?;
    let Some(trust) = trust else {
        return status(socket, request, request.authorization).map(Answer::Status);
    };
    let requests = Arc::new(CertificateRequests { identity: identity.cloned(), were_received: AtomicBool::new(false) });
    let mut stream = StreamOwned::new(client(trust, Arc::clone(&requests))?, socket);
    let answer = handshake(&mut stream).and_then(|()| {
        let authorization = request.authorization.filter(|_| may_have_password(trust, &stream.conn));
        status(&mut stream, request, authorization)
    });
    match answer {
        Ok(status) => Ok(Answer::Status(status)),
        // Over TLS 1.3 a server learns after the handshake that there is no certificate or a wrong one, and the reset of its
        // connection may overtake its alert.
        Err(error) if requests.were_received.load(Ordering::Relaxed) && error.kind() != io::ErrorKind::TimedOut => {
            Ok(match identity {
                None => Answer::CertificateRequired,
                Some(_) => Answer::CertificateRefused(error),
            })
        }
        Err(error) => Err(error),
    }
}

fn handshake(stream: &mut StreamOwned<ClientConnection, Socket>) -> io::Result<()> {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(())
}

/// Returns whether the server at the other end may be sent a password.
fn may_have_password(trust: &Trust, connection: &ClientConnection) -> bool {
    match trust {
        Trust::System { .. } => true,
        Trust::Own(configured) => {
            let presented = connection.peer_certificates().and_then(|chain| chain.first());
            configured.as_ref().zip(presented).is_some_and(|(configured, presented)| configured == presented)
        }
    }
}

/// Returns the first line of the response.
fn status(
    mut stream: impl Read + Write,
    Request { target, host, .. }: &Request<'_>,
    authorization: Option<&str>,
) -> io::Result<Status> {
    let authorization_line = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{authorization_line}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut response = Vec::new();
    let mut chunk = [0; RESPONSE_BYTES_MAX];
    while response.len() < RESPONSE_BYTES_MAX && !response.contains(&b'\n') {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => response.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if response.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without a response"));
    }
    let line = String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let code = match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(code)) => code.parse().ok(),
        _ => None,
    };
    Ok(Status { line, code, was_authorized: authorization.is_some() })
}

/// A connected socket that blocks until its deadline at most.
struct Socket {
    stream: Stream,
    deadline: Instant,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &Address, deadline: Instant) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect_timeout(address, remaining(deadline)?)?),
            Address::Unix(path) => Stream::Unix(connect_unix(path)?),
        };
        Ok(Self { stream, deadline })
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Some(remaining(self.deadline)?);
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
            Stream::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
        };
        read.map_err(in_time)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let timeout = Some(remaining(self.deadline)?);
        let written = match &mut self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write(bytes)),
            Stream::Unix(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write(bytes)),
        };
        written.map_err(in_time)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names the error of a socket whose timeout has passed.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// Returns the time until `deadline`: never zero, which a socket would refuse.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

fn client(trust: &Trust, requests: Arc<CertificateRequests>) -> io::Result<ClientConnection> {
    // Without an explicit provider rustls panics as soon as two of them are compiled in.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has a cipher for every version")
        .dangerous();
    let (name, verifier): (_, Arc<dyn ServerCertVerifier>) = match trust {
        Trust::System { name, roots } => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider).build();
            (name.clone(), verifier.map_err(io::Error::other)?)
        }
        // An address is not sent as the server's name.
        Trust::Own(_) => (ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST)), Arc::new(AnyCertificate(provider))),
    };
    let config = builder.with_custom_certificate_verifier(verifier).with_client_cert_resolver(requests);
    ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)
}

/// Presents a certificate if there is one, and notes that one was requested.
#[derive(Debug)]
struct CertificateRequests {
    identity: Option<Arc<CertifiedKey>>,
    were_received: AtomicBool,
}

impl ResolvesClientCert for CertificateRequests {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.were_received.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// Accepts any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
