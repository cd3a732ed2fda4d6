//! What pages are made of: the samples of each shard and family, encoded, until the shard changes.
//!
//! Shards are kept in groups, a group's samples of one family in one piece of memory: small enough
//! to be put together anew when a shard of it changes, large enough to be sent as it is.

use std::{fmt, hash::BuildHasher, marker::PhantomData, mem, ops::Range, sync::Arc};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;

use super::{
    Encoding, PageBuilder, ScrapeOptions, ShardFilter,
    gzip::{Check, Deflater},
    text,
};
use crate::state::{Entity, Family, SHARDS, Table};

/// Shard `s` has the index `s / GROUPS` in group `s % GROUPS`, so that the parts of a fleet are
/// whole groups where that is possible.
const GROUPS: usize = 256;
const SHARDS_IN_GROUP: usize = SHARDS / GROUPS;
/// Pages of one encoding after which what is kept for the other is dropped: Prometheus asks for
/// gzip, and a person with curl looks only once.
const EVICT_UNUSED_AFTER_PAGES: u64 = 40;

/// The samples of everything of a kind, in each encoding that is asked for.
pub(super) struct FamilyCache<K> {
    plain: EncodingCache,
    gzip: EncodingCache,
    pages: u64,
    kind: PhantomData<fn(K)>,
}

/// The samples in one encoding.
#[derive(Default)]
struct EncodingCache {
    /// Of each shard, the version that was encoded.
    versions: Vec<u64>,
    /// Of each family in turn, its groups.
    families: Vec<FamilySamples>,
    /// The number of the page that was last made of it.
    used: u64,
    /// Hashes texts with a key of this process, so that no sender can construct a collision.
    hasher: DefaultHashBuilder,
}

struct FamilySamples {
    groups: Vec<ShardGroup>,
    /// The check of all groups.
    check: Check,
}

/// The samples of one family in the shards of one group.
#[derive(Clone, Default)]
struct ShardGroup {
    bytes: Bytes,
    shards: Box<[EncodedShard]>,
    check: Check,
}

#[derive(Clone, Copy, Default)]
struct EncodedShard {
    /// Where its bytes end in the group's.
    end: u32,
    /// CRC-32 and length of the uncompressed text.
    check: Check,
    /// Keyed hash of the uncompressed text: a shard whose text is as before is not encoded again.
    /// The CRC is not used for this, because a sender could construct a collision.
    hash: u64,
}

