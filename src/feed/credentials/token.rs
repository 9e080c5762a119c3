//! Tokens, and their sources.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use serde_json::json;

use super::{Credential, CredentialError, CredentialProblem, Secret};

/// Longest token, and longest secret to sign one with, in bytes. A token of this length, escaped for JSON, fits the write
/// buffer of a connection.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Lifetime of a minted token: long enough for a slow connect, and for a server whose clock is ahead.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(120);

/// How far the clock of a server may be behind that still accepts a minted token.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The client's name in the server's log.
const USER_ID: &str = "session-buddy-bridge";
const PERMISSIONS: [&str; 1] = ["session-buddy:read"];

/// The source of a feed's token.
///
/// ```
/// use session_buddy_bridge::settings::{Credentials, TokenSource};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("token");
/// std::fs::write(&path, "eyJhbGciOiJIUzI1NiJ9\n").unwrap();
/// let credentials = Credentials { token: Some(TokenSource::File(path)), ..Credentials::default() };
/// assert_eq!(credentials.check(), Ok(()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A fixed token.
    Static(Secret),
    /// A regular file, read again at each connect, because tokens expire and are only checked then. White space around the
    /// token is ignored.
    File(PathBuf),
    /// A new token at each connect.
    Minted(Minting),
}

/// How tokens are minted: as by the server's own package, JWT with HS256 and the permission to read.
///
/// ```
/// use session_buddy_bridge::settings::{Minting, SecretSource, TOKEN_LIFETIME, TokenSource};
///
/// let secret = SecretSource::File("/etc/example/jwt-secret".into());
/// let token = TokenSource::Minted(Minting { secret, lifetime: TOKEN_LIFETIME });
/// # drop(token);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minting {
    /// The secret that the server verifies signatures with.
    pub secret: SecretSource,
    /// Lifetime of each token, in whole seconds. [`TOKEN_LIFETIME`] unless there is a reason.
    pub lifetime: Duration,
}

/// The source of the secret that tokens are signed with.
///
/// ```
/// use session_buddy_bridge::settings::{Credential, Credentials, Minting, Secret, SecretSource, TOKEN_LIFETIME, TokenSource};
///
/// let minting = Minting { secret: SecretSource::Static(Secret::new(" ")), lifetime: TOKEN_LIFETIME };
/// let credentials = Credentials { token: Some(TokenSource::Minted(minting)), ..Credentials::default() };
/// assert_eq!(credentials.check().unwrap_err().credential, Credential::JwtSecret);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A fixed secret.
    Static(Secret),
    /// A regular file, read again at each connect. Line breaks at its end are not part of the secret; other white space is, as
    /// for the server.
    File(PathBuf),
}

/// Where a token that was presented is from. `Display` says what to check if the server refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenOrigin {
    /// No token was presented.
    #[default]
    NotConfigured,
    /// It was made elsewhere.
    Given,
    /// It was signed with a secret.
    Minted(Option<SecretDoubt>),
}

/// What may make a secret another than the server's copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretDoubt {
    /// Its file ends in a line break, which is left out here and may not be by the server.
    LineBreak,
    /// It is in quotes, which are part of it here.
    Quotes,
    /// It starts as the header of a token does.
    Bearer,
}

impl fmt::Display for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Short, since the log cuts long messages off.
        f.write_str(match self {
            TokenOrigin::NotConfigured => "no token is configured; give --feed.token-file, or --feed.jwt-secret-file",
            TokenOrigin::Given => {
                "check the token: it expired, or is signed with another secret than the server's; and the clocks"
            }
            TokenOrigin::Minted(None) => "check the secret and the clocks",
            TokenOrigin::Minted(Some(SecretDoubt::LineBreak)) => {
                "check the secret (its file ends in a line break, the server's copy must not) and the clocks"
            }
            TokenOrigin::Minted(Some(SecretDoubt::Quotes)) => {
                "check the secret (it is in quotes, which are part of it) and the clocks"
            }
            TokenOrigin::Minted(Some(SecretDoubt::Bearer)) => {
                "check the secret (it starts with \"Bearer \": is it a token?) and the clocks"
            }
        })
    }
}

impl TokenSource {
    /// Reads or mints the token.
    pub(super) fn read(&self) -> Result<(Secret, TokenOrigin), CredentialError> {
        let given = |token| (token, TokenOrigin::Given);
        match self {
            TokenSource::Static(secret) => checked(Credential::Token, secret.expose().trim(), None).map(given),
            TokenSource::File(file) => {
                let text = Credential::Token.text(file, TOKEN_BYTES_MAX)?;
                checked(Credential::Token, text.trim(), Some(file)).map(given)
            }
            TokenSource::Minted(Minting { secret, lifetime }) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let (secret, doubt) = secret.read()?;
                Ok((mint(&secret, *lifetime, now), TokenOrigin::Minted(doubt)))
            }
        }
    }
}

impl SecretSource {
    fn read(&self) -> Result<(Secret, Option<SecretDoubt>), CredentialError> {
        let (secret, ends_in_line_break) = match self {
            SecretSource::Static(secret) => (checked(Credential::JwtSecret, secret.expose(), None)?, false),
            SecretSource::File(file) => {
                let text = Credential::JwtSecret.text(file, TOKEN_BYTES_MAX)?;
                let secret = text.trim_end_matches(['\n', '\r']);
                (checked(Credential::JwtSecret, secret, Some(file))?, secret.len() < text.len())
            }
        };
        let doubt = match secret.expose() {
            text if is_bearer(text) => Some(SecretDoubt::Bearer),
            text if is_quoted(text) => Some(SecretDoubt::Quotes),
            _ => ends_in_line_break.then_some(SecretDoubt::LineBreak),
        };
        Ok((secret, doubt))
    }
}

