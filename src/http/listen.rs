use std::io;
use std::net::{SocketAddr, TcpListener};

use thiserror::Error;

const PROMETHEUS_DEFAULT_PORT: u16 = 9090;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Something else listens there.
    #[error("cannot listen on {address}: the address is in use{}; stop what uses it, or choose another", hint(address))]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system does not let this process have the port.
    #[error(
        "cannot listen on {address}: permission denied; choose a port of 1024 or above, or grant the right to bind low ports"
    )]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address belongs to no interface of this machine.
    #[error("cannot listen on {address}: this machine has no such address; choose one that it has, or 0.0.0.0 for all")]
    NoSuchAddress {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Any other failure of the system.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
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

/// Listens on `address`, port 0 for one that is free. Synchronous, so that a failure is known before anything starts;
/// the listener is non-blocking, as [`tokio::net::TcpListener::from_std`] wants it.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| BindError::new(address, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(address: &str, kind: io::ErrorKind) -> String {
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
            said("[::1]:9090", io::ErrorKind::AddrInUse).contains("[::1]:9090: the address is in use (9090 is also")
        );
        assert!(!said("[::1]:9091", io::ErrorKind::AddrInUse).contains("9090"));
    }

    #[test]
    fn other_failures_say_what_to_do() {
        assert!(
            said("127.0.0.1:80", io::ErrorKind::PermissionDenied).contains("127.0.0.1:80: permission denied; choose")
        );
        assert!(said("192.0.2.1:80", io::ErrorKind::AddrNotAvailable).contains("no such address; choose one"));
        assert!(said("127.0.0.1:80", io::ErrorKind::OutOfMemory).starts_with("cannot listen on 127.0.0.1:80: "));
    }
}
