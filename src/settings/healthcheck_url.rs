//! The URL of a health check.

use thiserror::Error;
use url::Url;

/// Why a URL cannot be checked.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HealthcheckUrlError {
    /// Not a URL.
    #[error("is not a URL ({0}): write for example http://127.0.0.1:9090/-/healthy")]
    Malformed(#[source] url::ParseError),
    /// Any other scheme, or none, as in `localhost:9090`.
    #[error("does not start with http:// or https://: write for example http://127.0.0.1:9090/-/healthy")]
    Scheme,
    /// The URL has a user name or a password.
    #[error("contains a user name or password: use --healthcheck.username and --healthcheck.password-file instead")]
    Userinfo,
    /// Port 0.
    #[error("has port 0, to which nobody can connect: give the port of --web.listen-address")]
    Port,
}

pub(crate) fn read(text: &str) -> Result<Url, HealthcheckUrlError> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return Err(HealthcheckUrlError::Scheme),
        Err(error) => return Err(HealthcheckUrlError::Malformed(error)),
    };
    match url.scheme() {
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            Err(HealthcheckUrlError::Userinfo)
        }
        "http" | "https" if url.port() == Some(0) => Err(HealthcheckUrlError::Port),
        "http" | "https" => Ok(url),
        _ => Err(HealthcheckUrlError::Scheme),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_is_told_apart() {
        use HealthcheckUrlError as E;
        assert_eq!(read("http://[::1]:9090/-/healthy").unwrap().as_str(), "http://[::1]:9090/-/healthy");
        assert_eq!(read("http://bridge").unwrap().as_str(), "http://bridge/");
        assert_eq!(read("https://bridge").unwrap().as_str(), "https://bridge/");
        assert_eq!(read("ws://bridge"), Err(E::Scheme));
        assert_eq!(read("localhost:9090"), Err(E::Scheme));
        assert_eq!(read("/-/healthy"), Err(E::Scheme));
        assert_eq!(read("http://me@bridge"), Err(E::Userinfo));
        assert_eq!(read("http://:secret@bridge"), Err(E::Userinfo));
        assert_eq!(read("http://bridge:0"), Err(E::Port));
        assert_eq!(read("http://"), Err(E::Malformed(url::ParseError::EmptyHost)));
        assert_eq!(read("http://bridge:65536"), Err(E::Malformed(url::ParseError::InvalidPort)));
    }
}
