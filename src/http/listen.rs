//! Binding of TCP ports, Unix sockets and the sockets that systemd passes.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use thiserror::Error;

const PROMETHEUS_DEFAULT_PORT: u16 = 9090;

/// Connections to a Unix socket that may wait to be accepted.
const UNIX_BACKLOG: i32 = 1024;

/// Why an address or a socket cannot be listened on.
///
/// ```
/// use std::net::TcpListener;
///
/// use session_buddy_bridge::{BindError, PrometheusExporter, StartError};
///
/// let other = TcpListener::bind("127.0.0.1:0")?;
/// let Err(StartError::Bind(error)) = PrometheusExporter::at(other.local_addr()?).start() else { panic!("it is in use") };
/// assert!(matches!(error, BindError::InUse { .. }));
/// assert!(error.to_string().ends_with("the address is in use; stop what uses it, or choose another"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program listens there.
    #[error("cannot listen on {address}: the address is in use{}; stop what uses it, or choose another", hint(address))]
    InUse {
        /// The requested address.
        address: SocketAddr,
    },
    /// The system does not permit this process to use the port.
    #[error(
        "cannot listen on {address}: permission denied; choose a port of 1024 or above, or grant the right to bind low ports"
    )]
    Denied {
        /// The requested address.
        address: SocketAddr,
    },
    /// No interface of this machine has the address.
    #[error("cannot listen on {address}: this machine has no such address; choose one that it has, or 0.0.0.0 for all")]
    NoSuchAddress {
        /// The requested address.
        address: SocketAddr,
    },
    /// A Unix socket cannot be created.
    #[error("cannot listen on unix:{}: {source}; it has to be a path in a folder that this user can write to", .path.display())]
    Unix {
        /// The requested path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another program listens on the Unix socket, or the file is not a socket.
    #[error("cannot listen on unix:{}: {problem}; choose another path", .path.display())]
    UnixInUse {
        /// The requested path.
        path: PathBuf,
        /// What uses the path.
        problem: &'static str,
    },
    /// systemd passed no sockets.
    #[error(
        "--web.systemd-socket was given, and systemd passed no socket: start the bridge through a unit that ends in .socket"
    )]
    NoSystemdSocket,
    /// systemd passed something else than a stream socket.
    #[error("systemd passed a socket that cannot be served ({0}): give ListenStream= a port or a path")]
    SystemdSocket(#[source] io::Error),
    /// Any other error of the system.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address },
            _ => Self::Other { address, source },
        }
    }
}

fn hint(address: &SocketAddr) -> &'static str {
    if address.port() == PROMETHEUS_DEFAULT_PORT { " (9090 is also Prometheus's own default port)" } else { "" }
}

/// Listens on `address`; port 0 is one that is free. The listener is non-blocking, as [`tokio::net::TcpListener::from_std`]
/// requires.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| BindError::new(address, source))
}

/// A listener that is bound and not served yet. Clients that connect wait.
#[derive(Debug)]
pub enum BoundListener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix socket, and its file if it is to be removed.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl From<TcpListener> for BoundListener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl BoundListener {
    /// Returns the address, for people.
    pub fn name(&self) -> String {
        let unnamed = || "a socket without a name".to_owned();
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| unnamed(), |address| address.to_string()),
            Self::Unix(listener, _) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(unnamed, |path| format!("unix:{}", path.display()))
            }
        }
    }

    /// Takes the file of a Unix socket, to be held for as long as the socket is served.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => file.take(),
        }
    }
}

/// Permissions of the file of a Unix socket: who may connect needs the right to write.
///
/// ```
/// use session_buddy_bridge::settings::{SocketMode, SocketModeError};
///
/// let mode: SocketMode = "0660".parse()?;
/// assert_eq!(mode.bits(), 0o660);
/// assert_eq!("rw-rw----".parse::<SocketMode>(), Err(SocketModeError));
/// # Ok::<(), SocketModeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// A text is not the mode of a Unix socket.
///
/// ```
/// use session_buddy_bridge::settings::{SocketMode, SocketModeError};
///
/// let error = "1777".parse::<SocketMode>().unwrap_err();
/// assert_eq!(error.to_string(), "give the permissions in octal, 0000 to 0777, for example 0660");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("give the permissions in octal, 0000 to 0777, for example 0660")]
pub struct SocketModeError;

