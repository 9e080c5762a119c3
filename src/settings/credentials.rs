//! Builder of credentials, from flags and from the environment.
//!
//! Secrets are in files or variables, because every user of a machine can read its command lines.

use std::ffi::OsString;
use std::path::PathBuf;

use super::flags::{CredentialFlags, JWT_SECRET_VARIABLE, TOKEN_VARIABLE};
use super::{SettingsError, check_path};
use crate::feed::{
    ClientIdentity, Credential, CredentialError, Credentials, Minting, Secret, SecretSource, TOKEN_LIFETIME, TlsFiles,
    TokenSource,
};

const TOKEN_FILE: &str = "--feed.token-file";
const JWT_SECRET_FILE: &str = "--feed.jwt-secret-file";
const HEADERS_FILE: &str = "--feed.headers-file";
const CA_FILE: &str = "--feed.ca-file";
const CERT_FILE: &str = "--feed.cert-file";
const KEY_FILE: &str = "--feed.key-file";

/// Reads each file, so that what cannot be used is refused now.
pub(super) fn read(
    flags: CredentialFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Credentials, SettingsError> {
    let CredentialFlags { token_file, jwt_secret_file, headers_file, ca_file, cert_file, key_file } = flags;
    let paths = [
        (TOKEN_FILE, &token_file),
        (JWT_SECRET_FILE, &jwt_secret_file),
        (HEADERS_FILE, &headers_file),
        (CA_FILE, &ca_file),
        (CERT_FILE, &cert_file),
        (KEY_FILE, &key_file),
    ];
    for (setting, path) in paths {
        path.iter().try_for_each(|path| check_path(setting, path))?;
    }
    let minted = |secret| TokenSource::Minted(Minting { secret, lifetime: TOKEN_LIFETIME });
    let token = variable(TOKEN_VARIABLE, environment)?.map(|token| token.trim().to_owned());
    let secret = variable(JWT_SECRET_VARIABLE, environment)?;
    let sources = [
        (TOKEN_VARIABLE, token.map(|token| TokenSource::Static(Secret::new(token)))),
        (TOKEN_FILE, token_file.map(TokenSource::File)),
        (JWT_SECRET_VARIABLE, secret.map(|secret| minted(SecretSource::Static(Secret::new(secret))))),
        (JWT_SECRET_FILE, jwt_secret_file.map(|file| minted(SecretSource::File(file)))),
    ];
    let mut given = sources.into_iter().filter_map(|(setting, source)| Some((setting, source?)));
    let (first, second) = (given.next(), given.next());
    if let (Some((first, _)), Some((second, _))) = (&first, second) {
        return Err(SettingsError::ConflictingTokens { first, second });
    }
    let identity = client_identity((CERT_FILE, cert_file), (KEY_FILE, key_file))?;
    let tls = TlsFiles { ca: ca_file, identity };
    let credentials = Credentials { token: first.map(|(_, source)| source), headers_file, tls };
    match credentials.check() {
        Ok(()) => Ok(credentials),
        Err(error) => Err(SettingsError::Credential { setting: setting(&error), error }),
    }
}

/// Returns the client certificate that two flags, given by their names, configure.
///
/// # Errors
/// One flag without the other.
pub(crate) fn client_identity(
    (cert_flag, certificate): (&'static str, Option<PathBuf>),
    (key_flag, key): (&'static str, Option<PathBuf>),
) -> Result<Option<ClientIdentity>, SettingsError> {
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(ClientIdentity { certificate, key })),
        (Some(_), None) => Err(SettingsError::IncompleteClientIdentity { given: cert_flag, missing: key_flag }),
        (None, Some(_)) => Err(SettingsError::IncompleteClientIdentity { given: key_flag, missing: cert_flag }),
    }
}

/// Returns the first flag that concerns TLS only.
pub(super) fn tls_flag(tls: &TlsFiles) -> Option<&'static str> {
    tls.ca.as_ref().map(|_| CA_FILE).or(tls.identity.as_ref().map(|_| CERT_FILE))
}

/// Returns the value of a variable that has no flag; an empty one counts as unset.
fn variable(
    name: &'static str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, SettingsError> {
    let value = environment(name).map(OsString::into_string).transpose();
    let value = value.map_err(|_| SettingsError::NotUtf8 { variable: name })?;
    Ok(value.filter(|value| !value.trim().is_empty()))
}

fn setting(error: &CredentialError) -> &'static str {
    match (error.credential, &error.file) {
        (Credential::Token, None) => TOKEN_VARIABLE,
        (Credential::Token, Some(_)) => TOKEN_FILE,
        (Credential::JwtSecret, None) => JWT_SECRET_VARIABLE,
        (Credential::JwtSecret, Some(_)) => JWT_SECRET_FILE,
        // A feed has no basic auth file.
        (Credential::Headers | Credential::BasicAuth, _) => HEADERS_FILE,
        (Credential::Ca, _) => CA_FILE,
        (Credential::Certificate, _) => CERT_FILE,
        (Credential::Key, _) => KEY_FILE,
    }
}
