//! What pages are made of: the samples of each shard and family, encoded, until the shard changes.
//!
//! Shards are kept in groups, a group's samples of one family in one piece of memory: small enough to be put together
//! anew when a shard of it changes, large enough to be sent as it is.

use std::{fmt, hash::BuildHasher, mem};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;

use super::{
    Ask, Encoding, Family, Part, Pieces,
    gzip::{Check, Deflater},
    text,
};
use crate::state::{SHARDS, Shards};

/// Shard `s` is member `s / GROUPS` of group `s % GROUPS`, so that parts of a fleet are whole groups where they can be.
const GROUPS: usize = 256;
const MEMBERS: usize = SHARDS / GROUPS;
/// Pages of one encoding after which what is kept for the other is given up: Prometheus asks for gzip, and a person
/// with curl looks but once.
const PATIENCE: u64 = 40;

/// What has series.
pub(super) trait Subject: Ord + Clone {
    type Known: 'static;
    const FAMILIES: &'static [Family<Self::Known>];

    /// Writes the subject's labels, without braces.
    fn write_labels(&self, to: &mut Vec<u8>);
}

/// The samples of all subjects of a kind, in each encoding that is asked for.
pub(super) struct Sheet<K, V> {
    plain: Kept,
    gzip: Kept,
    pages: u64,
    kind: std::marker::PhantomData<fn(K, V)>,
}

/// The samples in one encoding.
#[derive(Default)]
struct Kept {
    /// Of each shard, the version that was encoded.
    versions: Vec<u64>,
    /// Of each family in turn, its groups.
    families: Vec<KeptFamily>,
    /// The number of the page that was last made of it.
    used: u64,
    /// Tells texts apart; keyed anew by each process, so that nobody can find two that are one to it.
    hasher: DefaultHashBuilder,
}

#[derive(Default)]
struct KeptFamily {
    groups: Vec<Block>,
    /// The check of all groups.
    check: Check,
}

/// The samples of one family in the shards of one group.
#[derive(Clone, Default)]
struct Block {
    bytes: Bytes,
    members: Box<[Member]>,
    check: Check,
}

#[derive(Clone, Copy, Default)]
struct Member {
    /// Where its bytes end in the block's.
    end: u32,
    /// Of its text.
    check: Check,
    /// Of its text. A shard that was rendered again is encoded again only where this differs; the check, which
    /// anybody can compute, is not to be trusted with that.
    hash: u64,
}

