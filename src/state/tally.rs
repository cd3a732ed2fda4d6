//! Counts, in one place or for each value of a label.

use std::{collections::BTreeMap, marker::PhantomData};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Value, entity::SampleWriter};
use crate::domain::{Timestamp, Vocabulary};

/// How many there were, as this exporter observed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub total: u64,
    /// When the last of them was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

impl Tally {
    pub(super) fn count(&mut self, accepted_at: Timestamp) {
        self.total += 1;
        self.last = Some(accepted_at);
    }
}

/// Something for each of the `N` values of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ByValue<V, T, const N: usize> {
    of_value: [T; N],
    vocabulary: PhantomData<V>,
}

impl<V, T: Default, const N: usize> Default for ByValue<V, T, N> {
    fn default() -> Self {
        Self {
            of_value: std::array::from_fn(|_| T::default()),
            vocabulary: PhantomData,
        }
    }
}

impl<V: Vocabulary, T: Copy + Default, const N: usize> ByValue<V, T, N> {
    /// What there is of a value.
    pub fn of(&self, value: V) -> T {
        self.of_value
            .get(value.index())
            .copied()
            .unwrap_or_default()
    }

    /// What there is of each value, in the order of the label values.
    pub fn iter(&self) -> impl Iterator<Item = (V, T)> {
        V::VALUES.iter().copied().zip(self.of_value.iter().copied())
    }

    pub(super) fn of_mut(&mut self, value: V) -> Option<&mut T> {
        self.of_value.get_mut(value.index())
    }
}

impl<V: Vocabulary, const N: usize> ByValue<V, u64, N> {
    pub(super) fn count(&mut self, value: V) {
        if let Some(count) = self.of_mut(value) {
            *count += 1;
        }
    }

    pub(super) fn total_samples(&self, sample: &mut SampleWriter<'_>) {
        for (value, total) in self.iter() {
            sample(value.name(), Value::Count(total));
        }
    }
}

impl<V: Vocabulary, const N: usize> ByValue<V, Tally, N> {
    pub(super) fn count_at(&mut self, value: V, accepted_at: Timestamp) {
        if let Some(tally) = self.of_mut(value) {
            tally.count(accepted_at);
        }
    }

    pub(super) fn total_samples(&self, sample: &mut SampleWriter<'_>) {
        for (value, tally) in self.iter() {
            sample(value.name(), Value::Count(tally.total));
        }
    }

    pub(super) fn last_samples(&self, sample: &mut SampleWriter<'_>) {
        for (value, tally) in self.iter() {
            if let Some(last) = tally.last {
                sample(value.name(), Value::Time(last));
            }
        }
    }
}

/// A map from names, without what is zero.
impl<V, T, const N: usize> Serialize for ByValue<V, T, N>
where
    V: Vocabulary,
    T: Copy + Default + PartialEq + Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self
            .iter()
            .map(|(value, of_value)| (value.name(), of_value));
        serializer.collect_map(named.filter(|(_, of_value)| *of_value != T::default()))
    }
}

impl<'de, V, T, const N: usize> Deserialize<'de> for ByValue<V, T, N>
where
    V: Vocabulary + Ord + Deserialize<'de>,
    T: Copy + Default + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut by_value = Self::default();
        for (value, of_value) in BTreeMap::<V, T>::deserialize(deserializer)? {
            if let Some(place) = by_value.of_mut(value) {
                *place = of_value;
            }
        }
        Ok(by_value)
    }
}
