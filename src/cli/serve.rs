//! `serve`: the flags of the program that receives webhooks, read into a [`Config`].

#[cfg(feature = "etcd")]
pub(super) mod etcd;

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{BoolishValueParser, ValueParser},
    value_parser,
};
use tracing::level_filters::LevelFilter;

use crate::{
    config::{
        Config, ListenAddress, PRIVACY_KEY_FILE, Role, SecretPlace, SecretSource, duration,
        variable,
    },
    domain::NumberPrivacy,
    http::is_taken,
    providers,
    telemetry::LogFormat,
};

const WEB_LISTEN_ADDRESS: &str = "web.listen-address";
const WEBHOOK_LISTEN_ADDRESS: &str = "webhook.listen-address";
const SYSTEMD_SOCKET: &str = "web.systemd-socket";
const TELEMETRY_PATH: &str = "web.telemetry-path";
const MAX_REQUESTS: &str = "web.max-requests";
const DRAIN_DELAY: &str = "web.drain-delay";
const ENABLE_LIFECYCLE: &str = "web.enable-lifecycle";
const ENABLE_ADMIN_API: &str = "web.enable-admin-api";
const MAX_WEB_CONNECTIONS: &str = "web.max-connections";
const MAX_WEBHOOK_CONNECTIONS: &str = "webhook.max-connections";
const EXTERNAL_URL: &str = "webhook.external-url";
const TRUSTED_PROXY: &str = "webhook.trusted-proxy";
const WEB_CONFIG_FILE: &str = Role::Web.flag();
const WEBHOOK_CONFIG_FILE: &str = Role::Webhook.flag();
const STORAGE_PATH: &str = "storage.path";
const MAX_PHONE_NUMBERS: &str = "limits.max-phone-numbers";
const PRIVACY: &str = "privacy.phone-numbers";
const ALLOW_UNAUTHENTICATED: &str = "webhook.allow-unauthenticated";
const LOG_LEVEL: &str = "log.level";
const LOG_FORMAT: &str = "log.format";
const LOG_PHONE_NUMBERS: &str = "log.phone-numbers";

/// The verb, with the flags that also work without it.
pub(super) fn command() -> Command {
    Command::new("serve")
        .about("receive webhooks and expose metrics; also what happens without a command")
        .after_help(ENVIRONMENT)
        .args(flags())
}

/// How flags are given in another way.
pub(super) const ENVIRONMENT: &str = "Each flag has an environment variable: WHATSAPP_EXPORTER_ and the flag in capitals, \
     dots and dashes as underscores. Lists are separated by commas, there as here.";

/// The flags.
pub(super) fn flags() -> impl Iterator<Item = Arg> {
    let flags = listener_flags().into_iter().chain(secret_flags());
    flags.chain(storage_flags()).chain(other_flags())
}

/// What the flags and the environment say. No file is read, and no secret.
pub(super) fn config(matches: &ArgMatches) -> Config {
    let allowed = many::<String>(matches, ALLOW_UNAUTHENTICATED);
    let allowed = allowed.filter_map(|name| Some(providers::by_name(name)?.name));
    Config {
        web_addresses: many(matches, WEB_LISTEN_ADDRESS).cloned().collect(),
        webhook_addresses: many(matches, WEBHOOK_LISTEN_ADDRESS).cloned().collect(),
        systemd_socket: matches.get_flag(SYSTEMD_SOCKET),
        telemetry_path: one(matches, TELEMETRY_PATH),
        max_requests: one(matches, MAX_REQUESTS),
        drain_delay: one(matches, DRAIN_DELAY),
        enable_lifecycle: matches.get_flag(ENABLE_LIFECYCLE),
        enable_admin_api: matches.get_flag(ENABLE_ADMIN_API),
        number_privacy: one(matches, PRIVACY),
        privacy_key_file: many(matches, PRIVACY_KEY_FILE).next().cloned(),
        max_web_connections: one(matches, MAX_WEB_CONNECTIONS),
        max_webhook_connections: one(matches, MAX_WEBHOOK_CONNECTIONS),
        external_url: many::<String>(matches, EXTERNAL_URL).next().cloned(),
        trusted_proxies: many(matches, TRUSTED_PROXY).copied().collect(),
        web_config_file: many(matches, WEB_CONFIG_FILE).next().cloned(),
        webhook_config_file: many(matches, WEBHOOK_CONFIG_FILE).next().cloned(),
        storage_path: one(matches, STORAGE_PATH),
        #[cfg(feature = "etcd")]
        etcd: etcd::options(matches),
        max_phone_numbers: one(matches, MAX_PHONE_NUMBERS),
        secrets: secret_sources(matches),
        allow_unauthenticated: allowed.collect(),
        log_level: one(matches, LOG_LEVEL),
        log_format: one(matches, LOG_FORMAT),
        log_phone_numbers: matches.get_flag(LOG_PHONE_NUMBERS),
    }
}

