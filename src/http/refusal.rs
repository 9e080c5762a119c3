//! Why a client is refused.

/// Why a connection or a request was refused by access control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A request without a user, or with a wrong password: 401.
    Unauthorized,
    /// A login that was given up because too many others waited: 503.
    TooManyLogins,
    /// A connection without a certificate that is required, or with one that is not trusted or has no allowed name.
    ClientCertificate,
    /// A connection on which something else than TLS was sent.
    PlainHttp,
    /// A TLS handshake that failed for another reason, such as a version or the client's distrust.
    TlsHandshake,
    /// A request of a browser under a name that is not this server's: 421.
    ForeignHost,
    /// A request without a valid host, or with two: 400.
    InvalidHost,
    /// A request that a page of another site sent, to a path that changes something: 403.
    ForeignOrigin,
}

impl Refusal {
    /// Every refusal, in the order of its variants.
    pub const ALL: [Self; 8] = [
        Self::Unauthorized,
        Self::TooManyLogins,
        Self::ClientCertificate,
        Self::PlainHttp,
        Self::TlsHandshake,
        Self::ForeignHost,
        Self::InvalidHost,
        Self::ForeignOrigin,
    ];

    /// Returns the label of the refusal in metrics and in the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::TooManyLogins => "too_many_logins",
            Self::ClientCertificate => "client_certificate",
            Self::PlainHttp => "plain_http",
            Self::TlsHandshake => "tls_handshake",
            Self::ForeignHost => "foreign_host",
            Self::InvalidHost => "invalid_host",
            Self::ForeignOrigin => "foreign_origin",
        }
    }
}
