//! Passwords of the private listener, by HTTP's Basic scheme (RFC 7617) and bcrypt.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::Mutex as AsyncMutex;

/// Users, and the passwords that were found right.
pub(super) struct Passwords {
    users: BTreeMap<String, SecretString>,
    /// A hash that no password has, as costly as the costliest of the users, so that the time of an
    /// answer does not tell whether a user exists.
    of_nobody: SecretString,
    /// Of each user the last password that was right, as its HMAC by the user's hash: a scraper
    /// sends its password with each scrape, and bcrypt takes 70 ms at cost 10.
    known: Mutex<HashMap<String, hmac::Tag>>,
    /// Taken while bcrypt runs: one at a time, so that wrong passwords take one processor at most.
    turn: AsyncMutex<()>,
}

/// A user and a password as a client sent them.
struct Credentials {
    user: String,
    password: SecretString,
}

impl Passwords {
    /// The passwords of these users, or nothing where there are none.
    pub(super) fn new(users: &BTreeMap<String, SecretString>) -> Option<Self> {
        if users.is_empty() {
            return None;
        }
        let cost = users.values().filter_map(cost).max();
        let cost = cost.unwrap_or(bcrypt::DEFAULT_COST);
        // 22 characters of salt and 31 of the hash itself.
        let of_nobody = format!("$2b${cost:02}${}", ".".repeat(53));
        Some(Self {
            users: users.clone(),
            of_nobody: of_nobody.into(),
            known: Mutex::default(),
            turn: AsyncMutex::new(()),
        })
    }

    /// Whether the value of an `Authorization` header has the password of a user.
    pub(super) async fn verify(&self, authorization: &[u8]) -> bool {
        let Some(credentials) = Credentials::read(authorization) else {
            return false;
        };
        let Credentials { user, password } = credentials;
        let own = self.users.get(&user);
        let hash = own.unwrap_or(&self.of_nobody).clone();
        let key = hmac::Key::new(hmac::HMAC_SHA256, hash.expose_secret().as_bytes());
        let tag = hmac::sign(&key, password.expose_secret().as_bytes());
        if self.is_known(&user, &tag) {
            return true;
        }
        let _turn = self.turn.lock().await;
        let verify = move || bcrypt::verify(password.expose_secret(), hash.expose_secret());
        let verified = tokio::task::spawn_blocking(verify).await;
        let is_right = own.is_some() && matches!(verified, Ok(Ok(true)));
        if is_right {
            self.lock_known().insert(user, tag);
        }
        is_right
    }

    fn is_known(&self, user: &str, tag: &hmac::Tag) -> bool {
        let known = self.lock_known();
        let known = known.get(user);
        known.is_some_and(|known| known.as_ref().ct_eq(tag.as_ref()).into())
    }

    fn lock_known(&self) -> MutexGuard<'_, HashMap<String, hmac::Tag>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    fn read(authorization: &[u8]) -> Option<Self> {
        let (scheme, encoded) = authorization.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim_ascii()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Self {
            user: user.to_owned(),
            password: password.into(),
        })
    }
}

fn cost(hash: &SecretString) -> Option<u32> {
    let parts: bcrypt::HashParts = hash.expose_secret().parse().ok()?;
    Some(parts.get_cost())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const WHILE: Duration = Duration::from_millis(500);

    fn passwords() -> Passwords {
        let hash = |password| SecretString::from(bcrypt::hash(password, 4).unwrap());
        let users = [("alice", "a:b"), ("bob", "")];
        let users = users.map(|(user, password)| (user.to_owned(), hash(password)));
        Passwords::new(&users.into()).unwrap()
    }

    fn basic(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[tokio::test]
    async fn password_is_right_for_its_user_alone() {
        let passwords = passwords();
        for round in 0..2 {
            assert!(passwords.verify(&basic("alice:a:b")).await, "round {round}");
            assert!(passwords.verify(&basic("bob:")).await, "round {round}");
            for wrong in [
                "alice:a:c",
                "alice:",
                "alice",
                "bob:a:b",
                "carol:a:b",
                ":",
                "",
            ] {
                assert!(!passwords.verify(&basic(wrong)).await, "{wrong}");
            }
        }
        for wrong in [
            &b""[..],
            b"Basic",
            b"Basic !",
            b"Bearer YWxpY2U6YTpi",
            b"\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(!passwords.verify(wrong).await);
        }
    }

    #[tokio::test]
    async fn bcrypt_runs_for_one_at_a_time_and_for_a_password_that_was_right_not_again() {
        let passwords = passwords();
        assert!(passwords.verify(&basic("alice:a:b")).await);
        let _turn = passwords.turn.lock().await;
        for (text, at_once) in [
            ("alice:a:b", Ok(true)),
            ("alice:wrong", Err(())),
            ("bob:", Err(())),
            ("carol:a:b", Err(())),
        ] {
            // Far longer than bcrypt takes at this cost.
            let authorization = basic(text);
            let verified = timeout(WHILE, passwords.verify(&authorization)).await;
            assert_eq!(verified.map_err(drop), at_once, "{text}");
        }
    }

    #[tokio::test]
    async fn hash_of_nobody_is_one_that_bcrypt_takes_and_no_password_has() {
        let passwords = passwords();
        let hash = passwords.of_nobody.expose_secret();
        assert!(!bcrypt::verify("", hash).unwrap());
    }
}
