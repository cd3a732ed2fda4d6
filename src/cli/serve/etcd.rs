//! The flags of the storage in etcd.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgMatches, builder::ValueParser, value_parser};

use super::{flag, list, many, one};
use crate::config::{EtcdOptions, duration};

const ENDPOINTS: &str = "storage.etcd.endpoints";
const PREFIX: &str = "storage.etcd.prefix";
const CA_FILE: &str = "storage.etcd.ca-file";
const CERT_FILE: &str = "storage.etcd.cert-file";
const KEY_FILE: &str = "storage.etcd.key-file";
const USERNAME_FILE: &str = "storage.etcd.username-file";
const PASSWORD_FILE: &str = "storage.etcd.password-file";
const REQUEST_TIMEOUT: &str = "storage.etcd.request-timeout";

pub(super) fn flags() -> impl Iterator<Item = Arg> {
    let endpoints = list(
        ENDPOINTS,
        "URL",
        "member of etcd, for replicas that share one storage; --storage.path is not used then (repeatable)",
    )
    .value_parser(ValueParser::new(endpoint));
    let prefix = flag(PREFIX, "PREFIX", "what all keys in etcd begin with")
        .default_value(EtcdOptions::PREFIX)
        .value_parser(ValueParser::new(prefix));
    [endpoints, prefix].into_iter().chain(connection_flags())
}

/// The flags that say how members are reached.
pub(crate) fn connection_flags() -> [Arg; 6] {
    let file = |name, help| flag(name, "FILE", help).value_parser(value_parser!(PathBuf));
    [
        file(
            CA_FILE,
            "certificates of authorities that vouch for etcd; without it, the system's",
        ),
        file(CERT_FILE, "certificate of this client for etcd").requires(KEY_FILE),
        file(KEY_FILE, "its key").requires(CERT_FILE),
        file(USERNAME_FILE, "file with the name of etcd's user").requires(PASSWORD_FILE),
        file(PASSWORD_FILE, "file with its password").requires(USERNAME_FILE),
        flag(
            REQUEST_TIMEOUT,
            "TIME",
            "time that a member of etcd may take to answer before the next is asked",
        )
        .default_value("3s")
        .value_parser(ValueParser::new(timeout)),
    ]
}

/// `None` where no member is given.
pub(crate) fn options(matches: &ArgMatches) -> Option<EtcdOptions> {
    let endpoints: Vec<String> = many(matches, ENDPOINTS).cloned().collect();
    if endpoints.is_empty() {
        return None;
    }
    Some(EtcdOptions {
        endpoints,
        prefix: one(matches, PREFIX),
        ..connection(matches, &[], "")
    })
}

/// How these members are reached: by TLS where a certificate is given.
pub(crate) fn connection(matches: &ArgMatches, members: &[String], prefix: &str) -> EtcdOptions {
    let file = |name| many::<PathBuf>(matches, name).next().cloned();
    let ca_file = file(CA_FILE);
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let endpoints = members.iter().map(|member| format!("{scheme}://{member}"));
    EtcdOptions {
        endpoints: endpoints.collect(),
        prefix: prefix.into(),
        ca_file,
        cert_file: file(CERT_FILE),
        key_file: file(KEY_FILE),
        username_file: file(USERNAME_FILE),
        password_file: file(PASSWORD_FILE),
        request_timeout: one(matches, REQUEST_TIMEOUT),
    }
}

/// A member, without a path.
fn endpoint(text: &str) -> Result<String, String> {
    let url = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri: hyper::Uri = url.parse().map_err(|_| "expected a URL")?;
    let has_user = uri
        .authority()
        .is_some_and(|host| host.as_str().contains('@'));
    let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none() && !has_user;
    match uri.scheme_str() {
        Some("http" | "https") if is_plain => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err("expected a URL such as https://etcd-1:2379".into()),
    }
}

fn prefix(text: &str) -> Result<String, &'static str> {
    match text.is_empty() {
        true => Err("expected a prefix, so that other keys are left alone"),
        false => Ok(text.to_owned()),
    }
}

fn timeout(text: &str) -> Result<Duration, &'static str> {
    let given = duration(text).filter(|given| !given.is_zero());
    given.ok_or("expected a time with its unit, such as 3s")
}
