//! Closed vocabularies: the values of a label, of which a webhook names one.

/// A value of a closed vocabulary.
pub trait Vocabulary: Copy + PartialEq + 'static {
    /// Every value, in the order of the label values.
    const VALUES: &'static [Self];

    /// The value of the label.
    fn name(self) -> &'static str;

    /// Its place among [`Vocabulary::VALUES`].
    fn index(self) -> usize;

    /// The value of this name; case does not matter.
    fn find(name: &str) -> Option<Self> {
        let mut values = Self::VALUES.iter().copied();
        values.find(|value| value.name().eq_ignore_ascii_case(name))
    }

    /// The value of exactly this name.
    fn from_name(name: &str) -> Option<Self> {
        let mut values = Self::VALUES.iter().copied();
        values.find(|value| value.name() == name)
    }
}

/// Declares a vocabulary: its values in the order of the label values, each with its name.
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$value_meta:meta])* $value:ident = $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $($(#[$value_meta])* #[serde(rename = $text)] $value,)*
        }

        impl $name {
            /// Every value, in the order of the label values.
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$value),*];

            /// The values of the label.
            pub const NAMES: [&'static str; [$($text),*].len()] = [$($text),*];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl $crate::domain::Vocabulary for $name {
            const VALUES: &'static [Self] = &Self::ALL;

            fn name(self) -> &'static str {
                self.as_str()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(super) use vocabulary;
