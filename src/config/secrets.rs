//! Secrets: where each stands, and what is read there.

use std::{
    env::{self, VarError},
    fs, io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    domain::ProviderName,
    providers::{self, SecretKind},
};

/// Where a secret may stand.
#[derive(Clone, Debug)]
pub struct SecretSource {
    /// Whose secret it is.
    pub provider: ProviderName,
    /// What it is for.
    pub kind: SecretKind,
    /// Where it stands.
    pub place: SecretPlace,
}

/// The place of a secret.
#[derive(Clone, Debug)]
pub enum SecretPlace {
    /// A file that a flag names.
    File {
        /// The flag, without its dashes.
        flag: String,
        /// The file.
        path: PathBuf,
    },
    /// An environment variable, which may be unset.
    Variable(String),
}

/// A secret as it was read.
#[derive(Debug)]
pub struct Secret {
    /// Whose secret it is.
    pub provider: ProviderName,
    /// What it is for.
    pub kind: SecretKind,
    /// The secret itself.
    pub value: SecretString,
}

/// All secrets, in the order given: files first, then the environment.
#[derive(Debug, Default)]
pub struct Secrets {
    all: Vec<Secret>,
    /// Sentences about secrets that are most likely not as they were meant.
    pub warnings: Vec<String>,
}

/// Why a secret cannot be taken; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// A file cannot be read.
    #[error("cannot read the secret file {} of --{flag}: {source}", path.display())]
    File {
        /// The flag.
        flag: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret is empty or blank, so that anybody could guess it.
    #[error("the secret of {of} is empty or blank; write the secret to it, or leave it out")]
    Blank {
        /// The flag and its file, or the environment variable.
        of: String,
    },
    /// A secret has a line break in it, most likely because there are two.
    #[error(
        "the secret of {of} has more than one line; there is one secret to a file, and the flag \
         is repeatable for more"
    )]
    Lines {
        /// The flag and its file, or the environment variable.
        of: String,
    },
    /// The secret is not UTF-8.
    #[error("the secret of {of} is not UTF-8 text")]
    NotText {
        /// The environment variable.
        of: String,
    },
}

impl Secrets {
    /// Reads all that is there.
    ///
    /// # Errors
    ///
    /// Where one cannot be taken: the error names its place and never its value.
    pub fn read(sources: &[SecretSource]) -> Result<Self, SecretError> {
        let mut secrets = Self::default();
        for source in sources {
            let of = source.place.name();
            let Some(text) = source.place.read()? else {
                continue;
            };
            let text = without_newline(&text);
            check(text, &of)?;
            let findings = findings(source.kind, text);
            if !findings.is_empty() {
                let findings = findings.join(", and ");
                secrets.warnings.push(format!(
                    "the secret of {of} {findings}; all of it is taken as the secret"
                ));
            }
            let (provider, kind) = (source.provider, source.kind);
            secrets.all.push(Secret {
                provider,
                kind,
                value: text.into(),
            });
        }
        Ok(secrets)
    }

    /// The providers whose secrets are others, or in another order, than `before`.
    pub fn changed(&self, before: &Self) -> Vec<ProviderName> {
        let of = |secrets: &Self, provider: ProviderName| -> Vec<(SecretKind, String)> {
            let own = secrets
                .all
                .iter()
                .filter(|secret| secret.provider == provider);
            own.map(|secret| (secret.kind, secret.value.expose_secret().to_owned()))
                .collect()
        };
        let names = providers::ALL.iter().map(|provider| provider.name);
        names
            .filter(|name| of(self, *name) != of(before, *name))
            .collect()
    }

    /// The secrets of a provider that prove its webhooks.
    pub fn proving(&self, provider: ProviderName) -> impl Iterator<Item = &Secret> {
        self.of(provider, |kind| kind != SecretKind::VerifyToken)
    }

    /// The first secret of a provider that proves its webhooks.
    pub(crate) fn into_proving(self, provider: ProviderName) -> Option<Secret> {
        let mut all = self.all.into_iter();
        all.find(|secret| secret.provider == provider && secret.kind != SecretKind::VerifyToken)
    }

    /// The tokens of a provider's handshake.
    pub fn verify_tokens(&self, provider: ProviderName) -> impl Iterator<Item = &Secret> {
        self.of(provider, |kind| kind == SecretKind::VerifyToken)
    }

    fn of(
        &self,
        provider: ProviderName,
        is_wanted: fn(SecretKind) -> bool,
    ) -> impl Iterator<Item = &Secret> {
        let of = move |secret: &&Secret| secret.provider == provider && is_wanted(secret.kind);
        self.all.iter().filter(of)
    }
}

