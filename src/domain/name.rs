//! The display name of a phone number, which a person gives it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The display name of a phone number, as a console shows it: no webhook carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DisplayName(Box<str>);

/// Why a text is no display name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// WhatsApp's own limit is 75 characters; longer ones would be most of every line that has them.
    #[error("the name is longer than 64 characters")]
    TooLong,
    /// It would break lines of the log and of tables.
    #[error("the name holds a control character")]
    ControlCharacter,
}

const MAX_CHARACTERS: usize = 64;

impl DisplayName {
    /// Takes a name without the white space around it; `None` where nothing is left.
    ///
    /// # Errors
    ///
    /// [`InvalidName`].
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidName> {
        let name = text.trim();
        if name.chars().count() > MAX_CHARACTERS {
            Err(InvalidName::TooLong)
        } else if name.contains(char::is_control) {
            Err(InvalidName::ControlCharacter)
        } else {
            Ok((!name.is_empty()).then(|| Self(name.into())))
        }
    }

    /// The name as the label `name` shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_trimmed_and_short_and_has_no_control_characters() {
        let name =
            |text: &str| DisplayName::parse(text).map(|name| name.map(|name| name.to_string()));
        assert_eq!(name("  Käse & Co. "), Ok(Some("Käse & Co.".into())));
        assert_eq!(name("   "), Ok(None));
        assert_eq!(name(&"é".repeat(64)), Ok(Some("é".repeat(64))));
        assert_eq!(name(&"é".repeat(65)), Err(InvalidName::TooLong));
        assert_eq!(name("a\nb"), Err(InvalidName::ControlCharacter));
    }
}
