//! The web configuration file of a listener: TLS, passwords, headers and a limit of requests.
//!
//! It is the file of Prometheus' exporter-toolkit, so that one file serves all exporters of a
//! machine. Source: <https://github.com/prometheus/exporter-toolkit>, `docs/web-configuration.md`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use hyper::header::{HeaderName, HeaderValue};
use rustls::ServerConfig;
use secrecy::SecretString;
use serde::Deserialize;

use super::tls::{self, TlsDocument, Validity};

/// The headers that the toolkit lets an operator add, each with its only values where it has some.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// The listener that a web configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The private listener.
    Web,
    /// The public listener.
    Webhook,
}

impl Role {
    /// The listener's name in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Webhook => "webhook",
        }
    }

    /// The flag that names the file, without its dashes.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Web => "web.config.file",
            Self::Webhook => "webhook.config.file",
        }
    }
}

/// What a web configuration file says, checked; by default, nothing.
#[derive(Debug, Default)]
pub struct WebConfig {
    /// TLS, where the listener has it.
    pub tls: Option<Arc<ServerConfig>>,
    /// The hash by bcrypt of each user's password; without users nobody needs a password.
    pub users: BTreeMap<String, SecretString>,
    /// Headers that each answer gets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How many requests are answered.
    pub rate_limit: Option<RateLimit>,
    /// Sentences about what is most likely not as it was meant.
    pub warnings: Vec<String>,
    /// A sentence about the end of the certificate that is valid now.
    pub valid_until: Option<String>,
    /// The files that were read, as they were before that.
    files: Vec<(PathBuf, FileStamp)>,
    /// Tells whether another configuration says the same.
    digest: Vec<u8>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The time in which one more request may come.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
}

/// Tells whether a file has changed; `None` where it cannot be looked at.
type FileStamp = Option<(SystemTime, u64, u64)>;

/// Why a web configuration cannot be taken; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} ({}): {reason}", path.display())]
pub struct WebConfigError {
    flag: &'static str,
    path: PathBuf,
    reason: String,
}

/// The file as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a map of keys")]
struct Document {
    tls_server_config: Option<TlsDocument>,
    http_server_config: Option<HttpDocument>,
    basic_auth_users: Option<Users>,
    rate_limit: Option<RateLimitDocument>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a map of keys")]
struct HttpDocument {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a map of keys")]
struct RateLimitDocument {
    interval: Option<String>,
    burst: Option<u32>,
}

/// Users and hashes, where no user may stand twice.
#[derive(Deserialize)]
#[serde(transparent)]
struct Users(#[serde(deserialize_with = "unique_users")] BTreeMap<String, SecretString>);

/// The files that a configuration is made of, on its way to a [`WebConfig`].
pub(super) struct FileReader<'a> {
    folder: &'a Path,
    read: Vec<(PathBuf, FileStamp)>,
    digest: digest::Context,
}

impl FileReader<'_> {
    /// Reads a file that the key of the configuration names.
    pub(super) fn read(&mut self, key: &str, path: &str) -> Result<Vec<u8>, String> {
        let path = self.folder.join(path);
        self.read_whole(&path)
            .map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))
    }

    fn read_whole(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.read.push((path.to_owned(), stamp(path)));
        let content = fs::read(path)?;
        self.digest.update(&content.len().to_le_bytes());
        self.digest.update(&content);
        Ok(content)
    }
}

impl WebConfig {
    /// Reads the file and those that it names.
    ///
    /// # Errors
    ///
    /// Where a key is unknown or has a value that cannot be taken, or where a file cannot be read;
    /// the error names the key, and never a value that is secret. Also where the configuration
    /// `before` has TLS or passwords and this one has none: a file that is empty for a moment, or
    /// cut off, must not take the lock off.
    pub fn read(role: Role, path: &Path, before: &Self) -> Result<Self, WebConfigError> {
        let mut files = FileReader {
            folder: path.parent().unwrap_or(Path::new("")),
            read: Vec::new(),
            digest: digest::Context::new(&digest::SHA256),
        };
        let config = Self::parse(role, path, &mut files);
        let config = config.and_then(|config| config.keeps_lock(before));
        match config {
            Ok(config) => Ok(Self {
                files: files.read,
                digest: files.digest.finish().as_ref().to_owned(),
                ..config
            }),
            Err(reason) => Err(WebConfigError {
                flag: role.flag(),
                path: path.to_owned(),
                reason,
            }),
        }
    }

    fn keeps_lock(self, before: &Self) -> Result<Self, String> {
        let lost = match () {
            () if self.tls.is_none() && before.tls.is_some() => "TLS",
            () if self.users.is_empty() && !before.users.is_empty() => "passwords",
            () => return Ok(self),
        };
        Err(format!(
            "the file has no {lost} any more; restart the program to go on without {lost}"
        ))
    }

