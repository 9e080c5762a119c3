//! A server with a web configuration file, and clients of it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedCipherSuite};
use session_buddy_bridge::internals::http::{HttpLimits, HttpSettings, WebConfigFile};

use super::PATIENCE;
use super::certificates::{Authority, ClientFiles};
use super::http_client::{Connection, Response};
use super::served::{MadeUp, Served};

pub type EncryptedConnection = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// A folder with a web configuration file, and the certificates that it can name.
pub struct WebSite {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
}

impl WebSite {
    pub fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("the test's"));
        authority.file(folder.path());
        authority.server_files(folder.path());
        Self { folder, authority }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("web.yml")
    }

    /// Replaces the file as a whole.
    pub fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    pub fn serve(&self, text: &str) -> Served {
        self.serve_content(text, MadeUp::showing(|| "a 1\n".into()), HttpLimits::default())
    }

    pub fn serve_content(&self, text: &str, content: MadeUp, limits: HttpLimits) -> Served {
        self.write(text);
        let web_config = Some(Arc::new(WebConfigFile::open(&self.path()).unwrap()));
        Served::start(content, HttpSettings { web_config, limits, ..HttpSettings::default() })
    }

    pub fn refusal(&self, text: &str) -> String {
        self.write(text);
        WebConfigFile::open(&self.path()).unwrap_err().to_string()
    }

    /// A connection over TLS. The handshake comes with the first bytes that are sent.
    pub fn connect_encrypted(&self, address: SocketAddr, client: Option<&ClientFiles>) -> EncryptedConnection {
        Connection::over(self.stream_encrypted(address, client))
    }

    /// The stream of [`Self::connect_encrypted`].
    pub fn stream_encrypted(
        &self,
        address: SocketAddr,
        client: Option<&ClientFiles>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let connection = self.client(client, &default_provider().cipher_suites);
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(connection, stream)
    }

    /// A client that trusts the site's authority and offers these cipher suites.
    pub fn client(&self, client: Option<&ClientFiles>, suites: &[SupportedCipherSuite]) -> ClientConnection {
        let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..default_provider() };
        let mut roots = RootCertStore::empty();
        let ca = fs::read(self.folder.path().join("ca.pem")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(ClientFiles { certificate, key }) => {
                let certificate = CertificateDer::from_pem_file(certificate).unwrap();
                builder.with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap()
    }

    /// The status of a GET over TLS, or why there is none.
    pub fn get_encrypted(&self, address: SocketAddr, client: Option<&ClientFiles>) -> io::Result<u16> {
        self.get_encrypted_with(address, client, "Host: localhost")
    }

    /// [`Self::get_encrypted`] with these header lines.
    pub fn get_encrypted_with(
        &self,
        address: SocketAddr,
        client: Option<&ClientFiles>,
        headers: &str,
    ) -> io::Result<u16> {
        let mut connection = self.connect_encrypted(address, client);
        let request = format!("GET /metrics HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        connection.try_send(request.as_bytes())?;
        Ok(connection.try_response_to("GET")?.status)
    }
}

/// The section of a web configuration file for TLS.
pub const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

/// bcrypt at its lowest cost.
pub fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

/// A GET of `/metrics` with these header lines.
pub fn get(address: SocketAddr, authorization: &str) -> Response {
    let mut connection = Connection::open(address);
    let headers = format!("Host: localhost\r\nConnection: close\r\n{authorization}");
    connection.send(format!("GET /metrics HTTP/1.1\r\n{headers}\r\n").as_bytes());
    connection.response_to("GET")
}

/// The header line of a user with a password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(format!("{user}:{password}").as_bytes()))
}