/// Of each secret of each provider, the files and then the variable that may hold it.
fn secret_sources(matches: &ArgMatches) -> Vec<SecretSource> {
    let mut sources = Vec::new();
    for provider in providers::ALL {
        let name = provider.name;
        for kind in provider.secrets() {
            let flag = kind.flag(name);
            let files = many::<PathBuf>(matches, &flag).map(|path| SecretPlace::File {
                flag: flag.clone(),
                path: path.clone(),
            });
            let variable = SecretPlace::Variable(kind.variable(name));
            let places = files.chain([variable]);
            sources.extend(places.map(|place| SecretSource {
                provider: name,
                kind,
                place,
            }));
        }
    }
    sources
}

fn listener_flags() -> [Arg; 15] {
    let names = providers::ALL.iter().map(|provider| provider.name.as_str());
    let names: Vec<_> = names.collect();
    let max_connections = |name| {
        let help = "connections at a time; 0 for as many as the file descriptors allow";
        flag(name, "N", help)
            .default_value("0")
            .value_parser(value_parser!(usize))
    };
    let config_file = |name, help| flag(name, "FILE", help).value_parser(value_parser!(PathBuf));
    let address = |name, help, default: &'static str| {
        list(name, "ADDRESS", help)
            .default_value(default)
            .value_parser(ListenAddress::from_str)
    };
    [
        address(
            WEB_LISTEN_ADDRESS,
            "private: where /metrics, health and the API are served (repeatable)",
            "127.0.0.1:10877",
        ),
        switch(
            SYSTEMD_SOCKET,
            "use the sockets that systemd passes with the names web and webhook, and no address",
        ),
        flag(TELEMETRY_PATH, "PATH", "path of the metrics")
            .default_value("/metrics")
            .value_parser(ValueParser::new(telemetry_path)),
        flag(
            MAX_REQUESTS,
            "N",
            "scrapes and lists of the API at a time; 0 for no limit",
        )
        .default_value("40")
        .value_parser(value_parser!(usize)),
        max_connections(MAX_WEB_CONNECTIONS),
        flag(
            DRAIN_DELAY,
            "TIME",
            "time between a signal to stop, from which on /-/ready answers 503, and the end; with its unit, such as 15s",
        )
        .default_value("0s")
        .value_parser(ValueParser::new(drain_delay)),
        switch(
            ENABLE_LIFECYCLE,
            "let POST /-/reload read secrets and web configurations again, as SIGHUP does",
        ),
        switch(
            ENABLE_ADMIN_API,
            "let DELETE below /api/v1 remove phone numbers and accounts",
        ),
        config_file(
            WEB_CONFIG_FILE,
            "TLS and passwords of the private listeners, as in Prometheus' exporter-toolkit",
        ),
        address(
            WEBHOOK_LISTEN_ADDRESS,
            "public: where webhooks are received (repeatable)",
            "127.0.0.1:10878",
        ),
        max_connections(MAX_WEBHOOK_CONNECTIONS),
        config_file(
            WEBHOOK_CONFIG_FILE,
            "TLS of the public listeners, in the same format",
        ),
        flag(
            EXTERNAL_URL,
            "URL",
            "where providers reach the public listener, such as https://hooks.example.com; for the status page",
        )
        .value_parser(ValueParser::new(external_url)),
        list(
            TRUSTED_PROXY,
            "ADDRESS",
            "proxy that may hold more than its share of the connections (repeatable)",
        )
        .value_parser(value_parser!(IpAddr)),
        list(
            ALLOW_UNAUTHENTICATED,
            "PROVIDER",
            "accept this provider's webhooks from anybody (repeatable)",
        )
        .value_parser(names),
    ]
}

