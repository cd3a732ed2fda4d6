//! What the program was told: values that are checked, and where its secrets stand.

mod address;
mod secrets;

use std::{net::IpAddr, path::PathBuf};

use tracing::level_filters::LevelFilter;

pub use address::ListenAddress;
pub(crate) use secrets::variable;
pub use secrets::{Secret, SecretError, SecretPlace, SecretSource, Secrets};

use crate::{domain::ProviderName, providers, telemetry::LogFormat};

/// What the program was told.
#[derive(Debug)]
pub struct Config {
    /// Where `/metrics` and everything else that is private is served.
    pub web_addresses: Vec<ListenAddress>,
    /// Where webhooks are received.
    pub webhook_addresses: Vec<ListenAddress>,
    /// The path of `/metrics`.
    pub telemetry_path: String,
    /// Scrapes at a time; 0 for no limit.
    pub max_requests: usize,
    /// Whether `POST /-/reload` reads the secrets again.
    pub enable_lifecycle: bool,
    /// Connections to the web listeners at a time; 0 for as many as the file descriptors allow.
    pub max_web_connections: usize,
    /// Connections to the webhook listeners at a time, likewise.
    pub max_webhook_connections: usize,
    /// Proxies, which may hold more connections to the webhook listeners than other peers.
    pub trusted_proxies: Vec<IpAddr>,
    /// The folder of the embedded storage, as an absolute path.
    pub storage_path: PathBuf,
    /// How many phone numbers there may be.
    pub max_phone_numbers: usize,
    /// Where secrets may stand.
    pub secrets: Vec<SecretSource>,
    /// The providers of which anybody may send webhooks, where they have no secret.
    pub allow_unauthenticated: Vec<ProviderName>,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Whether phone numbers are logged whole.
    pub log_phone_numbers: bool,
}

/// Why the program cannot start as it was told; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A secret cannot be taken.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// No provider has a secret and none is named, so that every webhook would be refused.
    #[error(
        "no provider is on, so no webhook would be accepted; set the secret of each provider you \
         use ({flags}), or name those whose webhooks anybody may send in \
         --webhook.allow-unauthenticated"
    )]
    NoProvider {
        /// The flags to choose from.
        flags: String,
    },
}

impl Config {
    /// Reads the secrets.
    ///
    /// # Errors
    ///
    /// Where a secret cannot be taken, and where none turns a provider on: a verify token alone
    /// does not, because it proves no webhook, and neither does a listener on loopback, because
    /// nothing in a request tells reliably that a proxy or a tunnel has made loopback public.
    pub fn read_secrets(&self) -> Result<Secrets, ConfigError> {
        let secrets = Secrets::read(&self.secrets)?;
        let has_secret = |name| secrets.proving(name).next().is_some();
        let is_any_on = providers::ALL
            .iter()
            .any(|provider| has_secret(provider.name));
        if is_any_on || !self.allow_unauthenticated.is_empty() {
            return Ok(secrets);
        }
        let first_flag = |provider: &&providers::Provider| {
            let kind = provider.secrets().next()?;
            Some(format!("--{}", kind.flag(provider.name)))
        };
        let flags: Vec<_> = providers::ALL.iter().filter_map(first_flag).collect();
        Err(ConfigError::NoProvider {
            flags: flags.join(", "),
        })
    }
}