impl SocketMode {
    /// Returns the permission bits, 0 to 0o777.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, SocketModeError> {
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or(SocketModeError)
    }
}

/// Connects without waiting. A listener whose queue is full is an error of the kind [`io::ErrorKind::WouldBlock`].
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = UnixStream::from(socket()?);
    socket.set_nonblocking(true)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Binds a Unix socket and listens on it, with `mode` before anybody can connect.
fn listen_unix(path: &Path, mode: Option<SocketMode>) -> io::Result<BoundListener> {
    let listener = UnixListener::from(socket()?);
    net::bind(&listener, &SocketAddrUnix::new(path)?)?;
    let file = SocketFile(path.to_owned());
    if let Some(SocketMode(mode)) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    net::listen(&listener, UNIX_BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(BoundListener::Unix(listener, Some(file)))
}

/// Listens on a Unix socket at `path`, whose file has the permissions `mode`, or those that the umask leaves. A socket that a
/// killed process left behind is replaced.
///
/// # Errors
/// A path that cannot be written, or that something else uses.
pub fn bind_unix(path: &Path, mode: Option<SocketMode>) -> Result<BoundListener, BindError> {
    let in_use = |problem| BindError::UnixInUse { path: path.to_owned(), problem };
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(in_use("there is a file that is not a socket"));
        }
        match connect_unix(path).map_err(|error| error.kind()) {
            // Nobody listens: it was left behind.
            Err(io::ErrorKind::ConnectionRefused) => drop(fs::remove_file(path)),
            Err(io::ErrorKind::NotFound) => {}
            Err(io::ErrorKind::PermissionDenied) => return Err(in_use("it belongs to somebody else")),
            Ok(_) | Err(_) => return Err(in_use("somebody else serves it")),
        }
    }
    listen_unix(path, mode).map_err(|source| BindError::Unix { path: path.to_owned(), source })
}

/// Returns every socket that systemd passed to this process, as its unit configures.
///
/// # Errors
/// No sockets, or one that is not a stream socket.
pub fn from_systemd() -> Result<Vec<BoundListener>, BindError> {
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() == 0 {
        return Err(BindError::NoSystemdSocket);
    }
    (0..passed.len())
        .map(|place| {
            let bound = match passed.take_tcp_listener(place) {
                Ok(Some(listener)) => listener.set_nonblocking(true).map(|()| BoundListener::Tcp(listener)),
                _ => match passed.take_unix_listener(place) {
                    Ok(Some(listener)) => listener.set_nonblocking(true).map(|()| BoundListener::Unix(listener, None)),
                    Ok(None) => Err(io::ErrorKind::NotFound.into()),
                    Err(error) => Err(error),
                },
            };
            bound.map_err(BindError::SystemdSocket)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(address: &str, kind: io::ErrorKind) -> String {
        BindError::new(address.parse().unwrap(), kind.into()).to_string()
    }

    #[test]
    fn an_address_in_use_is_named_with_the_way_out() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::InUse { address: named } if named == address));
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address}: the address is in use; stop what uses it, or choose another")
        );
    }

    #[test]
    fn port_9090_is_told_apart_because_prometheus_itself_uses_it() {
        assert!(
            message("[::1]:9090", io::ErrorKind::AddrInUse).contains("[::1]:9090: the address is in use (9090 is also")
        );
        assert!(!message("[::1]:9091", io::ErrorKind::AddrInUse).contains("9090"));
    }

    #[test]
    fn other_failures_say_what_to_do() {
        assert!(
            message("127.0.0.1:80", io::ErrorKind::PermissionDenied)
                .contains("127.0.0.1:80: permission denied; choose")
        );
        assert!(message("192.0.2.1:80", io::ErrorKind::AddrNotAvailable).contains("no such address; choose one"));
        assert!(message("127.0.0.1:80", io::ErrorKind::OutOfMemory).starts_with("cannot listen on 127.0.0.1:80: "));
    }
}
