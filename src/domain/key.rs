use std::fmt;

use smol_str::SmolStr;

/// A phone number in one spelling: without a leading `+`, spaces, `-`, `.`, `(` and `)`.
///
/// Any other character is kept, for some providers mask digits (`1086***36726376`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhoneNumber(SmolStr);

/// The id of a WhatsApp Business Account; empty where the provider sends none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WabaId(SmolStr);

/// An account at a provider.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The provider's name, as in [`crate::providers::ALL`].
    pub provider: &'static str,
    /// The account's id.
    pub waba_id: WabaId,
}

/// A phone number of an account.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumberKey {
    /// The account the number belongs to.
    pub account: AccountKey,
    /// The number.
    pub phone_number: PhoneNumber,
}

/// Why a phone number or an account id is not one; the sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Nothing is left of the phone number.
    #[error("the phone number is missing or empty")]
    NumberEmpty,
    /// No number is that long; E.164 allows 15 digits.
    #[error("the phone number is longer than 64 characters")]
    NumberTooLong,
    /// `<display_phone_number>`: the sender did not fill in its template.
    #[error("the phone number holds '<' or '>': a placeholder that was not filled in")]
    NumberPlaceholder,
    /// Bytes that were not UTF-8 were lost on the way: two numbers could become one.
    #[error("the phone number or the account id holds U+FFFD: bytes of it were lost")]
    Undecodable,
    /// Meta's ids have 15 to 17 digits.
    #[error("the account id is longer than 64 characters")]
    AccountTooLong,
    /// A change of an account must name it.
    #[error("the account id is missing or empty")]
    AccountEmpty,
}

const MAX_CHARACTERS: usize = 64;

impl PhoneNumber {
    /// Normalises a number as a provider sends it.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`]; the sender is at fault.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let bare: SmolStr = text.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')')).collect();
        // Every leading `+`, so that a number reads as itself again: from the storage, from a filter.
        let number = bare.trim_start_matches('+');
        if number.is_empty() {
            Err(InvalidKey::NumberEmpty)
        } else if number.chars().count() > MAX_CHARACTERS {
            Err(InvalidKey::NumberTooLong)
        } else if number.contains(['<', '>']) {
            Err(InvalidKey::NumberPlaceholder)
        } else {
            decoded(number)?;
            Ok(Self(number.into()))
        }
    }

    /// The number as the label `phone_number` shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number with all but its last four characters masked, for logs.
    pub fn masked(&self) -> SmolStr {
        let length = self.0.chars().count();
        let shown = if length > 4 { length - 4 } else { length };
        self.0.chars().enumerate().map(|(at, c)| if at < shown { '*' } else { c }).collect()
    }
}

impl WabaId {
    /// Takes an id as a provider sends it; empty is *none*.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`]; the sender is at fault.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        if text.chars().count() > MAX_CHARACTERS {
            return Err(InvalidKey::AccountTooLong);
        }
        decoded(text)?;
        Ok(Self(text.into()))
    }

    /// The id as the label `waba_id` shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the provider sent none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// U+FFFD stands where a decoder met bytes that are not UTF-8.
fn decoded(text: &str) -> Result<(), InvalidKey> {
    if text.contains(char::REPLACEMENT_CHARACTER) { Err(InvalidKey::Undecodable) } else { Ok(()) }
}

/// Masked: a phone number is personal data, and what is printed for debugging ends in a log.
impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Debug for WabaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.provider, self.waba_id)
    }
}

impl fmt::Debug for NumberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.account, self.phone_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_number_are_one() {
        for text in ["15550783881", "+1 555-078-3881", " 15550783881", "(1555) 078.3881", "+ (+) 15550783881"] {
            assert_eq!(PhoneNumber::parse(text).unwrap().as_str(), "15550783881", "{text:?}");
        }
        assert_eq!(PhoneNumber::parse("1086***36726376").unwrap().as_str(), "1086***36726376");
        assert_eq!(PhoneNumber::parse("1+2").unwrap().as_str(), "1+2");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for (text, want) in [
            ("", InvalidKey::NumberEmpty),
            ("+", InvalidKey::NumberEmpty),
            (" -.() ", InvalidKey::NumberEmpty),
            ("<display_phone_number>", InvalidKey::NumberPlaceholder),
            ("1>", InvalidKey::NumberPlaceholder),
            ("1\u{fffd}", InvalidKey::Undecodable),
            (&"1".repeat(65), InvalidKey::NumberTooLong),
        ] {
            assert_eq!(PhoneNumber::parse(text).unwrap_err(), want, "{text:?}");
        }
        assert!(PhoneNumber::parse(&"é".repeat(64)).is_ok());
        assert_eq!(WabaId::parse(&"1".repeat(65)).unwrap_err(), InvalidKey::AccountTooLong);
    }

    #[test]
    fn a_mask_keeps_at_most_four() {
        for (text, want) in [("15550783881", "*******3881"), ("12345", "*2345"), ("1234", "****"), ("éééééé", "**éééé")]
        {
            assert_eq!(PhoneNumber::parse(text).unwrap().masked(), want);
        }
    }
}
