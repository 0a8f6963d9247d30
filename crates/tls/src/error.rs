//! Why did a handshake fail, and which of Envoy's counters and texts tell it?
//!
//! Returned by the contexts; `l4` and `upstream` count it and put it into access logs as
//! `DOWNSTREAM_TRANSPORT_FAILURE_REASON` and `UPSTREAM_TRANSPORT_FAILURE_REASON`.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use crate::verify::Refused;

/// A handshake that did not happen or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A secret has not been delivered yet (`*_context_secrets_not_ready`).
    #[error("TLS secret is not supplied by SDS")]
    SecretNotReady,
    /// A delivered secret is of the wrong kind.
    #[error("secret {0} is not of the expected type")]
    WrongSecret(Arc<str>),
    /// A server context without certificate.
    #[error("no TLS certificate")]
    NoCertificate,
    /// The SNI to send is no host name.
    #[error("invalid SNI {0:?}")]
    InvalidSni(String),
    /// rustls refused the parameters.
    #[error("TLS configuration: {0}")]
    Config(rustls::Error),
    /// The peer's certificate was refused after the handshake.
    #[error("verify cert failed: {0}")]
    Refused(Refused),
    /// TLS failed: our side or the peer's alert.
    #[error("TLS error: {0}")]
    Tls(rustls::Error),
    /// The connection failed below TLS.
    #[error(transparent)]
    Io(io::Error),
}

/// Which counter of `ssl.*` a failure moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `downstream_context_secrets_not_ready` or `upstream_context_secrets_not_ready`.
    SecretsNotReady,
    /// `ssl.fail_verify_no_cert`.
    NoCert,
    /// `ssl.fail_verify_error`.
    VerifyError,
    /// `ssl.fail_verify_san`.
    VerifySan,
    /// `ssl.fail_verify_cert_hash`.
    VerifyHash,
    /// `ssl.connection_error` only.
    ConnectionError,
    /// The peer went away: none.
    Io,
}

impl HandshakeError {
    /// Sorts an error of the session into TLS and the rest.
    pub(crate) fn from_io(e: io::Error) -> Self {
        match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => HandshakeError::Tls(tls.clone()),
            None => HandshakeError::Io(e),
        }
    }

    /// Which counter this failure moves.
    pub fn failure(&self) -> Failure {
        match self {
            Self::SecretNotReady | Self::WrongSecret(_) | Self::NoCertificate => Failure::SecretsNotReady,
            Self::InvalidSni(_) | Self::Config(_) => Failure::ConnectionError,
            Self::Refused(r) => refused(r),
            Self::Io(_) => Failure::Io,
            Self::Tls(rustls::Error::NoCertificatesPresented) => Failure::NoCert,
            Self::Tls(rustls::Error::InvalidCertificate(e)) => match refusal(e) {
                Some(r) => refused(r),
                None => Failure::VerifyError,
            },
            Self::Tls(_) => Failure::ConnectionError,
        }
    }

    /// The text Envoy would log as transport failure reason. Empty when the peer just went away.
    pub fn transport_failure_reason(&self) -> String {
        const PREFIX: &str = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED";
        match self {
            Self::Io(_) => String::new(),
            Self::Refused(r) => format!("{PREFIX}:verify cert failed: {r}:TLS_error_end"),
            Self::Tls(rustls::Error::InvalidCertificate(e)) => match refusal(e) {
                Some(r) => format!("{PREFIX}:verify cert failed: {r}:TLS_error_end"),
                None => format!(
                    "{PREFIX}:verify cert failed: X509_verify_cert: certificate verification error at depth 0: {}:TLS_error_end",
                    openssl_words(e)
                ),
            },
            Self::Tls(rustls::Error::NoCertificatesPresented) => {
                "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate:TLS_error_end"
                    .into()
            }
            Self::Tls(rustls::Error::AlertReceived(alert)) => alert_text(*alert),
            Self::Tls(rustls::Error::InvalidMessage(_)) => {
                "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end".into()
            }
            Self::Tls(rustls::Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig)) => {
                "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end".into()
            }
            Self::Tls(
                rustls::Error::InappropriateMessage { .. } | rustls::Error::InappropriateHandshakeMessage { .. },
            ) => "TLS_error:|268435679:SSL routines:OPENSSL_internal:UNEXPECTED_MESSAGE:TLS_error_end".into(),
            Self::Tls(e) => format!("TLS_error:|{e}:TLS_error_end"),
            e => e.to_string(),
        }
    }
}

fn refused(r: &Refused) -> Failure {
    match r {
        Refused::San(_) => Failure::VerifySan,
        Refused::Hash => Failure::VerifyHash,
    }
}

fn refusal(e: &CertificateError) -> Option<&Refused> {
    match e {
        CertificateError::Other(other) => other.0.downcast_ref::<Refused>(),
        _ => None,
    }
}

fn openssl_words(e: &CertificateError) -> String {
    match e {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not yet valid".into()
        }
        CertificateError::Revoked => "certificate revoked".into(),
        CertificateError::UnknownIssuer => "unable to get local issuer certificate".into(),
        CertificateError::BadSignature => "certificate signature failure".into(),
        CertificateError::InvalidPurpose => "unsupported certificate purpose".into(),
        e => e.to_string(),
    }
}

/// BoringSSL's code and name for an alert the peer sent.
fn alert_text(alert: AlertDescription) -> String {
    let name = match alert {
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UnrecognisedName => "TLSV1_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        other => return format!("TLS_error:|alert {other:?}:TLS_error_end"),
    };
    // ERR_PACK(ERR_LIB_SSL = 16, SSL_R_*_ALERT = 1000 + alert number).
    let code = (16u32 << 24) + 1000 + u32::from(u8::from(alert));
    format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{name}:TLS_error_end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_boringssl_codes() {
        let e = HandshakeError::Tls(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown));
        assert_eq!(
            e.transport_failure_reason(),
            "TLS_error:|268436502:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end"
        );
    }
}