impl<K> Default for FamilyCache<K> {
    fn default() -> Self {
        Self {
            plain: EncodingCache::default(),
            gzip: EncodingCache::default(),
            pages: 0,
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for FamilyCache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FamilyCache")
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

impl<K: Entity> FamilyCache<K> {
    /// Renders what is stale, and adds the families to a page.
    pub(super) fn write(
        &mut self,
        table: &Table,
        options: ScrapeOptions,
        page: &mut PageBuilder,
        deflater: &mut Deflater,
    ) {
        self.pages += 1;
        let (kept, other) = match options.encoding {
            Encoding::Plain => (&mut self.plain, &mut self.gzip),
            Encoding::Gzip => (&mut self.gzip, &mut self.plain),
        };
        kept.used = self.pages;
        if other.used + EVICT_UNUSED_AFTER_PAGES < self.pages {
            drop(mem::take(other));
        }
        kept.refresh::<K>(table, options.encoding, deflater);
        for (family, of_family) in K::FAMILIES.iter().zip(&kept.families) {
            of_family.write(family, options, page, deflater);
        }
    }
}

impl EncodingCache {
    /// Encodes what changed since the page before.
    fn refresh<K: Entity>(&mut self, table: &Table, encoding: Encoding, deflater: &mut Deflater) {
        self.versions.resize(SHARDS, 0);
        self.families
            .resize_with(K::FAMILIES.len(), FamilySamples::default);
        let mut changed = vec![false; K::FAMILIES.len()];
        let mut texts = vec![Vec::new(); K::FAMILIES.len()];
        for group in 0..GROUPS {
            let fresh = self.encode_group::<K>(group, table, &mut texts, encoding, deflater);
            for ((fresh, family), changed) in fresh.iter().zip(&mut self.families).zip(&mut changed)
            {
                if fresh.iter().any(Option::is_some)
                    && let Some(of_group) = family.groups.get_mut(group)
                {
                    *of_group = of_group.with(fresh);
                    *changed = true;
                }
            }
        }
        for (family, _) in self
            .families
            .iter_mut()
            .zip(changed)
            .filter(|(_, changed)| *changed)
        {
            let checks = family.groups.iter().map(|group| group.check);
            family.check = checks.fold(Check::default(), Check::followed_by);
        }
    }

    /// For each family, the shards of a group whose text is another than before; nothing where no
    /// shard of the group changed.
    fn encode_group<K: Entity>(
        &mut self,
        group: usize,
        table: &Table,
        texts: &mut [Vec<u8>],
        encoding: Encoding,
        deflater: &mut Deflater,
    ) -> Vec<Vec<Option<Encoded>>> {
        let shards = K::shards(table);
        let mut fresh: Vec<Vec<Option<Encoded>>> = Vec::new();
        for index in 0..SHARDS_IN_GROUP {
            let shard = index * GROUPS + group;
            let Some(known) = self.versions.get_mut(shard) else {
                continue;
            };
            if shards.version(shard) == *known {
                continue;
            }
            let (version, entries) = shards.entries(shard, None);
            *known = version;
            render(table, &entries, texts);
            let none = || (0..SHARDS_IN_GROUP).map(|_| None).collect();
            fresh.resize_with(K::FAMILIES.len(), none);
            for ((text, family), fresh) in texts.iter().zip(&self.families).zip(&mut fresh) {
                let hash = self.hasher.hash_one(text);
                let before = family
                    .groups
                    .get(group)
                    .and_then(|group| group.shards.get(index));
                if before.is_none_or(|before| before.hash != hash)
                    && let Some(slot) = fresh.get_mut(index)
                {
                    *slot = Some(Encoded::new(text, hash, encoding, deflater));
                }
            }
        }
        fresh
    }
}

/// Writes the samples of a shard, those of each family into its text.
fn render<K: Entity>(table: &Table, entries: &[(K, Arc<K::Record>)], texts: &mut [Vec<u8>]) {
    texts.iter_mut().for_each(Vec::clear);
    let mut labels = Vec::new();
    for (key, record) in entries {
        labels.clear();
        text::write_labels::<K>(&mut labels, &table.shown(key));
        for (family, text) in K::FAMILIES.iter().zip(texts.iter_mut()) {
            text::write_samples(text, family, &labels, record.as_ref());
        }
    }
}

/// The samples of a shard, encoded anew.
struct Encoded {
    bytes: Vec<u8>,
    check: Check,
    hash: u64,
}

impl Encoded {
    fn new(text: &[u8], hash: u64, encoding: Encoding, deflater: &mut Deflater) -> Self {
        let mut bytes = Vec::new();
        match encoding {
            Encoding::Plain => bytes.extend_from_slice(text),
            Encoding::Gzip => deflater.deflate(text, &mut bytes),
        }
        Self {
            bytes,
            check: Check::of(text),
            hash,
        }
    }
}

impl ShardGroup {
    /// The group with some of its shards in a new form.
    fn with(&self, fresh: &[Option<Encoded>]) -> Self {
        let shards = || {
            fresh.iter().enumerate().map(|(index, fresh)| match fresh {
                Some(encoded) => (encoded.bytes.as_slice(), encoded.check, encoded.hash),
                None => {
                    let known = self.shards.get(index).copied().unwrap_or_default();
                    (self.slice(index), known.check, known.hash)
                }
            })
        };
        // To the byte, so that nothing is copied when it becomes immutable.
        let mut bytes = Vec::with_capacity(shards().map(|(bytes, ..)| bytes.len()).sum());
        let mut check = Check::default();
        let mut encoded = Vec::with_capacity(SHARDS_IN_GROUP);
        for (of_shard, check_of_shard, hash) in shards() {
            bytes.extend_from_slice(of_shard);
            check = check.followed_by(check_of_shard);
            let end = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            encoded.push(EncodedShard {
                end,
                check: check_of_shard,
                hash,
            });
        }
        Self {
            bytes: bytes.into(),
            shards: encoded.into(),
            check,
        }
    }

    fn range(&self, index: usize) -> Range<usize> {
        let end = |index: usize| self.shards.get(index).map_or(0, |shard| shard.end as usize);
        index.checked_sub(1).map_or(0, end)..end(index)
    }

    fn slice(&self, index: usize) -> &[u8] {
        self.bytes.get(self.range(index)).unwrap_or_default()
    }
}

impl Default for FamilySamples {
    fn default() -> Self {
        Self {
            groups: vec![ShardGroup::default(); GROUPS],
            check: Check::default(),
        }
    }
}

impl FamilySamples {
    fn write<T>(
        &self,
        family: &Family<T>,
        options: ScrapeOptions,
        page: &mut PageBuilder,
        deflater: &mut Deflater,
    ) {
        let (bytes, check) = match options.part {
            ShardFilter::WHOLE => {
                let groups = self.groups.iter();
                (
                    groups.map(|group| group.bytes.clone()).collect(),
                    self.check,
                )
            }
            part => self.of_part(part),
        };
        if check.length == 0 {
            return;
        }
        let mut header = Vec::new();
        text::write_header(&mut header, options.format, family);
        page.push_text(header, deflater);
        page.push_encoded(bytes.into_iter().filter(|bytes| !bytes.is_empty()), check);
    }

    /// The bytes of a part: those of whole groups where it has all of a group.
    fn of_part(&self, part: ShardFilter) -> (Vec<Bytes>, Check) {
        let mut bytes = Vec::new();
        let mut check = Check::default();
        for (number, group) in self.groups.iter().enumerate() {
            let has = |index: usize| part.includes(index * GROUPS + number);
            if (0..SHARDS_IN_GROUP).all(has) {
                bytes.push(group.bytes.clone());
                check = check.followed_by(group.check);
                continue;
            }
            let shards = group.shards.iter().enumerate();
            for (index, shard) in shards.filter(|(index, _)| has(*index)) {
                bytes.push(group.bytes.slice(group.range(index)));
                check = check.followed_by(shard.check);
            }
        }
        (bytes, check)
    }
}
