//! The name of a provider.

use std::fmt;

/// The name of a provider: the label `provider`, the last part of the path `/webhooks/NAME`, the
/// first part of its flags. [`crate::providers::by_name`] finds the one that a text names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(&'static str);

impl ProviderName {
    /// The name of a provider in [`crate::providers::ALL`].
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name as a label value.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