/// For benchmarks and tests, which need no files.
impl FromIterator<Secret> for Secrets {
    fn from_iter<I: IntoIterator<Item = Secret>>(secrets: I) -> Self {
        Self {
            all: secrets.into_iter().collect(),
            warnings: Vec::new(),
        }
    }
}

impl SecretPlace {
    fn name(&self) -> String {
        match self {
            Self::File { flag, path } => format!("--{flag} ({})", path.display()),
            Self::Variable(name) => name.clone(),
        }
    }

    /// What stands there; `None` where the variable is unset.
    fn read(&self) -> Result<Option<String>, SecretError> {
        match self {
            Self::File { flag, path } => match fs::read_to_string(path) {
                Ok(text) => Ok(Some(text)),
                Err(source) => Err(SecretError::File {
                    flag: flag.clone(),
                    path: path.clone(),
                    source,
                }),
            },
            Self::Variable(name) => match env::var(name) {
                Ok(text) => Ok(Some(text)),
                Err(VarError::NotPresent) => Ok(None),
                Err(VarError::NotUnicode(_)) => Err(SecretError::NotText { of: name.clone() }),
            },
        }
    }
}

impl SecretKind {
    fn name(self) -> &'static str {
        match self {
            Self::AppSecret => "app-secret",
            Self::SigningSecret => "secret",
            Self::VerifyToken => "verify-token",
            Self::Token => "token",
        }
    }

    /// What `--help` says of the flag.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::AppSecret => "file with an app secret, which signs the webhooks (repeatable)",
            Self::SigningSecret => {
                "file with the endpoint's secret, which signs the webhooks (repeatable)"
            }
            Self::VerifyToken => "file with a token for the handshake (repeatable)",
            Self::Token => {
                "file with a token, sent in Authorization or as the last path segment (repeatable)"
            }
        }
    }

    /// The flag that names a file with such a secret, without its dashes.
    pub(crate) fn flag(self, provider: ProviderName) -> String {
        format!("{provider}.{}-file", self.name())
    }

    /// The variable that holds the secret itself.
    pub(crate) fn variable(self, provider: ProviderName) -> String {
        variable(&format!("{provider}.{}", self.name()))
    }
}

/// The environment variable of a flag.
pub(crate) fn variable(flag: &str) -> String {
    format!(
        "WHATSAPP_EXPORTER_{}",
        flag.replace(['.', '-'], "_").to_uppercase()
    )
}

/// Reads the file of a key, which may have any bytes, without the line break at its end.
pub(super) fn read_key(flag: &str, path: &Path) -> Result<Vec<u8>, SecretError> {
    let file = SecretPlace::File {
        flag: flag.to_owned(),
        path: path.to_owned(),
    };
    let mut key = fs::read(path).map_err(|source| SecretError::File {
        flag: flag.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    for end in [b'\n', b'\r'] {
        if key.last() == Some(&end) {
            key.pop();
        }
    }
    match key.trim_ascii().is_empty() {
        true => Err(SecretError::Blank { of: file.name() }),
        false => Ok(key),
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

fn without_newline(text: &str) -> &str {
    match text.strip_suffix('\n') {
        Some(line) => line.strip_suffix('\r').unwrap_or(line),
        None => text,
    }
}

fn check(text: &str, of: &str) -> Result<(), SecretError> {
    let is_blank = |c: char| c.is_whitespace() || c == BYTE_ORDER_MARK;
    if text.chars().all(is_blank) {
        Err(SecretError::Blank { of: of.into() })
    } else if text.contains('\n') {
        Err(SecretError::Lines { of: of.into() })
    } else {
        Ok(())
    }
}

/// What is odd about a secret.
fn findings(kind: SecretKind, text: &str) -> Vec<&'static str> {
    let unmarked = text.trim_start_matches(BYTE_ORDER_MARK);
    let bare = unmarked.trim();
    let is_quoted = |quote| bare.len() > 1 && bare.starts_with(quote) && bare.ends_with(quote);
    let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let findings = [
        (unmarked != text, "begins with a byte order mark"),
        (unmarked != bare, "begins or ends with white space"),
        (is_quoted('"') || is_quoted('\''), "stands in quotes"),
        (
            kind == SecretKind::AppSecret && !(is_hex && text.len() == 32),
            "is not 32 lower-case hex digits, as app secrets of Meta are",
        ),
    ];
    findings
        .into_iter()
        .filter_map(|(is_found, what)| is_found.then_some(what))
        .collect()
}
