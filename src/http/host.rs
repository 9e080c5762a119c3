//! The host that a request is addressed to, and which hosts are this server.
//!
//! A web site can resolve its own name to the address of this server and read it through a visitor's browser (DNS rebinding).
//! The browser names the site as the host of such a request, so that a request of a browser to an unknown host is refused.

use std::str::FromStr;

use thiserror::Error;
use url::{Host, Url};
use warp::http::uri::Authority;
use warp::http::{HeaderMap, HeaderName, Request, Version, header};

/// Headers that browsers send and scrapers and probes do not, beside `Sec-Fetch-*`. Over plain HTTP a browser sends
/// `Sec-Fetch-*` to loopback addresses alone, and `Origin` not with a GET of the same origin; `Accept-Language` is sent with
/// every request, and no script can remove it.
const BROWSER_HEADERS: [HeaderName; 3] = [header::ORIGIN, header::REFERER, header::ACCEPT_LANGUAGE];

/// A host name by which clients address this server, in lower case, without a port.
///
/// ```
/// use session_buddy_bridge::settings::{HostName, HostNameError};
///
/// let name: HostName = "Metrics.Example.".parse()?;
/// assert_eq!(name.as_str(), "metrics.example");
/// assert_eq!("metrics.example:9090".parse::<HostName>(), Err(HostNameError::Port));
/// # Ok::<(), HostNameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// Why a text is not a host name.
///
/// ```
/// use session_buddy_bridge::settings::{HostName, HostNameError};
///
/// let error = "*.example".parse::<HostName>().unwrap_err();
/// assert_eq!(error.to_string(), "is not a host name: write for example metrics.example");
/// assert_eq!("[::1]".parse::<HostName>(), Err(HostNameError::Address));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HostNameError {
    /// A port follows the name.
    #[error("has a port: write the name alone, it is allowed on every port")]
    Port,
    /// An IP address.
    #[error("is an IP address, and addresses are always allowed: leave it out")]
    Address,
    /// A URL, a pattern, or any other text.
    #[error("is not a host name: write for example metrics.example")]
    Malformed,
}

impl HostName {
    /// Returns the name, in lower case and without a dot at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new(domain: &str) -> Self {
        Self(domain.strip_suffix('.').unwrap_or(domain).to_owned())
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        match Host::parse(text) {
            // What a URL may have as its host is more than a name: `*.example` among others.
            Ok(Host::Domain(domain)) if is_dns_name(&domain) => Ok(Self::new(&domain)),
            Ok(Host::Ipv4(_) | Host::Ipv6(_)) => Err(HostNameError::Address),
            _ => match text.rsplit_once(':') {
                Some((name, port)) if port.parse::<u16>().is_ok() && Host::parse(name).is_ok() => {
                    Err(HostNameError::Port)
                }
                _ => Err(HostNameError::Malformed),
            },
        }
    }
}

fn is_dns_name(domain: &str) -> bool {
    domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Why the host of a request is invalid: RFC 9112, 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum InvalidHost {
    #[error("HTTP/1.1 requires the header Host")]
    Missing,
    #[error("the header Host is there more than once")]
    Repeated,
    #[error("a user name or password stands before the host")]
    Userinfo,
    #[error("the header Host is not a host")]
    Malformed,
}

/// A request to a host that is not known as a name of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignHost {
    pub name: String,
    /// Whether the request has headers that browsers send.
    pub is_from_browser: bool,
}

/// Returns the host that `request` is addressed to, if it is a foreign one: neither an IP address nor `localhost`, and
/// `is_known` does not know it.
///
/// # Errors
/// A request without a valid host, to be answered with 400.
pub(super) fn foreign_host<B>(
    request: &Request<B>,
    is_known: impl FnOnce(&str) -> bool,
) -> Result<Option<ForeignHost>, InvalidHost> {
    let Some(authority) = requested_authority(request)? else { return Ok(None) };
    let foreign = |name: &str| {
        Ok(Some(ForeignHost { name: name.to_owned(), is_from_browser: is_from_browser(request.headers()) }))
    };
    match Host::parse(authority.host()) {
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => Ok(None),
        Ok(Host::Domain(domain)) => {
            let HostName(name) = HostName::new(&domain);
            let is_loopback = name == "localhost" || name.ends_with(".localhost");
            if is_loopback || is_machine_name(&name) || is_known(&name) { Ok(None) } else { foreign(&name) }
        }
        Err(_) => foreign(authority.host()),
    }
}

