//! At which revision of etcd each record is known.

use hashbrown::HashMap;

/// The revisions at which keys are known.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    known: HashMap<Box<[u8]>, Known>,
    /// Keys of which a deletion is remembered.
    deleted: Vec<Box<[u8]>>,
    /// The number of the last loading.
    loading: u32,
    /// The revision of the mark that an older state of the cluster was restored; 0 without one.
    mark: i64,
    /// The revision of that mark before the last loading.
    mark_before: i64,
    /// What stands in the loading before this revision is of the state that was restored.
    restored_before: i64,
    /// Whether the cluster has lost something that is known.
    is_restored: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    revision: i64,
    /// False where the key was deleted at that revision. It is remembered until the watch has passed
    /// it, because older events of the key may still come.
    is_live: bool,
    /// The loading during or after which the key was last seen or written.
    loading: u32,
}

/// What a key of a loading is, compared with what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Newer,
    Same,
    /// The cluster has lost what is known.
    Older,
}

impl Revisions {
    /// The revision at which a key is known; 0 where there is none, as etcd has it.
    pub(super) fn of(&self, key: &[u8]) -> i64 {
        let live = self.known.get(key).filter(|known| known.is_live);
        live.map_or(0, |known| known.revision)
    }

    /// Notes that a key was put; false where that is known, or something newer.
    pub(super) fn put(&mut self, key: &[u8], revision: i64) -> bool {
        self.note(key, revision, true)
    }

    /// Notes that a key was deleted; false where it was not known.
    pub(super) fn deleted(&mut self, key: &[u8], revision: i64) -> bool {
        let was_live = self.of(key) != 0;
        let is_noted = self.note(key, revision, false);
        if is_noted {
            self.deleted.push(key.into());
        }
        is_noted && was_live
    }

    fn note(&mut self, key: &[u8], revision: i64, is_live: bool) -> bool {
        let known = self.known.get(key);
        if known.is_some_and(|known| known.revision >= revision) {
            return false;
        }
        self.set(key, revision, is_live);
        true
    }

    fn set(&mut self, key: &[u8], revision: i64, is_live: bool) {
        let loading = self.loading;
        let known = Known {
            revision,
            is_live,
            loading,
        };
        match self.known.get_mut(key) {
            Some(place) => *place = known,
            None => {
                self.known.insert(key.into(), known);
            }
        }
    }

    /// Forgets deletions up to a revision, of which all events have come.
    pub(super) fn passed(&mut self, revision: i64) {
        let known = &mut self.known;
        self.deleted.retain(|key| match known.get(key) {
            Some(deleted) if deleted.is_live => false,
            Some(deleted) if deleted.revision <= revision => {
                known.remove(key);
                false
            }
            found => found.is_some(),
        });
    }

    /// The revision of the mark that an older state was restored; 0 without one.
    pub(super) fn mark(&self) -> i64 {
        self.mark
    }

    /// Notes the mark that an older state was restored. A replica puts it before anything else, so
    /// what is newer than a new mark was written by one that knows.
    pub(super) fn set_mark(&mut self, revision: i64) {
        self.mark = revision;
        if self.has_new_mark() {
            self.is_restored = self.loading > 1;
            self.restored_before = revision;
        }
    }

    /// Whether another replica has put the mark since the last loading. A mark at an earlier revision
    /// is of the state that was restored.
    pub(super) fn has_new_mark(&self) -> bool {
        self.mark > self.mark_before
    }

    /// Begins a loading. What is put from now on is newer than it.
    pub(super) fn begin(&mut self) {
        self.loading += 1;
        self.mark_before = std::mem::take(&mut self.mark);
        self.restored_before = i64::MAX;
        self.is_restored = false;
        self.passed(i64::MAX);
    }

    /// Notes a key of the loading.
    pub(super) fn page(&mut self, key: &[u8], revision: i64) -> Page {
        match self.known.get(key) {
            // This process has put it, or deleted it, since the loading began.
            Some(known) if known.loading == self.loading => Page::Same,
            Some(known) if known.revision > revision && revision < self.restored_before => {
                self.is_restored = true;
                self.set(key, revision, true);
                Page::Older
            }
            Some(known) if known.revision == revision => {
                self.set(key, revision, true);
                Page::Same
            }
            _ => {
                self.set(key, revision, true);
                Page::Newer
            }
        }
    }

    /// Ends a loading at a revision: keys that were not in it, and whether the cluster has lost them;
    /// otherwise they were deleted.
    pub(super) fn end(&mut self, revision: i64) -> (Vec<Box<[u8]>>, bool) {
        let loading = self.loading;
        let missing = self
            .known
            .extract_if(|_, known| known.is_live && known.loading != loading);
        let missing: Vec<_> = missing.collect();
        self.is_restored |= missing.iter().any(|(_, known)| known.revision > revision);
        let keys = missing.into_iter().map(|(key, _)| key);
        (keys.collect(), self.is_restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_counts_in_whatever_order_it_is_learned() {
        let mut revisions = Revisions::default();
        assert!(revisions.put(b"a", 5));
        assert!(!revisions.put(b"a", 4));
        assert!(revisions.deleted(b"a", 7));
        assert_eq!(revisions.of(b"a"), 0);
        assert!(!revisions.put(b"a", 6), "an event from before the deletion");
        revisions.passed(7);
        assert!(revisions.put(b"a", 8));
    }

    #[test]
    fn loading_finds_what_was_deleted() {
        let mut revisions = known(&[("same", 2), ("deleted", 3)]);
        revisions.begin();
        revisions.put(b"written meanwhile", 10);
        revisions.put(b"same", 11);
        assert_eq!(revisions.page(b"same", 2), Page::Same);
        assert_eq!(revisions.page(b"new", 5), Page::Newer);
        assert_eq!(
            revisions.end(6),
            (vec![b"deleted".as_slice().into()], false)
        );
        assert_eq!(revisions.of(b"same"), 11);
        assert_eq!(revisions.of(b"written meanwhile"), 10);
    }

    #[test]
    fn loading_finds_what_a_restored_cluster_has_lost() {
        let mut revisions = known(&[("lost", 9), ("older", 8)]);
        revisions.begin();
        assert_eq!(revisions.page(b"older", 4), Page::Older);
        assert_eq!(revisions.end(6), (vec![b"lost".as_slice().into()], true));
        assert_eq!(revisions.of(b"older"), 4);
    }

    #[test]
    fn what_was_written_after_the_mark_is_newer_at_whatever_revision() {
        let mut revisions = known(&[("put back", 9), ("older", 8)]);
        revisions.begin();
        revisions.set_mark(5);
        assert_eq!(revisions.page(b"older", 4), Page::Older);
        assert_eq!(revisions.page(b"put back", 6), Page::Newer);
        assert_eq!(revisions.end(6), (vec![], true));
    }

    #[test]
    fn mark_of_the_state_that_was_restored_is_none() {
        let mut revisions = known(&[("older", 8)]);
        revisions.set_mark(3);
        revisions.begin();
        revisions.set_mark(3);
        assert!(!revisions.has_new_mark());
        assert_eq!(revisions.page(b"older", 4), Page::Older);
        assert_eq!(revisions.end(6), (vec![], true));
    }

    fn known(keys: &[(&str, i64)]) -> Revisions {
        let mut revisions = Revisions::default();
        revisions.begin();
        for (key, revision) in keys {
            assert_eq!(revisions.page(key.as_bytes(), *revision), Page::Newer);
        }
        assert_eq!(revisions.end(20), (vec![], false));
        revisions
    }
}
