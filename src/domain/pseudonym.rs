//! What is shown in the place of a phone number, where whoever reads metrics is not to know it.

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;

use super::PhoneNumber;

/// How phone numbers are shown on every page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumberPrivacy {
    /// As they are.
    #[default]
    Plain,
    /// Masked to the last four characters, with eight digits of the hash.
    Masked,
    /// By the hash alone.
    Hashed,
}

/// Makes pseudonyms of phone numbers with a key, without which nobody can try which number has one.
pub struct Pseudonyms {
    is_masked: bool,
    key: hmac::Key,
}

/// Hexadecimal digits of the hash behind a masked number: of two numbers with the same last four
/// digits one in 4 billion pairs shares them.
const MASKED_HASH: usize = 8;
/// Hexadecimal digits of the hash where nothing else is shown.
const HASH: usize = 16;

impl NumberPrivacy {
    /// The pseudonyms that are shown; `None` where numbers are shown as they are.
    pub fn pseudonyms(self, key: &[u8]) -> Option<Pseudonyms> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let is_masked = match self {
            Self::Plain => return None,
            Self::Masked => true,
            Self::Hashed => false,
        };
        Some(Pseudonyms { is_masked, key })
    }
}

impl FromStr for NumberPrivacy {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "plain" => Ok(Self::Plain),
            "masked" => Ok(Self::Masked),
            "hashed" => Ok(Self::Hashed),
            _ => Err("expected plain, masked or hashed"),
        }
    }
}

impl Pseudonyms {
    /// The pseudonym of a number: with the same key always the same.
    pub fn of(&self, phone_number: &PhoneNumber) -> String {
        let hash = hmac::sign(&self.key, phone_number.as_str().as_bytes());
        let mut hash = base16ct::lower::encode_string(hash.as_ref());
        if self.is_masked {
            hash.truncate(MASKED_HASH);
            format!("{}{hash}", phone_number.masked())
        } else {
            hash.truncate(HASH);
            hash
        }
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pseudonyms").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonym_depends_on_the_number_and_on_the_key() {
        let number = |text| PhoneNumber::parse(text).unwrap();
        let of = |privacy: NumberPrivacy, key: &[u8], text| {
            let pseudonyms = privacy.pseudonyms(key).unwrap();
            pseudonyms.of(&number(text))
        };
        // echo -n 15550783881 | openssl dgst -sha256 -hmac key
        assert_eq!(
            of(NumberPrivacy::Hashed, b"key", "15550783881"),
            "048a774903b46981"
        );
        assert_eq!(
            of(NumberPrivacy::Masked, b"key", "15550783881"),
            "*******3881048a7749"
        );
        let masked = |key: &[u8], text| of(NumberPrivacy::Masked, key, text);
        assert_ne!(
            masked(b"key", "15550783881"),
            masked(b"other", "15550783881")
        );
        assert_ne!(masked(b"key", "15550783881"), masked(b"key", "25550783881"));
        assert!(NumberPrivacy::Plain.pseudonyms(b"key").is_none());
    }
}
