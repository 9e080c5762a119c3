//! Tokens, and where they come from.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use serde_json::json;

use super::{Credential, CredentialError, CredentialProblem, Secret};

/// The longest token that is sent, and the longest secret to sign one with, in bytes. A token of this length still fits
/// the connection's write buffer once it is escaped for JSON.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How long a minted token is good for: long enough for a slow connect and for a server whose clock is as far ahead.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(120);

/// How far the clock of a server may be behind that still takes a minted token for one of its past.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What the server's log calls this client.
const USER_ID: &str = "session-buddy-bridge";
const PERMISSIONS: [&str; 1] = ["session-buddy:read"];

/// Where a feed's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A token that stays the same as long as the process runs.
    Static(Secret),
    /// A regular file that is read again at each connect, because tokens expire and are checked at connect only.
    /// White space around the token is ignored.
    File(PathBuf),
    /// A new token at each connect.
    Minted(Minting),
}

/// Tokens made here, as the server's own package makes them: JWT, HS256, with the right to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minting {
    /// What the server checks signatures with.
    pub secret: SecretSource,
    /// How long each token is good for, in whole seconds. [`TOKEN_LIFETIME`] unless there is a reason.
    pub lifetime: Duration,
}

/// Where the secret comes from that tokens are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// One that stays the same as long as the process runs.
    Static(Secret),
    /// A regular file that is read again at each connect. Line breaks at its end are no part of the secret; any other
    /// white space is, as it is to the server.
    File(PathBuf),
}

impl TokenSource {
    /// The token as it is now.
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

/// `now` since 1970. The server refuses a token that was issued after what its own clock says.
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

    /// What PyJWT makes of the same header, claims and secret.
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
