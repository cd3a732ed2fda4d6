//! The client with which verbs ask an exporter that runs.

use std::{io, sync::Arc, time::Duration};

use rustls::crypto::aws_lc_rs;
use ureq::{
    Agent, Error,
    tls::{RootCerts, TlsConfig},
};

/// How long an answer may take: longer than the exporter itself waits for anything.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client that takes every status as an answer, follows no redirection, and believes the
/// authorities that this machine believes.
pub(super) fn agent() -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .tls_config(tls)
        .build()
        .into()
}

/// Why there was no answer, and what to do about it. `listener` is one of the exporter's.
pub(super) fn no_answer(url: &str, listener: &str, error: &Error) -> String {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
            "nothing listens at {url}: the connection was refused; start the exporter, or give the \
             address of its {listener} listener (--{listener}.listen-address) by --url"
        ),
        Error::HostNotFound => format!("no machine has the name in {url}; look at --url"),
        Error::Timeout(_) => format!("{url} did not answer within {} s", TIMEOUT.as_secs()),
        Error::BadUri(_) | Error::Http(_) => {
            format!(
                "--url is not the address of a listener, such as http://127.0.0.1:10878: {error}"
            )
        }
        Error::Rustls(_) | Error::Tls(_) => format!(
            "no TLS connection to {url}: {error}; if its certificate is of your own authority, \
             name that in the variable SSL_CERT_FILE"
        ),
        _ => format!("no answer of {url}: {error}; look whether an exporter listens there"),
    }
}
