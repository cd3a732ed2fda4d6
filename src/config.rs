//! The command line and the environment, read into what `run` needs.

use std::{
    env::{self, VarError},
    ffi::OsString,
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, builder::ValueParser, error::ErrorKind, value_parser,
};
use secrecy::SecretString;
use tracing::level_filters::LevelFilter;

use crate::{
    providers::{self, Auth},
    telemetry::LogFormat,
};

const ENVIRONMENT: &str = "WHATSAPP_EXPORTER_";

/// What the program was told, checked.
#[derive(Debug)]
pub struct Config {
    /// Where `/metrics` and what else is private is served.
    pub web_addresses: Vec<ListenAddress>,
    /// Where webhooks are received.
    pub webhook_addresses: Vec<ListenAddress>,
    /// The path of `/metrics`.
    pub telemetry_path: String,
    /// Scrapes at a time; 0 for no limit.
    pub max_requests: usize,
    /// The folder of the embedded storage.
    pub storage_path: PathBuf,
    /// How many phone numbers there may be.
    pub max_phone_numbers: usize,
    /// How each provider of [`providers::ALL`] proves who it is, in that order.
    pub providers: Vec<ProviderConfig>,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Whether phone numbers are logged whole.
    pub log_phone_numbers: bool,
    /// Sentences about secrets that are most likely not as they were meant.
    pub warnings: Vec<String>,
}

/// How a provider proves who it is.
#[derive(Debug)]
pub struct ProviderConfig {
    /// [`providers::Provider::name`].
    pub name: &'static str,
    /// App secrets or tokens: any of them will do. Empty where none is configured.
    pub secrets: Vec<SecretString>,
    /// Tokens of the handshake: any of them will do.
    pub verify_tokens: Vec<SecretString>,
    /// Whether it was named in `--webhook.allow-unauthenticated`.
    pub allow_unauthenticated: bool,
}

/// `HOST:PORT` or `:PORT`, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(Vec<SocketAddr>);

/// Why the program cannot start as it was told; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A flag is not one, or its value is not; or help or the version was asked for.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A file with a secret cannot be read.
    #[error("cannot read the secret file {} of --{flag}: {source}", path.display())]
    SecretFile {
        /// The flag.
        flag: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A secret is empty or blank, so that anybody could guess it.
    #[error("the secret of {of} is empty or blank; write the secret to it, or leave it out")]
    SecretBlank {
        /// The flag and its file, or the environment variable.
        of: String,
    },
    /// A secret has a line break in it, most likely because there are two.
    #[error(
        "the secret of {of} has more than one line; there is one secret to a file, and the flag is repeatable for more"
    )]
    SecretLines {
        /// The flag and its file, or the environment variable.
        of: String,
    },
    /// The path of the storage is none.
    #[error("--storage.path {} is no path: {source}", path.display())]
    StoragePath {
        /// What was given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The secret is not UTF-8.
    #[error("the secret of {of} is not UTF-8 text")]
    SecretNotText {
        /// The environment variable.
        of: String,
    },
    /// No provider has a secret and none is named, so that every webhook would be refused.
    #[error(
        "no provider is on, so no webhook would be accepted; set the secret of each provider you use ({flags}), \
         or name those whose webhooks anybody may send in --webhook.allow-unauthenticated"
    )]
    NoProvider {
        /// The flags to choose from.
        flags: String,
    },
}