    /// Whether another configuration says the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    fn parse(role: Role, path: &Path, files: &mut FileReader<'_>) -> Result<Self, String> {
        let text = files
            .read_whole(path)
            .map_err(|error| format!("cannot read the file: {error}"))?;
        let document: Document =
            yaml_serde::from_slice(&text).map_err(|error| without_value(&error.to_string()))?;
        let http = document.http_server_config.unwrap_or_default();
        let http2 = match (role, http.http2) {
            (Role::Web, given) => given.unwrap_or(true),
            (Role::Webhook, Some(true)) => {
                return Err(
                    "http_server_config.http2: webhooks are received by HTTP/1.1, which \
                     every provider speaks; set it to false or leave it out"
                        .into(),
                );
            }
            (Role::Webhook, _) => false,
        };
        let users = document.basic_auth_users.map(|users| users.0);
        if role == Role::Webhook && users.is_some() {
            return Err(
                "basic_auth_users: a provider proves its webhooks by a signature or a \
                     token and sends no password, so each of them would be refused; leave the \
                     key out"
                    .into(),
            );
        }
        let mut validity = Validity::default();
        let tls = match document.tls_server_config {
            Some(document) => Some(tls::server_config(
                role,
                document,
                http2,
                files,
                &mut validity,
            )?),
            None => None,
        };
        Ok(Self {
            tls,
            users: checked_users(users.unwrap_or_default())?,
            headers: headers(http.headers.unwrap_or_default())?,
            rate_limit: rate_limit(document.rate_limit.unwrap_or_default())?,
            warnings: validity.warning.into_iter().collect(),
            valid_until: validity.until,
            ..Self::default()
        })
    }

    /// How its files look now; `None` where they look as they did when they were read.
    pub fn changes(&self) -> Option<Changes> {
        let now: Vec<_> = self.files.iter().map(|(path, _)| stamp(path)).collect();
        let is_changed = self
            .files
            .iter()
            .zip(&now)
            .any(|((_, then), now)| then != now);
        is_changed.then_some(Changes(now))
    }
}

/// How files that have changed look now.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes(Vec<FileStamp>);

fn stamp(path: &Path) -> FileStamp {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some((metadata.modified().ok()?, metadata.len(), inode))
}

/// The message of a YAML error without the value that was found, which may be secret.
fn without_value(message: &str) -> String {
    let found = message
        .find("invalid type: ")
        .or(message.find("invalid value: "));
    match (found, message.rfind(", expected ")) {
        (Some(found), Some(expected)) if found < expected => {
            let (before, after) = (message.get(..found), message.get(expected + 2..));
            [before, after].into_iter().flatten().collect()
        }
        _ => message.to_owned(),
    }
}

fn unique_users<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, SecretString>, D::Error> {
    struct Unique;
    impl<'de> serde::de::Visitor<'de> for Unique {
        type Value = BTreeMap<String, SecretString>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of users and hashes")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut entries: A,
        ) -> Result<Self::Value, A::Error> {
            let mut users = BTreeMap::new();
            while let Some((user, hash)) = entries.next_entry::<String, String>()? {
                if users.contains_key(&user) {
                    let message = format!("the user {user:?} stands twice");
                    return Err(serde::de::Error::custom(message));
                }
                users.insert(user, hash.into());
            }
            Ok(users)
        }
    }
    deserializer.deserialize_map(Unique)
}

fn checked_users(
    users: BTreeMap<String, SecretString>,
) -> Result<BTreeMap<String, SecretString>, String> {
    use secrecy::ExposeSecret;
    for (user, hash) in &users {
        let parts = hash.expose_secret().parse::<bcrypt::HashParts>();
        if !parts.is_ok_and(|parts| (4..=31).contains(&parts.get_cost())) {
            return Err(format!(
                "basic_auth_users: the value of {user:?} is no hash by bcrypt; make one with \
                 htpasswd -nBC 10 \"\" | tr -d ':\\n'"
            ));
        }
    }
    Ok(users)
}

fn headers(given: BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, value) in given {
        let key = format!("http_server_config.headers.{name}");
        let Some((known, values)) = HEADERS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = HEADERS.iter().map(|(known, _)| *known).collect();
            let known = known.join(", ");
            return Err(format!("{key}: this header is not one of {known}"));
        };
        if value.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.contains(&value.as_str()) {
            return Err(format!(
                "{key}: the value is not one of {}",
                values.join(", ")
            ));
        }
        let value = HeaderValue::from_str(&value)
            .map_err(|_| format!("{key}: the value cannot stand in a header"))?;
        let name = HeaderName::from_bytes(known.as_bytes()).map_err(|error| error.to_string())?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn rate_limit(given: RateLimitDocument) -> Result<Option<RateLimit>, String> {
    let Some(interval) = given.interval else {
        return Ok(None);
    };
    let Some(interval) = super::duration(&interval) else {
        return Err(
            "rate_limit.interval: expected a time with its unit, such as 1s or 100ms, or 0".into(),
        );
    };
    if interval.is_zero() {
        return Ok(None);
    }
    match given.burst {
        Some(burst) if burst > 0 => Ok(Some(RateLimit { interval, burst })),
        _ => {
            Err("rate_limit.burst: expected 1 or more, because 0 answers no request at all".into())
        }
    }
}
