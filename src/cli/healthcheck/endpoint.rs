//! Where a bridge can be requested, derived from the flags and variables that it has.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::HEALTHY_PATH;
use crate::cli::listen_flags;
use crate::settings::SettingsError;
use crate::settings::flags::ListenFlags;
use crate::settings::web::{Listeners, listeners};

const PROGRAM: &str = env!("CARGO_PKG_NAME");

/// Why a process does not tell where a bridge listens.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// Its command line or its environment cannot be read.
    #[error("cannot read {}: {source}; give the id of a running bridge of the same user", .file.display())]
    Unreadable {
        /// The file in `/proc`.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Its command line is not that of a bridge that serves.
    #[error("it is no bridge that serves: give the id of one, or a URL")]
    NotServing,
    /// Its settings cannot be used, or do not tell the address.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Returns the URL of the health of a bridge that listens here, for people.
    pub fn url(&self, has_tls: bool) -> String {
        let scheme = if has_tls { "https" } else { "http" };
        match self {
            Self::Tcp(_) => format!("{scheme}://{self}{HEALTHY_PATH}"),
            Self::Unix(_) => format!("{scheme}+{self}:{HEALTHY_PATH}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a bridge can be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Not empty.
    pub addresses: Vec<Address>,
    /// The file that says whether there is TLS, and who is let in.
    pub web_config: Option<PathBuf>,
}

impl Endpoints {
    /// Returns the endpoints of a bridge with these flags, from the same machine.
    ///
    /// # Errors
    /// A listener that cannot be used, or none whose address is known.
    pub fn new(flags: &ListenFlags) -> Result<Self, SettingsError> {
        let Listeners { tcp, unix, by_systemd } = listeners(flags)?;
        let tcp = tcp.into_iter().filter(|address| !by_systemd && address.port() != 0);
        let tcp = tcp.flat_map(|address| reachable(address.ip()).into_iter().map(move |ip| (ip, address.port())));
        let tcp = tcp.map(|address| Address::Tcp(address.into()));
        let addresses: Vec<_> = tcp.chain(unix.into_iter().map(Address::Unix)).collect();
        if addresses.is_empty() {
            return Err(SettingsError::UnknownHealthcheckAddress { by_systemd });
        }
        Ok(Self { addresses, web_config: flags.config_file.clone() })
    }

    /// Returns the endpoints of the bridge that runs as the process `pid`.
    ///
    /// # Errors
    /// Another process, or one of another user.
    pub fn of_process(pid: u32) -> Result<Self, ProcessError> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let read = |name| {
            let file = folder.join(name);
            fs::read(&file).map_err(|source| ProcessError::Unreadable { file, source })
        };
        let (arguments, variables) = (read("cmdline")?, read("environ")?);
        let arguments: Vec<_> = entries(&arguments).collect();
        // An init that starts it, such as Docker's, has its command line behind its own.
        let own = env::current_exe().ok();
        let names = [Some(OsStr::new(PROGRAM)), own.as_deref().and_then(Path::file_name)];
        let is_program = |argument: &&OsStr| {
            let name = Path::new(argument).file_name();
            name.is_some() && names.contains(&name)
        };
        let begin = arguments.iter().position(is_program).ok_or(ProcessError::NotServing)?;
        let variable = |name: &str| -> Option<OsString> {
            let value = entries(&variables)
                .find_map(|entry| entry.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            value.map(|value| OsStr::from_bytes(value).to_owned())
        };
        let flags = listen_flags(&arguments[begin..], variable)?.ok_or(ProcessError::NotServing)?;
        let Self { addresses, web_config } = Self::new(&flags)?;
        // A relative path is relative to its working directory; those of sockets are absolute.
        Ok(Self { addresses, web_config: web_config.map(|path| folder.join("cwd").join(path)) })
    }
}

/// Returns the addresses at which this machine reaches a listener on `ip`.
fn reachable(ip: IpAddr) -> Vec<IpAddr> {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![Ipv4Addr::LOCALHOST.into()],
        // It accepts IPv4 as well.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        ip => vec![ip],
    }
}

/// Returns the entries of a file of `/proc`, each of which ends in a NUL.
fn entries(text: &[u8]) -> impl Iterator<Item = &OsStr> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    text.split(|byte| *byte == 0).map(OsStr::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::flags::LISTEN_ADDRESS_DEFAULT;

    fn endpoints(addresses: &[&str], systemd_socket: bool) -> Result<Vec<String>, SettingsError> {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        let default_address = LISTEN_ADDRESS_DEFAULT.to_owned();
        let flags = ListenFlags { addresses, default_address, systemd_socket, config_file: None };
        let endpoints = Endpoints::new(&flags)?;
        Ok(endpoints.addresses.iter().map(|address| address.url(false)).collect())
    }

    #[test]
    fn every_listener_has_an_address_on_this_machine() {
        assert_eq!(endpoints(&["0.0.0.0:9101"], false).unwrap(), ["http://127.0.0.1:9101/-/healthy"]);
        let both = ["http://[::1]:9101/-/healthy", "http://127.0.0.1:9101/-/healthy"];
        assert_eq!(endpoints(&["[::]:9101"], false).unwrap(), both);
        let several = endpoints(&["192.0.2.1:80", "unix:/run/bridge.sock"], false).unwrap();
        assert_eq!(several, ["http://192.0.2.1:80/-/healthy", "http+unix:/run/bridge.sock:/-/healthy"]);
        assert_eq!(endpoints(&[], false).unwrap()[0], "http://127.0.0.1:9090/-/healthy");
        assert_eq!(endpoints(&["unix:/a"], true).unwrap(), ["http+unix:/a:/-/healthy"]);
    }

    #[test]
    fn an_address_that_only_the_bridge_knows_is_refused() {
        for (addresses, by_systemd) in [(&["127.0.0.1:0"][..], false), (&[], true)] {
            let refused = endpoints(addresses, by_systemd).unwrap_err();
            assert!(
                matches!(refused, SettingsError::UnknownHealthcheckAddress { by_systemd: found } if found == by_systemd)
            );
        }
    }

    #[test]
    fn entries_end_in_a_nul() {
        let read = |text: &'static [u8]| entries(text).map(|entry| entry.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(read(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(read(b"a"), ["a"]);
    }
}