/// Marks a request that a page of another site sent, by the visitor's browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForeignOrigin;

/// Returns whether a page of another origin sent `request`: one with another host or port than the request is addressed to,
/// unless `is_known` knows its host. A browser names the origin with every POST and PUT. Source: the Fetch standard, 3.2.
pub(super) fn has_foreign_origin<B>(request: &Request<B>, is_known: impl FnOnce(&str) -> bool) -> bool {
    let headers = request.headers();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        // A browser that conceals the origin still says whether it is another one.
        let site = headers.get("sec-fetch-site");
        return site.is_some_and(|site| site != "same-origin" && site != "none");
    };
    let origin =
        origin.to_str().ok().and_then(|origin| origin.parse::<Url>().ok()).filter(|_| origins.next().is_none());
    // `null` is the origin of files and sandboxes.
    let Some((origin, host)) = origin.as_ref().and_then(|origin| Some((origin, origin.host_str()?))) else {
        return true;
    };
    let is_same = requested_authority(request).ok().flatten().is_some_and(|requested| {
        let default =
            Url::parse(&format!("{}://host/", origin.scheme())).ok().and_then(|url| url.port_or_known_default());
        requested.host().eq_ignore_ascii_case(host)
            && requested.port_u16().or(default) == origin.port_or_known_default()
    });
    !is_same && !is_known(host)
}

/// Returns the authority of an absolute target, otherwise that of `Host`; `None` if neither names a host.
fn requested_authority<B>(request: &Request<B>) -> Result<Option<Authority>, InvalidHost> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(InvalidHost::Repeated),
        (None, _) if request.version() >= Version::HTTP_11 => return Err(InvalidHost::Missing),
        (None, _) => None,
        // Empty where the target has no host.
        (Some(host), None) if host.is_empty() => None,
        (Some(host), None) => {
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()).filter(has_valid_port);
            Some(host.ok_or(InvalidHost::Malformed)?)
        }
    };
    let target = request.uri().authority();
    if target.into_iter().chain(&host).any(|authority| authority.as_str().contains('@')) {
        return Err(InvalidHost::Userinfo);
    }
    Ok(target.cloned().or(host))
}

/// Returns whether what follows the host is a port, if there is one: the parser takes any text for it. It may be empty.
/// Source: RFC 3986, 3.2.3.
fn has_valid_port(authority: &Authority) -> bool {
    let (_, host_and_port) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    let port = host_and_port.strip_prefix(authority.host()).unwrap_or_default();
    let is_valid = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    matches!(port, "" | ":") || port.strip_prefix(':').is_some_and(is_valid)
}

fn is_from_browser(headers: &HeaderMap) -> bool {
    BROWSER_HEADERS.iter().any(|name| headers.contains_key(name))
        || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
}

