//! Tokens, and their sources.

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

impl TokenSource {
    /// Reads or mints the token.
    pub(super) fn read(&self) -> Result<Secret, CredentialError> {
        match self {
            TokenSource::Static(secret) => checked(Credential::Token, secret.expose().trim(), None),
            TokenSource::File(file) => {
                let text = Credential::Token.text(file, TOKEN_BYTES_MAX)?;
                checked(Credential::Token, text.trim(), Some(file))
            }
            TokenSource::Minted(Minting { secret, lifetime }) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok(mint(&secret.read()?, *lifetime, now))
            }
        }
    }
}

impl SecretSource {
    fn read(&self) -> Result<Secret, CredentialError> {
        match self {
            SecretSource::Static(secret) => checked(Credential::JwtSecret, secret.expose(), None),
            SecretSource::File(file) => {
                let text = Credential::JwtSecret.text(file, TOKEN_BYTES_MAX)?;
                checked(Credential::JwtSecret, text.trim_end_matches(['\n', '\r']), Some(file))
            }
        }
    }
}

fn checked(credential: Credential, text: &str, file: Option<&Path>) -> Result<Secret, CredentialError> {
    let problem = match () {
        () if text.trim().is_empty() => CredentialProblem::Empty(credential),
        () if text.len() > TOKEN_BYTES_MAX => CredentialProblem::TooLong { bytes_max: TOKEN_BYTES_MAX },
        () => return Ok(Secret::new(text)),
    };
    Err(credential.wrong(file, problem))
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
            assert_eq!(source.read().unwrap().expose(), token);
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
        assert_eq!(SecretSource::File(file.clone()).read().unwrap().expose(), " a b ");
        std::fs::write(&file, "\n").unwrap();
        let empty = SecretSource::File(file.clone()).read().unwrap_err();
        assert_eq!(
            (empty.credential, empty.problem),
            (Credential::JwtSecret, CredentialProblem::Empty(Credential::JwtSecret))
        );
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