fn checked(credential: Credential, text: &str, file: Option<&Path>) -> Result<Secret, CredentialError> {
    let is_token = credential == Credential::Token;
    let problem = match () {
        () if text.trim().is_empty() => CredentialProblem::Empty(credential),
        () if text.len() > TOKEN_BYTES_MAX => CredentialProblem::TooLong { bytes_max: TOKEN_BYTES_MAX },
        () if text.starts_with('\u{feff}') => CredentialProblem::ByteOrderMark,
        // No token has either. A secret may.
        () if is_token && is_quoted(text) => CredentialProblem::Quoted,
        () if is_token && is_bearer(text) => CredentialProblem::Bearer,
        () => return Ok(Secret::new(text)),
    };
    Err(credential.wrong(file, problem))
}

fn is_quoted(text: &str) -> bool {
    let text = text.trim();
    text.len() > 1 && ['"', '\''].iter().any(|quote| text.starts_with(*quote) && text.ends_with(*quote))
}

fn is_bearer(text: &str) -> bool {
    text.trim_start().get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "))
}

/// Mints a token at `now` since the Unix epoch. Servers refuse tokens that were issued later than their own clock.
fn mint(secret: &Secret, lifetime: Duration, now: Duration) -> Secret {
    let issued_at = now.saturating_sub(CLOCK_SKEW).as_secs();
    let expires_at = now.saturating_add(lifetime).as_secs();
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let claims = json!({ "user_id": USER_ID, "permissions": PERMISSIONS, "iat": issued_at, "exp": expires_at });
    let encoded = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let signed = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    Secret::new(format!("{signed}.{}", encoded(signature.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_source_is_printed_but_its_file() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{:?}", TokenSource::Static(secret.clone())), "Static(***)");
        let minted = TokenSource::Minted(Minting { secret: SecretSource::Static(secret), lifetime: TOKEN_LIFETIME });
        assert_eq!(format!("{minted:?}"), "Minted(Minting { secret: Static(***), lifetime: 120s })");
    }

    #[test]
    fn a_file_is_read_again_and_trimmed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let source = TokenSource::File(file.clone());
        for token in ["first", "second"] {
            std::fs::write(&file, format!("  {token}\n")).unwrap();
            assert_eq!(source.read().unwrap(), (Secret::new(token), TokenOrigin::Given));
        }
        std::fs::write(&file, " \n").unwrap();
        assert_eq!(
            source.read().unwrap_err().to_string(),
            format!("the token file \"{}\" is empty: write the token into it", file.display())
        );
        std::fs::write(&file, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
        assert_eq!(source.read().unwrap_err().problem, CredentialProblem::TooLong { bytes_max: TOKEN_BYTES_MAX });
    }

    #[test]
    fn of_a_secret_only_the_line_break_at_its_end_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, " a b \r\n").unwrap();
        let read = || SecretSource::File(file.clone()).read().unwrap();
        assert_eq!(read(), (Secret::new(" a b "), Some(SecretDoubt::LineBreak)));
        for (text, doubt) in [
            ("secret", None),
            ("\"secret\"\n", Some(SecretDoubt::Quotes)),
            ("Bearer ey.ey.x\n", Some(SecretDoubt::Bearer)),
            ("\"", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read(), (Secret::new(text.trim_end()), doubt));
        }
        std::fs::write(&file, "\n").unwrap();
        let empty = SecretSource::File(file.clone()).read().unwrap_err();
        assert_eq!(
            (empty.credential, empty.problem),
            (Credential::JwtSecret, CredentialProblem::Empty(Credential::JwtSecret))
        );
    }

    #[test]
    fn what_editors_and_copied_headers_add_to_a_token_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let refused = |text: &[u8]| {
            std::fs::write(&file, text).unwrap();
            let error = TokenSource::File(file.clone()).read().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            error.problem
        };
        assert_eq!(refused("\u{feff}hunter2".as_bytes()), CredentialProblem::ByteOrderMark);
        assert_eq!(refused(b"\"hunter2\"\n"), CredentialProblem::Quoted);
        assert_eq!(refused(b"'hunter2'"), CredentialProblem::Quoted);
        assert_eq!(refused(b"bearer  hunter2"), CredentialProblem::Bearer);
        assert_eq!(refused(b"\xff\xfeh\0u\0"), CredentialProblem::Utf16);
        let value = |text: &str| TokenSource::Static(Secret::new(text)).read().unwrap_err().problem;
        assert_eq!(value("Bearer hunter2"), CredentialProblem::Bearer);
        assert_eq!(value("\u{feff}hunter2"), CredentialProblem::ByteOrderMark);
        std::fs::write(&file, "\u{feff}hunter2").unwrap();
        assert_eq!(SecretSource::File(file.clone()).read().unwrap_err().problem, CredentialProblem::ByteOrderMark);
    }

    /// Source of the expected token: PyJWT with the same header, claims and secret.
    #[test]
    fn a_token_is_what_others_make_of_the_same_claims() {
        let token = mint(
            &Secret::new("a secret of more than thirty-two bytes"),
            TOKEN_LIFETIME,
            Duration::from_secs(1_800_000_060),
        );
        assert_eq!(
            token.expose(),
            concat!(
                "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE4MDAwMDAxODAsImlhdCI6MTgwMDAwMDAwMCwicGVybWlzc2lvbnMiOlsi",
                "c2Vzc2lvbi1idWRkeTpyZWFkIl0sInVzZXJfaWQiOiJzZXNzaW9uLWJ1ZGR5LWJyaWRnZSJ9.",
                "Zg_hKbSK4x55_izeTQ7jfsqVU0jhiqJjXMRWdhN88Gw"
            )
        );
    }
}