fn secret_flags() -> impl Iterator<Item = Arg> {
    providers::ALL.iter().flat_map(|provider| {
        provider.secrets().map(|kind| {
            let help = format!(
                "{}: {}; or the secret itself in the environment: {}",
                provider.title,
                kind.help(),
                kind.variable(provider.name)
            );
            list(&kind.flag(provider.name), "FILE", &help).value_parser(value_parser!(PathBuf))
        })
    })
}

/// The flags of the storage: where it is, and how much may be in it.
pub(super) fn storage_flags() -> impl Iterator<Item = Arg> {
    let most = flag(
        MAX_PHONE_NUMBERS,
        "N",
        "maximum of phone numbers, and of accounts; a change that would add one more is refused",
    )
    .default_value("1000000")
    .value_parser(value_parser!(usize));
    storage_place_flags().chain([most])
}

/// The flags that say where the storage is.
pub(super) fn storage_place_flags() -> impl Iterator<Item = Arg> {
    let path = flag(STORAGE_PATH, "FOLDER", "folder of the embedded storage")
        .default_value("data")
        .value_parser(ValueParser::new(storage_path));
    let flags = [path].into_iter();
    #[cfg(feature = "etcd")]
    let flags = flags.chain(etcd::flags());
    flags
}

/// The folder of the storage, and how many numbers there may be; without the second flag, any.
pub(super) fn storage(matches: &ArgMatches) -> (PathBuf, usize) {
    let most = matches.try_get_one(MAX_PHONE_NUMBERS).ok().flatten();
    (
        one(matches, STORAGE_PATH),
        most.copied().unwrap_or(usize::MAX),
    )
}

fn other_flags() -> [Arg; 5] {
    [
        flag(
            PRIVACY,
            "HOW",
            "show phone numbers plain; masked to their last four digits and a hash; or hashed",
        )
        .default_value("plain")
        .value_parser(NumberPrivacy::from_str),
        flag(
            PRIVACY_KEY_FILE,
            "FILE",
            "file with the key of these hashes, which is read at the start",
        )
        .value_parser(value_parser!(PathBuf)),
        flag(LOG_LEVEL, "LEVEL", "least severe level that is logged")
            .default_value("info")
            .value_parser(ValueParser::new(log_level)),
        flag(LOG_FORMAT, "FORMAT", "format of the log: logfmt or json")
            .default_value("logfmt")
            .value_parser(LogFormat::from_str),
        switch(
            LOG_PHONE_NUMBERS,
            "log phone numbers whole, not masked to their last four digits",
        ),
    ]
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

/// A flag that is on or off.
fn switch(name: &str, help: &str) -> Arg {
    flag(name, "", help)
        .action(ArgAction::SetTrue)
        .value_parser(BoolishValueParser::new())
}

/// A flag that is repeatable.
fn list(name: &str, value: &str, help: &str) -> Arg {
    flag(name, value, help)
        .action(ArgAction::Append)
        .value_delimiter(',')
}

fn telemetry_path(path: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"?#%\"<>".contains(&b);
    if !path.starts_with('/') || !path.bytes().all(is_plain) {
        Err("expected a path that begins with / and has no query".into())
    } else if is_taken(path) {
        Err("something else is served there".into())
    } else {
        Ok(path.to_owned())
    }
}

/// An address without a slash at its end, so that a path can follow.
fn external_url(url: &str) -> Result<String, String> {
    let uri: hyper::Uri = url.parse().map_err(|_| "expected a URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err("expected a URL that begins with https:// and has no query".into());
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn drain_delay(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("expected a time with its unit, such as 15s or 1m, or 0")
}

/// A relative path would say nothing in the log of a service.
fn storage_path(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
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

fn many<'a, T: Clone + Send + Sync + 'static>(
    matches: &'a ArgMatches,
    name: &str,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    matches.get_many(name).into_iter().flatten()
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
