//! Addresses to listen on, as on the command line.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use std::path::PathBuf;

use thiserror::Error;

/// Why a text is not an address to listen on.
///
/// ```
/// use session_buddy_bridge::settings::{ListenAddressError, SettingsError};
///
/// let error = SettingsError::ListenAddress { address: "9090".to_owned(), error: ListenAddressError::NoPort };
/// assert!(error.to_string().starts_with("--web.listen-address \"9090\" has no port: write HOST:PORT"));
/// ```
#[derive(Debug, Error)]
pub enum ListenAddressError {
    /// Not `HOST:PORT`.
    #[error("has no port: write HOST:PORT, for example localhost:9090, or :9090 for every interface")]
    NoPort,
    /// A URL or a path.
    #[error("is a URL or a path: write HOST:PORT alone, for example localhost:9090")]
    Url,
    /// The port is not a number from 0 to 65535.
    #[error("has the port \"{0}\": a port is a number from 1 to 65535, or 0 for one that is free")]
    Port(String),
    /// An IPv6 address without brackets, or something else between brackets.
    #[error("is not an IPv6 address in brackets: write [ADDRESS]:PORT, for example [::1]:9090")]
    Brackets,
    /// The host name cannot be resolved.
    #[error("names a host that cannot be resolved ({0}): give an address of this machine, or localhost")]
    Unresolved(#[source] io::Error),
}

/// Returns the path of a Unix socket if `text` is `unix:PATH`.
pub(crate) fn unix_path(text: &str) -> Option<PathBuf> {
    // A host may be called unix, but no port begins with a slash.
    let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'))?;
    Some(path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path).into())
}

/// Returns the addresses of `text`, without duplicates: `:PORT` is every interface, `localhost` every loopback address of this
/// machine.
pub(super) fn resolve(text: &str) -> Result<Vec<SocketAddr>, ListenAddressError> {
    if text.contains('/') {
        return Err(ListenAddressError::Url);
    }
    let (host, port) = text.rsplit_once(':').ok_or(ListenAddressError::NoPort)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6,
        None if !host.contains(':') => host,
        _ => return Err(ListenAddressError::Brackets),
    };
    let port: u16 = Some(port)
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| ListenAddressError::Port(port.to_owned()))?;

    let mut addresses = match host {
        "" => vec![SocketAddr::new(every_interface(), port)],
        host if host.eq_ignore_ascii_case("localhost") => localhost(port),
        host => (host, port).to_socket_addrs().map_err(ListenAddressError::Unresolved)?.collect(),
    };
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    Ok(addresses)
}

fn localhost(port: u16) -> Vec<SocketAddr> {
    let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    // Two addresses with port 0 would be given two different ports, and no single URL would lead to both.
    if port != 0 && exists(v6.ip()) { vec![v4, v6] } else { vec![v4] }
}

/// `[::]` accepts IPv4 as well, but does not exist on a machine without IPv6.
fn every_interface() -> IpAddr {
    let v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if exists(v6) { v6 } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Returns whether this machine has `address`. Only binding tells reliably: containers list `::1` in their hosts file although
/// IPv6 is disabled.
fn exists(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let one = |text| {
            let addresses = resolve(text).unwrap();
            assert_eq!(addresses.len(), 1, "{text}: {addresses:?}");
            addresses[0]
        };
        assert_eq!(one("127.0.0.1:9090"), "127.0.0.1:9090".parse().unwrap());
        assert_eq!(one("[::1]:9090"), "[::1]:9090".parse().unwrap());
        assert_eq!(one("localhost:0"), "127.0.0.1:0".parse().unwrap());
        assert!(one(":9090").ip().is_unspecified());
        let localhost = resolve("LOCALHOST:9090").unwrap();
        assert_eq!(localhost[0], "127.0.0.1:9090".parse().unwrap());
        assert!(localhost.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn invalid_addresses_are_distinguished() {
        use ListenAddressError as E;
        assert!(matches!(resolve("9090"), Err(E::NoPort)));
        assert!(matches!(resolve("http://localhost:9090"), Err(E::Url)));
        assert!(matches!(resolve("::1"), Err(E::Brackets)));
        assert!(matches!(resolve("fe80::1:9090"), Err(E::Brackets)));
        assert!(matches!(resolve("[::1:9090"), Err(E::Brackets)));
        assert!(matches!(resolve("[localhost]:9090"), Err(E::Brackets)));
        for text in ["localhost:", "localhost:65536", "localhost:http", "localhost:+1", "localhost:-1"] {
            assert!(matches!(resolve(text), Err(E::Port(_))), "{text}");
        }
    }
}