impl Config {
    /// Reads arguments (the program's name first) and the environment.
    ///
    /// # Errors
    ///
    /// A sentence that says what to set; the exit status is 2.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        Self::from_matches(&command().try_get_matches_from(arguments)?)
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        let allowed: Vec<&String> = many(matches, ALLOW_UNAUTHENTICATED);
        let mut warnings = Vec::new();
        let providers = providers::ALL
            .iter()
            .map(|provider| {
                let name = provider.name();
                let mut secrets = Vec::new();
                let mut verify_tokens = Vec::new();
                for kind in SecretKind::of(provider.auth()) {
                    let read = kind.read(name, matches, &mut warnings)?;
                    if *kind == SecretKind::VerifyToken {
                        verify_tokens.extend(read)
                    } else {
                        secrets.extend(read)
                    }
                }
                let allow_unauthenticated = allowed.iter().any(|allowed| *allowed == name);
                Ok(ProviderConfig {
                    name,
                    secrets,
                    verify_tokens,
                    allow_unauthenticated,
                })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;

        let config = Self {
            web_addresses: many(matches, WEB_LISTEN_ADDRESS)
                .into_iter()
                .cloned()
                .collect(),
            webhook_addresses: many(matches, WEBHOOK_LISTEN_ADDRESS)
                .into_iter()
                .cloned()
                .collect(),
            telemetry_path: one(matches, TELEMETRY_PATH),
            max_requests: one(matches, MAX_REQUESTS),
            storage_path: absolute(one(matches, STORAGE_PATH))?,
            max_phone_numbers: one(matches, MAX_PHONE_NUMBERS),
            log_level: one(matches, LOG_LEVEL),
            log_format: one(matches, LOG_FORMAT),
            log_phone_numbers: matches.get_flag(LOG_PHONE_NUMBERS),
            providers,
            warnings,
        };
        if !config.providers.iter().any(ProviderConfig::is_on) {
            let flags = providers::ALL.iter().filter_map(|provider| {
                SecretKind::of(provider.auth())
                    .first()
                    .map(|kind| format!("--{}", kind.flag(provider.name())))
            });
            return Err(ConfigError::NoProvider {
                flags: flags.collect::<Vec<_>>().join(", "),
            });
        }
        Ok(config)
    }
}

impl ProviderConfig {
    /// Whether the provider's webhooks are received. A verify token alone does not turn a provider on, because it
    /// proves no webhook. The address of the listener does not count either: nothing in a request tells reliably that
    /// a proxy or a tunnel has made loopback public.
    pub fn is_on(&self) -> bool {
        self.allow_unauthenticated || !self.secrets.is_empty()
    }
}

impl ConfigError {
    /// Whether this is no error but the help or the version that was asked for.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Usage(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion))
    }
}

impl ListenAddress {
    /// The addresses it resolved to; the first that can be bound is used.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: &dyn fmt::Display| format!("expected HOST:PORT or :PORT: {error}");
        let addresses: Vec<_> = match text.strip_prefix(':') {
            Some(port) => {
                let port = port.parse::<u16>().map_err(|error| wrong(&error))?;
                vec![
                    (Ipv6Addr::UNSPECIFIED, port).into(),
                    (Ipv4Addr::UNSPECIFIED, port).into(),
                ]
            }
            None => text
                .to_socket_addrs()
                .map_err(|error| wrong(&error))?
                .collect(),
        };
        if addresses.is_empty() {
            Err("the host has no address".into())
        } else {
            Ok(Self(addresses))
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(address) => address.fmt(f),
            None => Ok(()),
        }
    }
}

/// What a provider's owner and the operator share.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SecretKind {
    AppSecret,
    VerifyToken,
    Token,
}

impl SecretKind {
    fn of(auth: Auth) -> &'static [Self] {
        match auth {
            Auth::Signature => &[Self::AppSecret, Self::VerifyToken],
            Auth::Token => &[Self::Token],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AppSecret => "app-secret",
            Self::VerifyToken => "verify-token",
            Self::Token => "token",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::AppSecret => "file with an app secret, which signs the webhooks (repeatable)",
            Self::VerifyToken => "file with a token for the handshake (repeatable)",
            Self::Token => {
                "file with a token, sent in Authorization or as the last path segment (repeatable)"
            }
        }
    }

    fn flag(self, provider: &str) -> String {
        format!("{provider}.{}-file", self.name())
    }

    /// The variable that holds the secret itself.
    fn variable(self, provider: &str) -> String {
        variable(&format!("{provider}.{}", self.name()))
    }

    fn read(
        self,
        provider: &str,
        matches: &ArgMatches,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<SecretString>, ConfigError> {
        let mut secret = |text, of: String| secret(self, text, of, warnings);
        let flag = self.flag(provider);
        let mut secrets = Vec::new();
        for path in many::<PathBuf>(matches, &flag) {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::SecretFile {
                flag: flag.clone(),
                path: path.clone(),
                source,
            })?;
            secrets.push(secret(text, format!("--{flag} ({})", path.display()))?);
        }
        let name = self.variable(provider);
        match env::var(&name) {
            Ok(text) => secrets.push(secret(text, name)?),
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => return Err(ConfigError::SecretNotText { of: name }),
        }
        Ok(secrets)
    }
}

