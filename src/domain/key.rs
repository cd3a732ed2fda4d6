//! Phone numbers and accounts: what is read from a webhook, and what is known under it.

use std::fmt;

use smol_str::SmolStr;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::ProviderName;

/// A phone number in one spelling: without a leading `+`, white space, invisible marks, dashes,
/// `.`, `(`, `)` and `/`, and with ASCII digits.
///
/// Any other character is kept, because some providers mask digits (`1086***36726376`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhoneNumber(SmolStr);

/// The id of a WhatsApp Business Account; empty where the provider sends none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WabaId(SmolStr);

/// An account at a provider.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The provider.
    pub provider: ProviderName,
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
    /// No spelling of a number or an id has one, so the text was cut or joined on its way.
    #[error("the phone number or the account id holds a control character")]
    ControlCharacter,
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
        decodable(text)?;
        let bare: SmolStr = text
            .chars()
            .filter(|c| !is_punctuation(*c))
            .map(ascii_digit)
            .collect();
        // Every leading `+`, so that a number reads as itself again: from the storage, from a
        // filter.
        let number = bare.trim_start_matches('+');
        if number.is_empty() {
            Err(InvalidKey::NumberEmpty)
        } else if number.chars().count() > MAX_CHARACTERS {
            Err(InvalidKey::NumberTooLong)
        } else if number.contains(['<', '>']) {
            Err(InvalidKey::NumberPlaceholder)
        } else {
            Ok(Self(number.into()))
        }
    }

    /// Takes a number as an earlier version of this program stored it, whose rules may have been
    /// others.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The number as the label `phone_number` shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number with all but its last four characters masked, for logs.
    pub fn masked(&self) -> SmolStr {
        let length = self.0.chars().count();
        let shown = if length > 4 { length - 4 } else { length };
        self.0
            .chars()
            .enumerate()
            .map(|(at, c)| if at < shown { '*' } else { c })
            .collect()
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
        decodable(text)?;
        Ok(Self(text.into()))
    }

    /// Takes an id as an earlier version of this program stored it, whose rules may have been
    /// others.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
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

impl NumberKey {
    /// The key of a number of an account.
    pub fn of(account: &AccountKey, phone_number: &PhoneNumber) -> Self {
        Self {
            account: account.clone(),
            phone_number: phone_number.clone(),
        }
    }
}

/// Whether a text came whole. U+FFFD stands where a decoder met bytes that are not UTF-8.
fn decodable(text: &str) -> Result<(), InvalidKey> {
    if text.contains(char::is_control) {
        Err(InvalidKey::ControlCharacter)
    } else if text.contains(char::REPLACEMENT_CHARACTER) {
        Err(InvalidKey::Undecodable)
    } else {
        Ok(())
    }
}

/// Whether a character only divides a number's digits for the eye, or is not seen at all.
fn is_punctuation(c: char) -> bool {
    match c {
        ' ' | '-' | '.' | '(' | ')' | '/' => true,
        _ if c.is_ascii() => false,
        _ => {
            c.is_whitespace()
                || matches!(
                    c.general_category(),
                    GeneralCategory::Format | GeneralCategory::DashPunctuation
                )
        }
    }
}

/// A decimal digit of any script as the ASCII one; any other character as it is.
fn ascii_digit(c: char) -> char {
    let is_digit = |c: char| c.general_category() == GeneralCategory::DecimalNumber;
    if c.is_ascii() || !is_digit(c) {
        return c;
    }
    // Unicode gives each script ten digits in a row from zero to nine, so the place in the row is
    // the value. Rows that follow one another without a gap (mathematical digits) are tens as well.
    let before = (1..=c as u32)
        .map_while(|steps| char::from_u32(c as u32 - steps))
        .take_while(|c| is_digit(*c));
    char::from_digit(u32::try_from(before.count() % 10).unwrap_or_default(), 10).unwrap_or(c)
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
        for text in [
            "15550783881",
            "+1 555-078-3881",
            " 15550783881",
            "(1555) 078.3881",
            "+ (+) 15550783881",
            "1555/078/3881",
            // Direction marks, a soft hyphen, a zero width space, a byte order mark, no-break
            // spaces, dashes.
            "\u{202a}+1\u{a0}555\u{2011}078\u{2013}3881\u{202c}",
            "\u{feff}1\u{ad}555\u{200b}078\u{202f}3881\u{200e}",
            "\u{200e}+1555\u{ff0d}0783881",
            "１５５５０７８３８８１",
            "١٥٥٥٠٧٨٣٨٨١",
            "१५५५०७८३८८१",
            "𝟏𝟓𝟓𝟓𝟎𝟕𝟖𝟑𝟖𝟖𝟏",
            "𝟷𝟻𝟻𝟻𝟶𝟽𝟾𝟹𝟾𝟾𝟷",
        ] {
            assert_eq!(
                PhoneNumber::parse(text).unwrap().as_str(),
                "15550783881",
                "{text:?}"
            );
        }
        assert_eq!(
            PhoneNumber::parse("1086***36726376").unwrap().as_str(),
            "1086***36726376"
        );
        assert_eq!(PhoneNumber::parse("1+2").unwrap().as_str(), "1+2");
    }

    #[test]
    fn text_that_is_not_a_number_is_refused() {
        for (text, want) in [
            ("", InvalidKey::NumberEmpty),
            ("+", InvalidKey::NumberEmpty),
            (" -.() ", InvalidKey::NumberEmpty),
            ("<display_phone_number>", InvalidKey::NumberPlaceholder),
            ("1>", InvalidKey::NumberPlaceholder),
            ("1\u{fffd}", InvalidKey::Undecodable),
            ("\t15550783881", InvalidKey::ControlCharacter),
            ("15550783881\n", InvalidKey::ControlCharacter),
            ("1555\u{0}0783881", InvalidKey::ControlCharacter),
            ("1555\u{85}0783881", InvalidKey::ControlCharacter),
            ("\u{200e}\u{a0}", InvalidKey::NumberEmpty),
            (&"1".repeat(65), InvalidKey::NumberTooLong),
        ] {
            assert_eq!(PhoneNumber::parse(text).unwrap_err(), want, "{text:?}");
        }
        assert!(PhoneNumber::parse(&"é".repeat(64)).is_ok());
        assert_eq!(
            WabaId::parse(&"1".repeat(65)).unwrap_err(),
            InvalidKey::AccountTooLong
        );
        assert_eq!(
            WabaId::parse("1\n").unwrap_err(),
            InvalidKey::ControlCharacter
        );
    }

    #[test]
    fn digits_of_every_script_have_their_value() {
        let of_all_scripts = |value: u32| {
            ('\u{80}'..=char::MAX)
                .filter(|c| c.general_category() == GeneralCategory::DecimalNumber)
                .filter(|c| ascii_digit(*c) == char::from_digit(value, 10).unwrap())
                .count()
        };
        let zeros = of_all_scripts(0);
        assert!(zeros > 60, "{zeros}");
        assert!((1..10).all(|value| of_all_scripts(value) == zeros));
    }

    #[test]
    fn a_mask_keeps_at_most_four() {
        for (text, want) in [
            ("15550783881", "*******3881"),
            ("12345", "*2345"),
            ("1234", "****"),
            ("éééééé", "**éééé"),
        ] {
            assert_eq!(PhoneNumber::parse(text).unwrap().masked(), want);
        }
    }
}