impl<K, V> Default for Sheet<K, V> {
    fn default() -> Self {
        Self {
            plain: Kept::default(),
            gzip: Kept::default(),
            pages: 0,
            kind: std::marker::PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for Sheet<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sheet")
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

impl<K: Subject<Known = V>, V: 'static> Sheet<K, V> {
    /// Renders what is stale, and adds the families to a page.
    pub(super) fn write(
        &mut self,
        shards: &Shards<K, V>,
        ask: Ask,
        pieces: &mut Pieces,
        deflater: &mut Deflater,
    ) {
        self.pages += 1;
        let (kept, other) = match ask.encoding {
            Encoding::Plain => (&mut self.plain, &mut self.gzip),
            Encoding::Gzip => (&mut self.gzip, &mut self.plain),
        };
        kept.used = self.pages;
        if other.used + PATIENCE < self.pages {
            drop(mem::take(other));
        }
        kept.refresh(shards, ask.encoding, deflater);
        for (family, of_family) in K::FAMILIES.iter().zip(&kept.families) {
            of_family.write(family, ask, pieces, deflater);
        }
    }
}

impl Kept {
    fn refresh<K: Subject<Known = V>, V: 'static>(
        &mut self,
        shards: &Shards<K, V>,
        encoding: Encoding,
        deflater: &mut Deflater,
    ) {
        self.versions.resize(SHARDS, 0);
        self.families.resize_with(K::FAMILIES.len(), || KeptFamily {
            groups: vec![Block::default(); GROUPS],
            check: Check::default(),
        });
        let mut changed = vec![false; K::FAMILIES.len()];
        let mut texts = vec![Vec::new(); K::FAMILIES.len()];
        for group in 0..GROUPS {
            let mut fresh: Vec<Vec<Option<Encoded>>> = Vec::new();
            for member in 0..MEMBERS {
                let shard = member * GROUPS + group;
                let Some(known) = self.versions.get_mut(shard) else {
                    continue;
                };
                if shards.version(shard) == *known {
                    continue;
                }
                let (version, subjects) = shards.entries(shard, None);
                *known = version;
                render::<K, V>(&subjects, &mut texts);
                fresh.resize_with(K::FAMILIES.len(), || (0..MEMBERS).map(|_| None).collect());
                for ((text, family), fresh) in texts.iter().zip(&self.families).zip(&mut fresh) {
                    let hash = self.hasher.hash_one(text);
                    let as_before = family
                        .groups
                        .get(group)
                        .and_then(|block| block.members.get(member));
                    if as_before.is_none_or(|before| before.hash != hash)
                        && let Some(place) = fresh.get_mut(member)
                    {
                        *place = Some(Encoded::new(text, hash, encoding, deflater));
                    }
                }
            }
            for ((fresh, family), changed) in fresh.iter().zip(&mut self.families).zip(&mut changed)
            {
                if fresh.iter().any(Option::is_some)
                    && let Some(block) = family.groups.get_mut(group)
                {
                    *block = block.with(fresh);
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
            family.check = family
                .groups
                .iter()
                .fold(Check::default(), |check, block| check.and(block.check));
        }
    }
}

/// Writes the samples of a shard, of each family into its text.
fn render<K: Subject<Known = V>, V: 'static>(
    subjects: &[(K, std::sync::Arc<V>)],
    texts: &mut [Vec<u8>],
) {
    texts.iter_mut().for_each(Vec::clear);
    let mut labels = Vec::new();
    for (key, subject) in subjects {
        labels.clear();
        key.write_labels(&mut labels);
        for (family, text) in K::FAMILIES.iter().zip(texts.iter_mut()) {
            text::write_samples(text, family, &labels, subject.as_ref());
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

impl Block {
    /// The block with some of its members in a new form.
    fn with(&self, fresh: &[Option<Encoded>]) -> Self {
        let members = || {
            fresh.iter().enumerate().map(|(member, fresh)| match fresh {
                Some(encoded) => (encoded.bytes.as_slice(), encoded.check, encoded.hash),
                None => {
                    let known = self.members.get(member).copied().unwrap_or_default();
                    (self.slice(member), known.check, known.hash)
                }
            })
        };
        // To the byte, so that nothing is copied when it becomes immutable.
        let mut bytes = Vec::with_capacity(members().map(|(bytes, ..)| bytes.len()).sum());
        let mut check = Check::default();
        let members = members().map(|(of_member, of_text, hash)| {
            bytes.extend_from_slice(of_member);
            check = check.and(of_text);
            Member {
                end: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                check: of_text,
                hash,
            }
        });
        let members = members.collect();
        Self {
            bytes: bytes.into(),
            members,
            check,
        }
    }

    fn range(&self, member: usize) -> std::ops::Range<usize> {
        let end = |member: usize| {
            self.members
                .get(member)
                .map_or(0, |member| member.end as usize)
        };
        member.checked_sub(1).map_or(0, end)..end(member)
    }

    fn slice(&self, member: usize) -> &[u8] {
        self.bytes.get(self.range(member)).unwrap_or_default()
    }
}

impl KeptFamily {
    fn write<T>(&self, family: &Family<T>, ask: Ask, pieces: &mut Pieces, deflater: &mut Deflater) {
        let (bytes, check): (Vec<Bytes>, Check) = if ask.part == Part::WHOLE {
            (
                self.groups
                    .iter()
                    .map(|block| block.bytes.clone())
                    .collect(),
                self.check,
            )
        } else {
            self.of_part(ask.part)
        };
        if check.length == 0 {
            return;
        }
        let mut header = Vec::new();
        text::write_header(&mut header, ask.format, family);
        pieces.push_text(header, deflater);
        let bytes = bytes.into_iter().filter(|bytes| !bytes.is_empty());
        match pieces {
            Pieces::Plain(pieces) => pieces.extend(bytes),
            Pieces::Gzip(member) => member.push_all(bytes, check),
        }
    }

    /// The pieces of a part: whole groups where it has all of one.
    fn of_part(&self, part: Part) -> (Vec<Bytes>, Check) {
        let mut bytes = Vec::new();
        let mut check = Check::default();
        for (group, block) in self.groups.iter().enumerate() {
            let has = |member: usize| part.has(member * GROUPS + group);
            if (0..MEMBERS).all(has) {
                bytes.push(block.bytes.clone());
                check = check.and(block.check);
                continue;
            }
            for (member, known) in block
                .members
                .iter()
                .enumerate()
                .filter(|(member, _)| has(*member))
            {
                bytes.push(block.bytes.slice(block.range(member)));
                check = check.and(known.check);
            }
        }
        (bytes, check)
    }
}