/// Returns whether `name` is the host name of this machine, which may change while it runs.
fn is_machine_name(name: &str) -> bool {
    rustix::system::uname().nodename().to_str().is_ok_and(|machine| machine.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(request: Request<()>) -> Result<Option<String>, InvalidHost> {
        let known = |name: &str| name == "known.example";
        foreign_host(&request, known).map(|foreign| foreign.map(|foreign| foreign.name))
    }

    fn with_host(host: &str) -> Result<Option<String>, InvalidHost> {
        foreign(Request::get("/metrics").header(header::HOST, host).body(()).unwrap())
    }

    #[test]
    fn addresses_localhost_and_known_names_are_not_foreign() {
        let machine = rustix::system::uname().nodename().to_str().unwrap().to_uppercase();
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "localhost.",
            "bridge.localhost:80",
            "127.0.0.1:9090",
            "192.0.2.1",
            "[2001:db8::1]:9090",
            "known.example",
            "Known.Example.:443",
            "localhost:",
            "",
            &machine,
        ] {
            assert_eq!(with_host(host), Ok(None), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "a.known.example"]
        {
            assert_eq!(with_host(host), Ok(Some(host.to_owned())));
            assert_eq!(with_host(&format!("{host}:9090")), Ok(Some(host.to_owned())));
        }
    }

    #[test]
    fn invalid_hosts_are_distinguished() {
        assert_eq!(with_host("me@localhost"), Err(InvalidHost::Userinfo));
        assert_eq!(with_host("me:secret@localhost:80"), Err(InvalidHost::Userinfo));
        assert_eq!(with_host("me:secret@localhost"), Err(InvalidHost::Userinfo));
        for host in
            ["a b", "a/b", "[::1", "http://localhost", "localhost:a", "localhost:+1", "localhost:65536", "[::1]:a"]
        {
            assert_eq!(with_host(host), Err(InvalidHost::Malformed), "{host}");
        }
        assert_eq!(foreign(Request::get("/").body(()).unwrap()), Err(InvalidHost::Missing));
        let old = Request::get("/").version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(foreign(old), Ok(None));
        let twice = Request::get("/").header(header::HOST, "localhost").header(header::HOST, "localhost");
        assert_eq!(foreign(twice.version(Version::HTTP_10).body(()).unwrap()), Err(InvalidHost::Repeated));
    }

    #[test]
    fn the_authority_of_an_absolute_target_counts() {
        let to = |target: &str, host: &str| foreign(Request::get(target).header(header::HOST, host).body(()).unwrap());
        assert_eq!(to("http://evil.example/metrics", "localhost"), Ok(Some("evil.example".to_owned())));
        assert_eq!(to("http://localhost/metrics", "evil.example"), Ok(None));
        assert_eq!(to("http://me@localhost/metrics", "localhost"), Err(InvalidHost::Userinfo));
        assert_eq!(to("http://localhost/metrics", "me@localhost"), Err(InvalidHost::Userinfo));
    }

    #[test]
    fn each_header_of_a_browser_is_one_of_its_marks() {
        let is_from_browser = |name: &str| {
            let request = Request::get("/").header(header::HOST, "evil.example").header(name, "").body(()).unwrap();
            foreign_host(&request, |_| false).unwrap().unwrap().is_from_browser
        };
        for mark in ["origin", "referer", "accept-language", "sec-fetch-mode", "sec-fetch-site"] {
            assert!(is_from_browser(mark), "{mark}");
        }
        for other in ["user-agent", "accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds"] {
            assert!(!is_from_browser(other), "{other}");
        }
    }

    #[test]
    fn an_origin_is_that_of_the_request_or_foreign() {
        let is_foreign = |headers: &[(&str, &str)]| {
            let request = Request::post("/-/reload").header(header::HOST, "localhost:9090");
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            has_foreign_origin(&request.body(()).unwrap(), |name| name == "known.example")
        };
        for own in [
            &[][..],
            &[("origin", "http://localhost:9090")],
            &[("origin", "https://LOCALHOST:9090")],
            &[("origin", "https://known.example")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!is_foreign(own), "{own:?}");
        }
        for foreign in [
            &[("origin", "http://localhost:3000")][..],
            &[("origin", "http://localhost")],
            &[("origin", "http://127.0.0.1:9090")],
            &[("origin", "http://192.0.2.1")],
            &[("origin", "https://evil.example")],
            &[("origin", "http://localhost:9090.evil.example")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://localhost:9090"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert!(is_foreign(foreign), "{foreign:?}");
        }
    }

    #[test]
    fn only_a_host_name_is_one() {
        use HostNameError as E;
        let read = |text: &str| text.parse::<HostName>().map(|HostName(name)| name);
        assert_eq!(read("Metrics.Example."), Ok("metrics.example".to_owned()));
        assert_eq!(read("bücher.example"), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(read("my_host-1"), Ok("my_host-1".to_owned()));
        assert_eq!(read("metrics.example:443"), Err(E::Port));
        assert_eq!(read("127.0.0.1"), Err(E::Address));
        assert_eq!(read("[::1]"), Err(E::Address));
        for text in ["", "*", "*.example", "https://metrics.example", "a/b", "a b", "me@metrics.example", ":80"] {
            assert_eq!(read(text), Err(E::Malformed), "{text}");
        }
    }
}
