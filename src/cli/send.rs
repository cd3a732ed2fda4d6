//! `send`: a documented webhook to an exporter that runs, to see what becomes of it.

use std::{io::Write, path::PathBuf, time::SystemTime};

use aws_lc_rs::hmac;
use clap::{
    Arg, ArgMatches, Command,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use secrecy::ExposeSecret;
use ureq::http::{Method, Request};

use super::{
    Verb,
    client::{agent, no_answer},
    given, option, print,
};
use crate::{
    config::{Secret, SecretPlace, SecretSource, Secrets},
    domain::{MessagingLimit, PhoneNumber, Timestamp, WabaId},
    providers::{self, Message, Provider, Sample, SampleKind, SecretKind},
};

pub(super) const VERB: Verb = Verb { command, run };

/// The flags that name a file with a secret, and the kind of each.
const SECRET_FLAGS: [(&str, SecretKind); 3] = [
    ("app-secret-file", SecretKind::AppSecret),
    ("secret-file", SecretKind::SigningSecret),
    ("token-file", SecretKind::Token),
];

fn command() -> Command {
    let names = providers::ALL.iter().map(|provider| provider.name.as_str());
    let names: Vec<_> = names.collect();
    let events = SampleKind::all().into_iter().map(|(word, _)| word);
    let event = PossibleValuesParser::new(events).map(|word| kind(&word));
    let limit = |name, help| option(name, "LIMIT", help).value_parser(limit);
    // The flags of `serve` for the same files are taken, too.
    let serves = |of: SecretKind| {
        let is_of = move |kind: &SecretKind| *kind == of;
        let flags = |provider: &'static Provider| {
            let kinds = provider.secrets().filter(is_of);
            kinds.map(|kind| kind.flag(provider.name))
        };
        providers::ALL
            .iter()
            .copied()
            .flat_map(flags)
            .collect::<Vec<_>>()
    };
    let secret = |(name, of): (&'static str, SecretKind), help| {
        option(name, "FILE", help)
            .aliases(serves(of))
            .value_parser(value_parser!(PathBuf))
    };
    Command::new("send")
        .about("send a webhook, as the provider documents it, to an exporter that runs")
        .after_help(
            "A secret may also stand in the variable that the exporter reads it from, such as \
             WHATSAPP_EXPORTER_META_APP_SECRET.\n\n\
             Examples:\n  \
             whatsapp-quality-exporter send meta downgrade --number 15550783881 --from 10K --to 1K\n  \
             whatsapp-quality-exporter send 8x8 flagged --number 15550783881 --token-file 8x8.token\n  \
             whatsapp-quality-exporter send meta capability --to unlimited --app-secret-file meta.secret\n  \
             whatsapp-quality-exporter send meta restricted-biz-initiated-messaging --waba-id 102290129340398\n\n\
             The exit status is 0 where the exporter answered 200, otherwise 1.",
        )
        .arg(Arg::new("PROVIDER").help("the sender").required(true).value_parser(names))
        .arg(
            Arg::new("EVENT")
                .help("what happened: an event of a phone number, its rating, the limit of an account (capability), or what became of the account or of a template")
                .required(true)
                .ignore_case(true)
                .value_parser(event),
        )
        .arg(option("number", "NUMBER", "the phone number, of its events and ratings").value_parser(number))
        .arg(
            option("waba-id", "ID", "the account, where the provider names it")
                .default_value("102290129340398")
                .value_parser(waba_id),
        )
        .arg(limit("from", "the limit before, such as 10K or unlimited"))
        .arg(limit("to", "the limit, likewise"))
        .arg(
            option("at", "TIME", "when it happened, as ISO 8601 or Unix seconds; now if it is left out")
                .value_parser(time),
        )
        .arg(
            option("url", "URL", "the address of the exporter's webhook listener")
                .default_value("http://127.0.0.1:10878"),
        )
        .arg(secret(SECRET_FLAGS[0], "file with the app secret that signs the webhook"))
        .arg(secret(SECRET_FLAGS[1], "file with the endpoint's secret that signs the webhook"))
        .arg(secret(SECRET_FLAGS[2], "file with the token that proves the webhook"))
}

fn run(matches: &ArgMatches, output: &mut dyn Write) -> Result<(), String> {
    let name = given::<String>(matches, "PROVIDER").map_or("", String::as_str);
    let provider = providers::by_name(name).ok_or("there is no such provider")?;
    let message = message(provider, matches)?;
    let secret = secret(provider, matches)?;
    let url = given::<String>(matches, "url").map_or("", String::as_str);
    let url = format!("{}/webhooks/{name}", url.trim_end_matches('/'));
    let request = request(provider, &url, message, secret.as_ref());
    let request = request.map_err(|error| format!("--url is not an address: {error}"))?;
    let answer = agent().run(request);
    let mut answer = answer.map_err(|error| no_answer(&url, "webhook", &error))?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    print(
        output,
        &format!("{url} answered {status}: {}\n", text.trim_end()),
    )?;
    match status {
        200 => Ok(()),
        _ => Err(meaning(status, provider, secret.is_some())),
    }
}

/// What a word says.
fn kind(word: &str) -> Option<SampleKind> {
    let mut all = SampleKind::all().into_iter();
    let found = all.find(|(known, _)| known.eq_ignore_ascii_case(word));
    found.map(|(_, kind)| kind)
}

