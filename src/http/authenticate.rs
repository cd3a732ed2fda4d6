//! Whether a request is the provider's.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderName},
};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use smallvec::SmallVec;
use subtle::{Choice, ConstantTimeEq};

use super::header;
use crate::{
    config::{Secret, Secrets},
    domain::{ProviderName, Timestamp},
    providers::{Provider, SecretKind, SignatureForm},
    telemetry::{Telemetry, TimeGauge},
};

/// Checks the proofs of a provider's requests.
pub struct Authenticator {
    access: Access,
    /// When each secret last proved a webhook.
    last_used: Vec<TimeGauge>,
    verify_tokens: Tokens,
}

enum Access {
    /// Nobody may send: the provider is off.
    Off,
    /// Anybody may send.
    Open,
    /// A request must be signed with one of the keys, or carry one of the tokens.
    Proven { keys: Option<Keys>, tokens: Tokens },
}

/// The keys of a provider's signatures, each with its number among the secrets, from 0.
struct Keys {
    header: HeaderName,
    form: SignatureForm,
    keys: Vec<(usize, hmac::Key)>,
}

/// SHA-256 of each token: of one length, so that a comparison tells nothing of the token's. Each has
/// its number among the secrets, from 0.
struct Tokens(Vec<(usize, [u8; 32])>);

/// What is still to be proven once the body is there.
pub(super) enum PendingSignature {
    /// Nothing: the request is authentic.
    None,
    /// That this signature is of the body.
    Of {
        signature: [u8; 32],
        /// What is signed before the body.
        before: Vec<u8>,
    },
}

/// Why a request is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthError {
    /// It carries no proof.
    Missing,
    /// Its proof is false.
    Wrong,
}

impl AuthError {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "it carries no signature or token",
            Self::Wrong => "its signature or token is wrong",
        }
    }
}

impl Authenticator {
    /// The authenticator of a provider with these secrets; without any, it is on only if it is
    /// among those that anybody may send.
    pub fn new(
        provider: &Provider,
        secrets: &Secrets,
        allow_unauthenticated: &[ProviderName],
        telemetry: &Telemetry,
    ) -> Self {
        let proving: Vec<_> = secrets.proving(provider.name).enumerate().collect();
        let is_token = |secret: &Secret| secret.kind == SecretKind::Token;
        let tokens = || {
            proving
                .iter()
                .filter(|(_, secret)| is_token(secret))
                .copied()
        };
        let signing = || proving.iter().filter(|(_, secret)| !is_token(secret));
        let keys = provider.proof.signature().map(|signature| Keys {
            header: HeaderName::from_static(signature.header),
            form: signature.form,
            keys: signing()
                .map(|(number, secret)| (*number, key_of(&secret.value)))
                .collect(),
        });
        let access = match proving.is_empty() {
            true if allow_unauthenticated.contains(&provider.name) => Access::Open,
            true => Access::Off,
            false => Access::Proven {
                keys: keys.filter(|keys| !keys.keys.is_empty()),
                tokens: Tokens::new(tokens()),
            },
        };
        let last_used = |number| telemetry.secret_last_used(provider.name, number);
        Self {
            access,
            last_used: (1..=proving.len()).map(last_used).collect(),
            verify_tokens: Tokens::new(secrets.verify_tokens(provider.name).enumerate()),
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
        matches!(&self.access, Access::Proven { tokens, .. } if !tokens.0.is_empty())
    }

    /// Checks what can be known before the body is there.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        path_token: Option<&str>,
    ) -> Result<PendingSignature, AuthError> {
        match &self.access {
            Access::Off => Err(AuthError::Missing),
            Access::Open => Ok(PendingSignature::None),
            Access::Proven { keys, tokens } => match keys {
                Some(keys) if tokens.0.is_empty() || headers.contains_key(&keys.header) => {
                    keys.check(headers)
                }
                _ => self.check_token(tokens, headers, path_token),
            },
        }
    }