/// Takes a secret without its trailing newline.
fn secret(
    kind: SecretKind,
    mut text: String,
    of: String,
    warnings: &mut Vec<String>,
) -> Result<SecretString, ConfigError> {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text
        .trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK)
        .is_empty()
    {
        return Err(ConfigError::SecretBlank { of });
    }
    if text.contains('\n') {
        return Err(ConfigError::SecretLines { of });
    }
    let bare = text.trim_start_matches(BYTE_ORDER_MARK).trim();
    let is_quoted = |quote| bare.len() > 1 && bare.starts_with(quote) && bare.ends_with(quote);
    let is_app_secret =
        text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let findings = [
        (
            text.starts_with(BYTE_ORDER_MARK),
            "begins with a byte order mark",
        ),
        (
            text.trim_start_matches(BYTE_ORDER_MARK) != bare,
            "begins or ends with white space",
        ),
        (is_quoted('"') || is_quoted('\''), "stands in quotes"),
        (
            kind == SecretKind::AppSecret && !is_app_secret,
            "is not 32 lower-case hex digits, as app secrets of Meta are",
        ),
    ];
    let findings: Vec<_> = findings
        .into_iter()
        .filter_map(|(is_found, what)| is_found.then_some(what))
        .collect();
    if !findings.is_empty() {
        warnings.push(format!(
            "the secret of {of} {}; all of it is taken as the secret",
            findings.join(", and ")
        ));
    }
    Ok(text.into())
}

/// A relative path would say nothing in the log of a service.
fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::StoragePath { path, source })
}

const WEB_LISTEN_ADDRESS: &str = "web.listen-address";
const WEBHOOK_LISTEN_ADDRESS: &str = "webhook.listen-address";
const TELEMETRY_PATH: &str = "web.telemetry-path";
const MAX_REQUESTS: &str = "web.max-requests";
const STORAGE_PATH: &str = "storage.path";
const MAX_PHONE_NUMBERS: &str = "limits.max-phone-numbers";
const ALLOW_UNAUTHENTICATED: &str = "webhook.allow-unauthenticated";
const LOG_LEVEL: &str = "log.level";
const LOG_FORMAT: &str = "log.format";
const LOG_PHONE_NUMBERS: &str = "log.phone-numbers";

