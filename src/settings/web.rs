//! Builders of what is served, and where.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

use super::flags;
use super::{
    FeedTarget, HostName, Limits, Settings, SettingsError, SocketMode, TelemetryPathError, WebConfigFile,
    listen_address,
};

/// Where a bridge listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listeners {
    /// TCP addresses, none of them twice but for port 0. Not listened on if `by_systemd`.
    pub tcp: Vec<SocketAddr>,
    /// Paths of Unix sockets.
    pub unix: Vec<PathBuf>,
    /// Whether systemd passes sockets.
    pub by_systemd: bool,
}

/// Returns the listeners that `flags` configure; without an address, the default one.
pub(crate) fn listeners(flags: &flags::ListenFlags) -> Result<Listeners, SettingsError> {
    let default = slice::from_ref(&flags.default_address);
    let addresses = if flags.addresses.is_empty() { default } else { &flags.addresses };
    let mut listeners = Listeners { tcp: Vec::new(), unix: Vec::new(), by_systemd: flags.systemd_socket };
    for address in addresses {
        if let Some(path) = listen_address::unix_path(address) {
            listeners.unix.push(path);
            continue;
        }
        match listen_address::resolve(address) {
            Ok(addresses) => listeners.tcp.extend(addresses),
            Err(error) => return Err(SettingsError::ListenAddress { address: address.clone(), error }),
        }
    }
    let mut seen = BTreeSet::new();
    listeners.tcp.retain(|address| address.port() == 0 || seen.insert(*address));
    Ok(listeners)
}

/// Returns the settings that `run` and `demo` share.
pub(crate) fn settings(
    web: flags::WebFlags,
    ledger_limits: Limits,
    log: &flags::LogFlags,
    feeds: Vec<FeedTarget>,
) -> Result<Settings, SettingsError> {
    let Listeners { tcp: listen, unix: listen_unix, by_systemd: systemd_socket } = listeners(&web.listen)?;
    let allowed_hosts = web.allowed_hosts.into_iter().map(|name| match name.parse::<HostName>() {
        Ok(host) => Ok(host),
        Err(error) => Err(SettingsError::AllowedHost { name, error }),
    });
    let allowed_hosts = allowed_hosts.collect::<Result<_, _>>()?;
    check_path(&web.telemetry_path)?;
    check_socket_mode(web.socket_mode, &listen_unix)?;
    Ok(Settings {
        listen,
        is_listen_chosen: systemd_socket || !web.listen.addresses.is_empty(),
        listen_unix,
        socket_mode: web.socket_mode,
        systemd_socket,
        web_config: web.listen.config_file.as_deref().map(WebConfigFile::open).transpose()?.map(Arc::new),
        allowed_hosts,
        telemetry_path: web.telemetry_path,
        has_lifecycle_api: web.enable_lifecycle,
        has_exporter_metrics: !web.disable_exporter_metrics,
        with_created: web.with_created,
        zero_first: web.zero_first,
        ledger_limits,
        log: log.settings(),
        ..Settings::new(feeds)
    })
}

/// Refuses permissions of sockets where there is none.
pub(super) fn check_socket_mode(mode: Option<SocketMode>, sockets: &[PathBuf]) -> Result<(), SettingsError> {
    match mode {
        Some(_) if sockets.is_empty() => Err(SettingsError::SocketModeWithoutSocket),
        _ => Ok(()),
    }
}

/// Refuses a path of the metrics that no request can have, or that is taken.
pub(super) fn check_path(path: &str) -> Result<(), SettingsError> {
    let unfit = |c: char| !c.is_ascii_alphanumeric() && !"-._~/".contains(c);
    let problem = match path.find(unfit).and_then(|at| path[at..].chars().next()) {
        _ if !path.starts_with('/') => TelemetryPathError::NoSlash,
        Some(unfit) => TelemetryPathError::Character(unfit),
        None if ["/-/healthy", "/-/ready", "/-/reload"].contains(&path.trim_end_matches('/')) => {
            TelemetryPathError::Taken
        }
        None => return Ok(()),
    };
    Err(SettingsError::TelemetryPath { path: path.to_owned(), problem })
}