    fn check_token(
        &self,
        tokens: &Tokens,
        headers: &HeaderMap,
        path_token: Option<&str>,
    ) -> Result<PendingSignature, AuthError> {
        let path_token = path_token.filter(|token| !token.is_empty());
        let authorization = header(headers, AUTHORIZATION);
        if path_token.is_none() && authorization.is_none() {
            return Err(AuthError::Missing);
        }
        let bearer = authorization.and_then(|value| {
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        let decoded = path_token.map(|token| percent_decode_str(token).collect::<Vec<u8>>());
        let candidates = [authorization, bearer, decoded.as_deref()];
        // Each is looked up, whichever is known.
        let found = candidates
            .into_iter()
            .flatten()
            .map(|candidate| tokens.find(candidate));
        let known = found.fold(None, Option::or);
        self.note_use(known.ok_or(AuthError::Wrong)?);
        Ok(PendingSignature::None)
    }

    /// Whether a signature is of this body, with any of the secrets.
    pub(super) fn verify(&self, pending: &PendingSignature, body: &[u8]) -> Result<(), AuthError> {
        match (pending, &self.access) {
            (PendingSignature::None, _) => Ok(()),
            (
                PendingSignature::Of { signature, before },
                Access::Proven {
                    keys: Some(keys), ..
                },
            ) => {
                let is_signed = |(_, key): &&(usize, hmac::Key)| {
                    let mut context = hmac::Context::with_key(key);
                    context.update(before);
                    context.update(body);
                    context.sign().as_ref().ct_eq(signature).into()
                };
                let known = keys.keys.iter().find(is_signed);
                self.note_use(known.ok_or(AuthError::Wrong)?.0);
                Ok(())
            }
            (PendingSignature::Of { .. }, _) => Err(AuthError::Wrong),
        }
    }

    fn note_use(&self, secret: usize) {
        if let Some(last_used) = self.last_used.get(secret) {
            last_used.set(Timestamp::from(SystemTime::now()));
        }
    }

    /// Whether a handshake carries a configured token.
    pub(super) fn knows_verify_token(&self, token: &str) -> bool {
        self.verify_tokens.find(token.as_bytes()).is_some()
    }
}

impl Keys {
    fn check(&self, headers: &HeaderMap) -> Result<PendingSignature, AuthError> {
        let mut all = headers.get_all(&self.header).iter();
        let given = all.next().ok_or(AuthError::Missing)?;
        // A sender signs once. Of two signatures, a proxy may have checked the other one.
        if all.next().is_some() {
            return Err(AuthError::Wrong);
        }
        let (before, digits) = self.form.read(given.as_bytes()).ok_or(AuthError::Wrong)?;
        let mut signature = [0; 32];
        match base16ct::mixed::decode(digits, &mut signature) {
            Ok(decoded) if decoded.len() == 32 => Ok(PendingSignature::Of { signature, before }),
            _ => Err(AuthError::Wrong),
        }
    }
}

fn key_of(secret: &SecretString) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
}

impl Tokens {
    fn new<'a>(tokens: impl Iterator<Item = (usize, &'a Secret)>) -> Self {
        let hash = |token: &Secret| sha256(token.value.expose_secret().as_bytes());
        Self(
            tokens
                .map(|(number, token)| (number, hash(token)))
                .collect(),
        )
    }

    /// The number of the secret that this token is. Every token is compared to its end, so that the
    /// time tells nothing of them; only a sender that has one could learn from it which of them it
    /// is.
    fn find(&self, candidate: &[u8]) -> Option<usize> {
        let candidate = sha256(candidate);
        let is_same = |(number, token): &(usize, [u8; 32])| (*number, token.ct_eq(&candidate));
        let matches: SmallVec<[(usize, Choice); 4]> = self.0.iter().map(is_same).collect();
        let mut matches = matches.into_iter();
        matches
            .find(|(_, is_same)| bool::from(*is_same))
            .map(|(number, _)| number)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