/// The command line, for `--help` and for the documentation.
pub fn command() -> Command {
    let names = providers::ALL.iter().map(|provider| provider.name());
    let flags = [
        flag(
            WEB_LISTEN_ADDRESS,
            "ADDRESS",
            "private: where /metrics, health and the API are served (repeatable)",
        )
        .default_value("127.0.0.1:10877")
        .action(ArgAction::Append)
        .value_delimiter(',')
        .value_parser(ListenAddress::from_str),
        flag(TELEMETRY_PATH, "PATH", "path of the metrics")
            .default_value("/metrics")
            .value_parser(ValueParser::new(telemetry_path)),
        flag(MAX_REQUESTS, "N", "scrapes at a time; 0 for no limit")
            .default_value("40")
            .value_parser(value_parser!(usize)),
        flag(
            WEBHOOK_LISTEN_ADDRESS,
            "ADDRESS",
            "public: where webhooks are received (repeatable)",
        )
        .default_value("127.0.0.1:10878")
        .action(ArgAction::Append)
        .value_delimiter(',')
        .value_parser(ListenAddress::from_str),
        flag(
            ALLOW_UNAUTHENTICATED,
            "PROVIDER",
            "accept this provider's webhooks from anybody (repeatable)",
        )
        .action(ArgAction::Append)
        .value_delimiter(',')
        .value_parser(names.collect::<Vec<_>>()),
    ];
    let secrets = providers::ALL.iter().flat_map(|provider| {
        SecretKind::of(provider.auth()).iter().map(|kind| {
            let help = format!(
                "{}: {}; or the secret itself in the environment: {}",
                provider.title(),
                kind.help(),
                kind.variable(provider.name())
            );
            flag(&kind.flag(provider.name()), "FILE", &help)
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(value_parser!(PathBuf))
        })
    });
    let others = [
        flag(STORAGE_PATH, "FOLDER", "folder of the embedded storage")
            .default_value("data")
            .value_parser(value_parser!(PathBuf)),
        flag(
            MAX_PHONE_NUMBERS,
            "N",
            "phone numbers, and accounts, there may be; changes of more are refused",
        )
        .default_value("1000000")
        .value_parser(value_parser!(usize)),
        flag(LOG_LEVEL, "LEVEL", "least severe level that is logged")
            .default_value("info")
            .value_parser(ValueParser::new(log_level)),
        flag(LOG_FORMAT, "FORMAT", "format of the log: logfmt or json")
            .default_value("logfmt")
            .value_parser(LogFormat::from_str),
        flag(
            LOG_PHONE_NUMBERS,
            "",
            "log phone numbers whole, not masked to their last four digits",
        )
        .action(ArgAction::SetTrue),
    ];
    Command::new(env!("CARGO_PKG_NAME"))
        .about("Receives WhatsApp's quality and messaging limit webhooks and exposes them to Prometheus.")
        .version(env!("CARGO_PKG_VERSION"))
        .long_version(concat!(
            env!("CARGO_PKG_VERSION"),
            " (revision ",
            env!("BUILD_REVISION"),
            ", rustc ",
            env!("BUILD_RUSTC"),
            ")"
        ))
        .after_help(
            "Each flag has an environment variable: WHATSAPP_EXPORTER_ and the flag in capitals, dots and dashes \
             as underscores. Lists are separated by commas, there as here.",
        )
        .disable_version_flag(true)
        .arg(Arg::new("version").long("version").short('V').action(ArgAction::Version).help("print the version"))
        .disable_help_flag(true)
        .arg(Arg::new("help").long("help").short('h').action(ArgAction::HelpShort).help("print this help"))
        .args(flags)
        .args(secrets)
        .args(others)
}

fn flag(name: &str, value: &str, help: &str) -> Arg {
    Arg::new(name.to_owned())
        .long(name.to_owned())
        .value_name(value.to_owned())
        .help(help.to_owned())
        .env(variable(name))
        .hide_env(true)
        .action(ArgAction::Set)
}

fn variable(name: &str) -> String {
    format!(
        "{ENVIRONMENT}{}",
        name.replace(['.', '-'], "_").to_uppercase()
    )
}

fn telemetry_path(path: &str) -> Result<String, String> {
    let taken = ["/", "/-/healthy", "/-/ready"].contains(&path) || path.starts_with("/api/");
    let plain = path.starts_with('/')
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#%\"<>".contains(&b));
    if !plain {
        Err("expected a path that begins with / and has no query".into())
    } else if taken {
        Err("something else is served there".into())
    } else {
        Ok(path.to_owned())
    }
}

fn log_level(name: &str) -> Result<LevelFilter, String> {
    match name {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        _ => Err("expected error, warn, info or debug".into()),
    }
}

fn many<'a, T: Clone + Send + Sync + 'static>(matches: &'a ArgMatches, name: &str) -> Vec<&'a T> {
    matches.get_many(name).into_iter().flatten().collect()
}

/// The value of a flag that has a default.
#[expect(
    clippy::expect_used,
    reason = "every caller's flag is declared above with a default of that type"
)]
fn one<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> T {
    matches
        .get_one::<T>(name)
        .expect("a flag with a default")
        .clone()
}
