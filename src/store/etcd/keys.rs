//! The keys below the prefix, besides those of documents.

use serde_json::Result;

use crate::{
    domain::{AccountKey, NumberKey},
    state::Entity,
    store::document,
};

const MEMBERS: &str = "members";
const CLOCK: &[u8] = br#"["clock"]"#;
/// In capitals, so that it stands before all others.
pub(super) const RESTORED: &[u8] = br#"["RESTORED"]"#;

/// The prefix of all keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Vec<u8>,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A record.
    Record,
    /// A provider's signs of life, of which the later counts; or what a later version has stored.
    Other,
    /// That an account got numbers.
    Members,
    /// That time passes.
    Clock,
    /// That an older state of the cluster was restored.
    Restored,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.as_bytes().to_vec();
        Self { prefix }
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The key as etcd has it.
    pub(super) fn full(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// The key without the prefix.
    pub(super) fn strip<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.prefix.as_slice())
    }

    pub(super) fn clock(&self) -> Vec<u8> {
        self.full(CLOCK)
    }
}

impl Key {
    pub(super) fn of(key: &[u8]) -> Self {
        let is_kind = |kind: &str| {
            let rest = key.strip_prefix(br#"[""#);
            rest.and_then(|rest| rest.strip_prefix(kind.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&b'"'))
        };
        match () {
            () if key == CLOCK => Self::Clock,
            () if key == RESTORED => Self::Restored,
            () if is_kind(MEMBERS) => Self::Members,
            () if is_kind(NumberKey::KIND) || is_kind(AccountKey::KIND) => Self::Record,
            () => Self::Other,
        }
    }
}

/// The key that is put when an account gets a number.
pub(super) fn members_of(account: &AccountKey) -> Result<Vec<u8>> {
    document::key_with_kind(MEMBERS, account)
}

/// What the keys of an account's numbers begin with, by its key of members.
pub(super) fn numbers_of(members: &[u8]) -> Option<Vec<u8>> {
    let rest = members.strip_prefix(br#"["members","#)?;
    let account = rest.strip_suffix(b"]")?;
    Some([br#"["number","#, account, b","].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PhoneNumber, WabaId};

    #[test]
    fn keys_of_an_accounts_numbers_begin_with_what_its_key_of_members_says() {
        let account = AccountKey {
            provider: crate::providers::by_name("meta").unwrap().name,
            waba_id: WabaId::parse(r#"1"2"#).unwrap_or_else(|_| WabaId::parse("12").unwrap()),
        };
        let number = NumberKey::of(&account, &PhoneNumber::parse("15550783881").unwrap());
        let key = document::key_with_kind(NumberKey::KIND, &number).unwrap();
        let members = members_of(&account).unwrap();
        assert_eq!(Key::of(&key), Key::Record);
        assert_eq!(Key::of(&members), Key::Members);
        assert_eq!(Key::of(CLOCK), Key::Clock);
        assert_eq!(Key::of(br#"["provider","meta"]"#), Key::Other);
        assert!(key.starts_with(&numbers_of(&members).unwrap()));
    }
}
