//! Which row of the table `versions` holds the newest document under each key.

use hashbrown::HashMap;

/// The least number of rows beyond one for each key; a table with more keys has as many spare rows
/// as keys.
const SPARE: usize = 1024;

/// The rows of the table `versions`, as of the last commit. Its ids count from 1 and have no gaps;
/// here they count from 0.
///
/// A document never overwrites the one before it: it goes into a new row, or into one that is no
/// longer live, so that what a commit writes lies side by side. Each commit has a revision. Each
/// row that it writes holds the revision, and the sum of the revisions of all rows that are live
/// after it (`total`). For example:
///
/// | commit | row | key | revision | sum of the live revisions |
/// |---|---|---|---|---|
/// | 1 | 0 | a | 1 | a 1 + b 1 = 2 |
/// | 1 | 1 | b | 1 | 2 |
/// | 2 | 2 | a | 2 | a 2 + b 1 = 3 |
/// | 3 | 3 | b | 3 | a 2 + b 3 = 5 |
/// | 4 | 4 | a | 4 | a 4 + b 3 = 7 |
///
/// After commit 4 the rows 3 and 4 are live. If a disk brings back an old page, so that row 3 is
/// not what commit 3 wrote, b is found in row 1: the live revisions add up to 4 + 1 = 5, row 4 says
/// 7, and the damage is seen.
///
/// Where documents are forgotten, every row that holds a version of them is emptied: it gets the
/// revision 0 and the key of a mark. The mark is a document like any other and is written in the
/// same commit, so that a row has the sum without them.
#[derive(Debug, Default)]
pub(super) struct RowTable {
    /// The revision of each row that holds the newest document under its key; 0 of a row that is
    /// not live.
    pub(super) live_revision: Vec<i64>,
    /// The row that holds the newest document, for each key.
    row_of_key: HashMap<Box<[u8]>, usize>,
    /// Where the next row that is not live is looked for.
    pub(super) scan_from: usize,
    /// The newest revision.
    pub(super) last_revision: i64,
    /// The sum of `live_revision`.
    pub(super) live_sum: i64,
}

impl RowTable {
    /// Chooses a row for each of `documents` documents. Rows are appended until the table has
    /// max(SPARE, number of keys) rows more than keys; after that, rows that are not live are
    /// overwritten.
    pub(super) fn allocate(&self, documents: usize) -> Vec<usize> {
        let there = self.live_revision.len();
        let wanted = self.row_of_key.len() + self.row_of_key.len().max(SPARE);
        let overwritten = documents.saturating_sub(wanted.saturating_sub(there));
        let old = (self.scan_from..there)
            .chain(0..self.scan_from)
            .filter(|row| self.live_revision.get(*row) == Some(&0));
        old.take(overwritten)
            .chain(there..)
            .take(documents)
            .collect()
    }

    /// The revision of the newest document under a key; 0 where there is none.
    pub(super) fn revision_of(&self, key: &[u8]) -> i64 {
        self.row_of_key
            .get(key)
            .and_then(|row| self.live_revision.get(*row))
            .copied()
            .unwrap_or_default()
    }

    /// Notes that no row holds a document under a key any more.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.live_sum -= self.revision_of(key);
        let row = self.row_of_key.remove(key);
        if let Some(live_revision) = row.and_then(|row| self.live_revision.get_mut(row)) {
            *live_revision = 0;
        }
    }

    /// Notes that a row holds the newest document under a key.
    pub(super) fn mark_live(&mut self, key: Box<[u8]>, row: usize, revision: i64) {
        // With the revisions of a damaged database it may overflow.
        let sum = self.live_sum.wrapping_add(revision);
        self.live_sum = sum.wrapping_sub(self.revision_of(&key));
        let before = self.row_of_key.insert(key, row);
        if let Some(live_revision) = before.and_then(|row| self.live_revision.get_mut(row)) {
            *live_revision = 0;
        }
        match self.live_revision.get_mut(row) {
            Some(live_revision) => {
                *live_revision = revision;
                self.scan_from = row + 1;
            }
            None => self.live_revision.push(revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_live_are_overwritten_in_turn() {
        let mut table = RowTable::default();
        let mut commit = |keys: &[&str]| {
            let rows = table.allocate(keys.len());
            for (key, row) in keys.iter().zip(&rows) {
                table.mark_live(key.as_bytes().into(), *row, 1);
            }
            rows
        };
        assert_eq!(commit(&["quiet", "busy"]), [0, 1]);
        let rows = 2 + SPARE;
        let written: Vec<_> = (2..3 * rows).flat_map(|_| commit(&["busy"])).collect();
        let without_the_quiet: Vec<_> = (2..rows)
            .chain(1..rows)
            .chain(1..rows)
            .chain(1..rows)
            .take(written.len())
            .collect();
        assert_eq!(written, without_the_quiet);
        // What is new makes room for as much again, and the search goes on where it was.
        let next = written.last().unwrap() + 1;
        assert_eq!(commit(&["new"]), [next]);
        assert_eq!(commit(&["busy"]), [rows]);
        assert_eq!(commit(&["busy"]), [next + 1]);
    }
}