fn number(text: &str) -> Result<PhoneNumber, String> {
    PhoneNumber::parse(text).map_err(|error| error.to_string())
}

fn waba_id(text: &str) -> Result<WabaId, String> {
    WabaId::parse(text).map_err(|error| error.to_string())
}

fn limit(text: &str) -> Result<MessagingLimit, String> {
    MessagingLimit::parse(text)
        .ok_or_else(|| "expected a limit such as 250, 10K or unlimited".into())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_unix(text)
        .or_else(|| Timestamp::parse_iso(text))
        .ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z or 1769860800".into())
}

/// What to send.
fn message(provider: &Provider, matches: &ArgMatches) -> Result<Message, String> {
    let kind = given::<Option<SampleKind>>(matches, "EVENT").copied();
    let kind = kind.flatten().ok_or("there is no such event")?;
    let phone_number = given::<PhoneNumber>(matches, "number").cloned();
    let limit = |name| given::<MessagingLimit>(matches, name).copied();
    match (kind.is_of_a_number(), &phone_number) {
        (true, None) => return Err("this needs the phone number: give --number".into()),
        (false, Some(_)) => return Err("this names no phone number: leave --number out".into()),
        _ => {}
    }
    let is_capability = kind == SampleKind::Capability;
    if is_capability && limit("to").is_none() {
        return Err("the limit of an account needs --to".into());
    }
    let has_limits = is_capability || kind.is_of_a_number();
    if !has_limits && (limit("from").is_some() || limit("to").is_some()) {
        return Err("this has no limits: leave --from and --to out".into());
    }
    let sample = Sample {
        waba_id: given::<WabaId>(matches, "waba-id")
            .cloned()
            .unwrap_or_else(|| WabaId::from_stored("")),
        phone_number,
        kind,
        old_limit: limit("from"),
        limit: limit("to"),
        at: given(matches, "at")
            .copied()
            .unwrap_or_else(|| SystemTime::now().into()),
    };
    provider
        .write(&sample)
        .ok_or_else(|| format!("{} documents no webhook of that kind", provider.title))
}

/// The first secret that is given and proves the provider's webhooks.
fn secret(provider: &Provider, matches: &ArgMatches) -> Result<Option<Secret>, String> {
    let mut sources = Vec::new();
    let is_proving = |kind: &SecretKind| *kind != SecretKind::VerifyToken;
    let kinds: Vec<_> = provider.secrets().filter(is_proving).collect();
    let source = |kind, place| SecretSource {
        provider: provider.name,
        kind,
        place,
    };
    for (flag, kind) in SECRET_FLAGS {
        let Some(path) = given::<PathBuf>(matches, flag) else {
            continue;
        };
        if !kinds.contains(&kind) {
            return Err(format!(
                "--{flag} is not how {} proves its webhooks",
                provider.title
            ));
        }
        let place = SecretPlace::File {
            flag: flag.into(),
            path: path.clone(),
        };
        sources.push(source(kind, place));
    }
    for kind in kinds {
        let variable = SecretPlace::Variable(kind.variable(provider.name));
        sources.push(source(kind, variable));
    }
    let secrets = Secrets::read(&sources).map_err(|error| error.to_string())?;
    Ok(secrets.into_proving(provider.name))
}

fn request(
    provider: &Provider,
    url: &str,
    message: Message,
    secret: Option<&Secret>,
) -> ureq::http::Result<Request<String>> {
    let (method, url, body) = match message {
        Message::Query(query) => (Method::GET, format!("{url}?{query}"), String::new()),
        Message::Json(json) => (Method::POST, url.to_owned(), json.to_string()),
    };
    let mut request = Request::builder().method(&method).uri(url);
    if method == Method::POST {
        request = request.header("Content-Type", "application/json");
    }
    if let Some(secret) = secret {
        let text = secret.value.expose_secret();
        request = match provider.proof.signature() {
            Some(signature) if signature.secret == secret.kind => {
                let (before, header) = signature.form.write(SystemTime::now().into());
                let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
                let signed = hmac::sign(&key, (before + &body).as_bytes());
                let digits = base16ct::lower::encode_string(signed.as_ref());
                request.header(signature.header, header(&digits))
            }
            _ => request.header("Authorization", format!("Bearer {text}")),
        };
    }
    request.body(body)
}

/// What an answer other than 200 means, and what to do about it.
fn meaning(status: u16, provider: &Provider, has_secret: bool) -> String {
    let title = provider.title;
    let flags: Vec<_> = provider
        .secrets()
        .map(|kind| kind.flag(provider.name))
        .collect();
    let flag = flags.first().map_or("", String::as_str);
    match status {
        401 if has_secret => format!(
            "the webhook is not authentic: the secret that was given is not one of those that the \
             exporter has for {title} (--{flag})"
        ),
        401 => format!(
            "the webhook is not authentic: no secret was given, and the exporter has one for \
             {title} (--{flag})"
        ),
        404 => format!(
            "nothing takes webhooks of {title} there: the provider is off because the exporter has \
             no secret for it (--{flag}), or --url is not the address of its webhook listener"
        ),
        503 => "the exporter cannot store the change now; its log says why".into(),
        _ => format!("{status} is not an answer by which a webhook is taken; look at --url"),
    }
}
