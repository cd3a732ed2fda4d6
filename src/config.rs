//! What the program was told: values that are checked, and the files with more of them.

mod address;
#[cfg(feature = "etcd")]
mod etcd;
mod secrets;
mod tls;
mod web;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::SignedDuration;
use tracing::level_filters::LevelFilter;

pub use address::ListenAddress;
#[cfg(feature = "etcd")]
pub use etcd::EtcdOptions;
pub(crate) use secrets::variable;
pub use secrets::{Secret, SecretError, SecretPlace, SecretSource, Secrets};
pub use web::{Changes, RateLimit, Role, WebConfig, WebConfigError};

use crate::{
    domain::{NumberPrivacy, ProviderName, Pseudonyms},
    providers,
    telemetry::LogFormat,
};

/// The flag that names the file with the key of the pseudonyms.
pub(crate) const PRIVACY_KEY_FILE: &str = "privacy.key-file";

/// A time with its unit, such as `15s` or `100ms`, or `0`, as Prometheus writes durations; `None` where
/// it is something else, or negative.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    match text {
        "0" => Some(Duration::ZERO),
        _ => text.parse::<SignedDuration>().ok()?.try_into().ok(),
    }
}

/// What the program was told.
#[derive(Debug)]
pub struct Config {
    /// Where `/metrics` and everything else that is private is served.
    pub web_addresses: Vec<ListenAddress>,
    /// Where webhooks are received.
    pub webhook_addresses: Vec<ListenAddress>,
    /// Whether systemd passes the sockets, so that no address is bound.
    pub systemd_socket: bool,
    /// The path of `/metrics`.
    pub telemetry_path: String,
    /// How long everything is still answered after a signal to stop, while `/-/ready` is 503.
    pub drain_delay: Duration,
    /// Scrapes at a time; 0 for no limit.
    pub max_requests: usize,
    /// Whether `POST /-/reload` reads the secrets again.
    pub enable_lifecycle: bool,
    /// Whether `DELETE` removes phone numbers and accounts.
    pub enable_admin_api: bool,
    /// How phone numbers are shown on every page.
    pub number_privacy: NumberPrivacy,
    /// The file with the key of the pseudonyms of phone numbers.
    pub privacy_key_file: Option<PathBuf>,
    /// Connections to the web listeners at a time; 0 for as many as the file descriptors allow.
    pub max_web_connections: usize,
    /// Connections to the webhook listeners at a time, likewise.
    pub max_webhook_connections: usize,
    /// What stands before `/webhooks/` where the providers send them, without a slash at the end.
    pub external_url: Option<String>,
    /// Proxies, which may hold more connections to the webhook listeners than other peers.
    pub trusted_proxies: Vec<IpAddr>,
    /// The folder of the embedded storage, as an absolute path.
    pub storage_path: PathBuf,
    /// The storage in etcd, which takes the place of the embedded one.
    #[cfg(feature = "etcd")]
    pub etcd: Option<EtcdOptions>,
    /// How many phone numbers there may be.
    pub max_phone_numbers: usize,
    /// The web configuration file of the private listener.
    pub web_config_file: Option<PathBuf>,
    /// The web configuration file of the public listener.
    pub webhook_config_file: Option<PathBuf>,
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

/// What stands in files and is read again by a reload.
#[derive(Debug)]
pub struct Files {
    /// The providers' secrets.
    pub secrets: Secrets,
    /// How the private listener is protected.
    pub web: Arc<WebConfig>,
    /// How the public listener is protected.
    pub webhook: Arc<WebConfig>,
}

/// Why the program cannot start as it was told; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A secret cannot be taken.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A web configuration cannot be taken.
    #[error(transparent)]
    Web(#[from] WebConfigError),
    /// The key of the pseudonyms is missing.
    #[error(
        "--privacy.phone-numbers needs a key, because a hash without one is undone by trying all \
         numbers; write a long random text into a file and name it in --{PRIVACY_KEY_FILE}"
    )]
    NoPrivacyKey,
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
    /// Reads all files, of which none is taken where one cannot be. The arguments are the web
    /// configurations of both listeners that are in force; at the start they say nothing.
    ///
    /// # Errors
    ///
    /// Where a file cannot be taken, and where no secret turns a provider on: a verify token alone
    /// does not, because it proves no webhook, and neither does a listener on loopback, because
    /// nothing in a request tells reliably that a proxy or a tunnel has made loopback public.
    pub fn read_files(&self, web: &WebConfig, webhook: &WebConfig) -> Result<Files, ConfigError> {
        Ok(Files {
            secrets: self.read_secrets()?,
            web: self.read_web_config(Role::Web, web)?,
            webhook: self.read_web_config(Role::Webhook, webhook)?,
        })
    }

    /// Every mistake in the files and in what turns providers on, a sentence each, where
    /// [`Config::read_files`] stops at the first; and until when certificates are valid.
    pub fn findings(&self) -> (Vec<String>, Vec<String>) {
        let mut findings = Vec::new();
        let mut notes = Vec::new();
        for source in &self.secrets {
            match Secrets::read(std::slice::from_ref(source)) {
                Ok(secrets) => findings.extend(secrets.warnings),
                Err(error) => findings.push(error.to_string()),
            }
        }
        // Where a secret cannot be read, it would turn its provider on.
        if findings.is_empty() {
            findings.extend(self.read_secrets().err().map(|error| error.to_string()));
        }
        findings.extend(self.read_pseudonyms().err().map(|error| error.to_string()));
        for role in [Role::Web, Role::Webhook] {
            match self.read_web_config(role, &WebConfig::default()) {
                Ok(config) => {
                    let of_file = |what: &String| format!("--{}: {what}", role.flag());
                    findings.extend(config.warnings.iter().map(of_file));
                    notes.extend(config.valid_until.as_ref().map(of_file));
                }
                Err(error) => findings.push(error.to_string()),
            }
        }
        (findings, notes)
    }

    /// Reads the web configuration of a listener; it says nothing where there is no file. `before`
    /// is the one that is in force.
    ///
    /// # Errors
    ///
    /// Those of [`WebConfig::read`].
    pub fn read_web_config(
        &self,
        role: Role,
        before: &WebConfig,
    ) -> Result<Arc<WebConfig>, WebConfigError> {
        let file = match role {
            Role::Web => &self.web_config_file,
            Role::Webhook => &self.webhook_config_file,
        };
        let config = file
            .as_ref()
            .map(|path| WebConfig::read(role, path, before));
        Ok(Arc::new(config.transpose()?.unwrap_or_default()))
    }

    /// What is shown in the place of phone numbers, with the key that its file has now; `None` where
    /// they are shown as they are. It is read once, at the start: another key makes other series.
    ///
    /// # Errors
    ///
    /// Where a key is needed and none can be read.
    pub fn read_pseudonyms(&self) -> Result<Option<Pseudonyms>, ConfigError> {
        if self.number_privacy == NumberPrivacy::Plain {
            return Ok(None);
        }
        let path = self.privacy_key_file.as_ref();
        let key = secrets::read_key(PRIVACY_KEY_FILE, path.ok_or(ConfigError::NoPrivacyKey)?)?;
        Ok(self.number_privacy.pseudonyms(&key))
    }

    fn read_secrets(&self) -> Result<Secrets, ConfigError> {
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
