//! What a failure of TLS means, for the one who has to mend it.

use std::io;

use cluster::env::net::Distrust;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// The other end does not speak TLS.
pub(super) const NOT_TLS: Distrust = Distrust("the other end speaks no TLS");

/// The error with words instead of the library's terms, if it is one of TLS.
pub(super) fn explained(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(inner) => told(explain(inner)),
        None => error,
    }
}

pub(super) fn told(why: Distrust) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn explain(error: &Error) -> Distrust {
    Distrust(match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                "the other end's certificate is not signed by the CA that is trusted here"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the other end's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the other end's certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the other end's certificate is for other names than the one dialed"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the other end's certificate is not for this use: nodes need serverAuth and clientAuth"
            }
            _ => "the other end's certificate is not valid",
        },
        Error::NoCertificatesPresented => "the other end gave no certificate",
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "the other end wants a certificate and got none",
            AlertDescription::CertificateExpired => "the other end says that the certificate of this one has expired",
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked => "the other end does not trust the certificate of this one",
            _ => "the other end broke TLS off",
        },
        Error::InvalidMessage(_) => return NOT_TLS,
        Error::PeerIncompatible(_) => "the two ends have no version of TLS or no ciphers in common",
        _ => "TLS failed",
    })
}
