//! Who may send webhooks.

use aws_lc_rs::{digest, hmac};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderName},
};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use super::header;
use crate::{
    config::ProviderConfig,
    providers::{self, Auth, Provider},
};

static SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// A provider and the proof it owes.
pub struct Gate {
    /// The provider.
    pub provider: &'static dyn Provider,
    access: Access,
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
    pub fn all(configs: &[ProviderConfig]) -> Vec<Self> {
        let of = |provider: &&'static dyn Provider| {
            let config = configs.iter().find(|config| config.name == provider.name())?;
            Some(Self::new(*provider, config))
        };
        providers::ALL.iter().filter_map(of).collect()
    }

    fn new(provider: &'static dyn Provider, config: &ProviderConfig) -> Self {
        let access = match (config.secrets.as_slice(), config.allow_unauthenticated) {
            ([], true) => Access::Open,
            ([], false) => Access::Off,
            (secrets, _) => match provider.auth() {
                Auth::Signature => {
                    let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                    Access::Signed(secrets.iter().map(|secret| key(secret.expose_secret())).collect())
                }
                Auth::Token => Access::Token(Tokens::new(secrets)),
            },
        };
        Self { provider, access, verify_tokens: Tokens::new(&config.verify_tokens) }
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
    pub(super) fn check(&self, headers: &HeaderMap, path_token: Option<&str>) -> Result<Proof, Denied> {
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
                let decoded = path_token.map(|token| percent_decode_str(token).collect::<Vec<u8>>());
                let candidates = [authorization, bearer, path_token.map(str::as_bytes), decoded.as_deref()];
                let known = candidates
                    .into_iter()
                    .flatten()
                    .fold(Choice::from(0), |known, candidate| known | tokens.know(candidate));
                if known.into() { Ok(Proof::Done) } else { Err(Denied::Wrong) }
            }
        }
    }

    /// Whether a signature is of this body, with any of the secrets.
    pub(super) fn verify(&self, proof: &Proof, body: &[u8]) -> Result<(), Denied> {
        match (proof, &self.access) {
            (Proof::Done, _) => Ok(()),
            (Proof::Signature(signature), Access::Signed(keys))
                if keys.iter().any(|key| hmac::verify(key, body, signature).is_ok()) =>
            {
                Ok(())
            }
            (Proof::Signature(_), _) => Err(Denied::Wrong),
        }
    }

    /// Whether a handshake carries a configured token.
    pub(super) fn knows_verify_token(&self, token: &str) -> bool {
        self.verify_tokens.know(token.as_bytes()).into()
    }
}

impl Tokens {
    fn new(tokens: &[secrecy::SecretString]) -> Self {
        Self(tokens.iter().map(|token| sha256(token.expose_secret().as_bytes())).collect())
    }

    fn know(&self, candidate: &[u8]) -> Choice {
        let candidate = sha256(candidate);
        self.0.iter().fold(Choice::from(0), |known, token| known | token.ct_eq(&candidate))
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
