//! Who may send webhooks.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderName},
};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use smallvec::SmallVec;
use subtle::{Choice, ConstantTimeEq};

use super::header;
use crate::{
    config::ProviderConfig,
    domain::Timestamp,
    providers::{self, Auth, Provider},
    telemetry::{Telemetry, TimeGauge},
};

static SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// A provider and the proof it owes.
pub struct Gate {
    /// The provider.
    pub provider: &'static dyn Provider,
    access: Access,
    /// When each secret last proved a webhook.
    last_used: Vec<TimeGauge>,
    verify_tokens: Tokens,
}

enum Access {
    /// Nobody: the provider is off.
    Off,
    /// Anybody.
    Open,
    /// Who signs with one of these.
    Signed(Vec<hmac::Key>),
    /// Who knows one of these.
    Token(Tokens),
}

/// SHA-256 of each token: of one length, so that a comparison tells nothing of the token's.
#[derive(Default)]
struct Tokens(Vec<[u8; 32]>);

/// What is still to be proven once the body is there.
pub(super) enum Proof {
    /// Nothing.
    Done,
    /// That this signs the body.
    Signature([u8; 32]),
}

/// Why a request is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It carries no proof.
    Missing,
    /// Its proof is false.
    Wrong,
}

impl Denied {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "it carries no signature or token",
            Self::Wrong => "its signature or token is wrong",
        }
    }
}

impl Gate {
    /// The gates of all providers, in the order of [`providers::ALL`].
    pub fn all(configs: &[ProviderConfig], telemetry: &Telemetry) -> Vec<Self> {
        let of = |provider: &&'static dyn Provider| {
            let config = configs
                .iter()
                .find(|config| config.name == provider.name())?;
            Some(Self::new(*provider, config, telemetry))
        };
        providers::ALL.iter().filter_map(of).collect()
    }

    fn new(
        provider: &'static dyn Provider,
        config: &ProviderConfig,
        telemetry: &Telemetry,
    ) -> Self {
        let access = match (config.secrets.as_slice(), config.allow_unauthenticated) {
            ([], true) => Access::Open,
            ([], false) => Access::Off,
            (secrets, _) => match provider.auth() {
                Auth::Signature => {
                    let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                    Access::Signed(
                        secrets
                            .iter()
                            .map(|secret| key(secret.expose_secret()))
                            .collect(),
                    )
                }
                Auth::Token => Access::Token(Tokens::new(secrets)),
            },
        };
        let last_used = (1..=config.secrets.len())
            .map(|number| telemetry.secret_last_used(provider.name(), number));
        Self {
            provider,
            access,
            last_used: last_used.collect(),
            verify_tokens: Tokens::new(&config.verify_tokens),
        }
    }

    /// Whether the provider's webhooks are received at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.access, Access::Off)
    }

    /// Whether anybody may send.
    pub fn is_open(&self) -> bool {
        matches!(self.access, Access::Open)
    }

    /// Whether the path may end in a token.
    pub(super) fn takes_token(&self) -> bool {
        matches!(self.access, Access::Token(_))
    }

    /// What can be known before the body is.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        path_token: Option<&str>,
    ) -> Result<Proof, Denied> {
        match &self.access {
            Access::Off => Err(Denied::Missing),
            Access::Open => Ok(Proof::Done),
            Access::Signed(_) => {
                let given = header(headers, &SIGNATURE).ok_or(Denied::Missing)?;
                let digits = given.strip_prefix(b"sha256=").ok_or(Denied::Wrong)?;
                let mut signature = [0; 32];
                match base16ct::mixed::decode(digits, &mut signature) {
                    Ok(decoded) if decoded.len() == 32 => Ok(Proof::Signature(signature)),
                    _ => Err(Denied::Wrong),
                }
            }
            Access::Token(tokens) => {
                let path_token = path_token.filter(|token| !token.is_empty());
                let authorization = header(headers, AUTHORIZATION);
                if path_token.is_none() && authorization.is_none() {
                    return Err(Denied::Missing);
                }
                let bearer = authorization.and_then(|value| {
                    let (scheme, token) = value.split_at_checked(7)?;
                    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
                });
                let decoded =
                    path_token.map(|token| percent_decode_str(token).collect::<Vec<u8>>());
                let candidates = [authorization, bearer, decoded.as_deref()];
                // Each is looked up, whichever is known.
                let found = candidates
                    .into_iter()
                    .flatten()
                    .map(|candidate| tokens.find(candidate));
                let known = found.fold(None, Option::or);
                self.proven_by(known.ok_or(Denied::Wrong)?);
                Ok(Proof::Done)
            }
        }
    }

    /// Whether a signature is of this body, with any of the secrets.
    pub(super) fn verify(&self, proof: &Proof, body: &[u8]) -> Result<(), Denied> {
        match (proof, &self.access) {
            (Proof::Done, _) => Ok(()),
            (Proof::Signature(signature), Access::Signed(keys)) => {
                let known = keys
                    .iter()
                    .position(|key| hmac::verify(key, body, signature).is_ok());
                self.proven_by(known.ok_or(Denied::Wrong)?);
                Ok(())
            }
            (Proof::Signature(_), _) => Err(Denied::Wrong),
        }
    }

    fn proven_by(&self, secret: usize) {
        if let Some(last_used) = self.last_used.get(secret) {
            last_used.set(Timestamp::from(SystemTime::now()));
        }
    }

    /// Whether a handshake carries a configured token.
    pub(super) fn knows_verify_token(&self, token: &str) -> bool {
        self.verify_tokens.find(token.as_bytes()).is_some()
    }
}

impl Tokens {
    fn new(tokens: &[secrecy::SecretString]) -> Self {
        Self(
            tokens
                .iter()
                .map(|token| sha256(token.expose_secret().as_bytes()))
                .collect(),
        )
    }

    /// Which token this is. Every token is compared to its end, so that the time tells nothing of them; only who has one
    /// learns from it which it is.
    fn find(&self, candidate: &[u8]) -> Option<usize> {
        let candidate = sha256(candidate);
        let matches: SmallVec<[Choice; 4]> =
            self.0.iter().map(|token| token.ct_eq(&candidate)).collect();
        matches.into_iter().position(bool::from)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
