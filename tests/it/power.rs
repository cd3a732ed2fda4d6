//! A loss of power at each operation on the disk in turn: what was answered 200 is there after it,
//! a delivery is there whole or not at all, and the database opens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread,
};

use serde_json::json;
use whatsapp_quality_exporter::{state::Record, store::Sqlite};

use crate::support::{Exporter, preloaded};

/// The folder of the storage.
const FOLDER: &str = "data";
/// Deliveries to each of two processes, which have the same folder one after the other.
const DELIVERIES: usize = 40;
/// New numbers of a delivery: several, so that a part of them would be seen.
const NUMBERS: usize = 3;

/// What a loss of power does to what was written and not synced.
#[derive(Clone, Copy, Debug)]
enum Unsynced {
    /// Nothing of it is on the disk, names of files included.
    Lost,
    /// Every second operation is on the disk.
    Torn,
    /// All of it is on the disk.
    Kept,
}

/// An operation on a file.
struct Operation {
    kind: Kind,
    path: PathBuf,
    /// Bytes of the journal up to its end.
    end: u64,
}

#[derive(Clone)]
enum Kind {
    Write { offset: usize, data: Vec<u8> },
    Truncate { size: usize },
    Sync,
    Unlink,
    Rename { to: PathBuf },
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// Writes and truncations since, each with its number in the journal.
    unsynced: Vec<(usize, Kind)>,
}

/// A disk, as far as the journal was followed.
#[derive(Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    /// The names when the folder was last synced.
    synced_names: BTreeMap<PathBuf, usize>,
}

#[test]
fn loss_of_power_at_each_operation_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, answered) = deliver(folder.path());
    let operations = read(&fs::read(&journal).unwrap());
    let checked: Vec<_> = thread::scope(|scope| {
        let sweeps = [Unsynced::Lost, Unsynced::Torn, Unsynced::Kept].map(|unsynced| {
            let (operations, answered) = (&operations, &answered);
            scope.spawn(move || (unsynced, sweep(operations, answered, unsynced)))
        });
        sweeps
            .into_iter()
            .map(|sweep| sweep.join().unwrap())
            .collect()
    });
    for (unsynced, states) in checked {
        assert!(states > 2 * DELIVERIES, "{unsynced:?}: {states} states");
        println!(
            "unsynced {unsynced:?}: {} operations swept, {states} different disks opened, \
             {} deliveries answered, 0 lost",
            operations.len(),
            answered.len()
        );
    }
}

#[test]
fn log_is_synced_once_or_more_for_each_commit_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, answered) = deliver(folder.path());
    let operations = read(&fs::read(&journal).unwrap());
    let mut syncs = 0;
    let mut begin = 0;
    for (index, end) in answered.iter().enumerate() {
        let until_answered: Vec<_> = operations
            .iter()
            .filter(|operation| operation.end > begin && operation.end <= *end)
            .filter(|operation| operation.path.to_string_lossy().ends_with("-wal"))
            .collect();
        let is_write = |operation: &&Operation| matches!(operation.kind, Kind::Write { .. });
        let last_write = until_answered.iter().rposition(is_write);
        let (_, after) = until_answered.split_at(last_write.expect("a write of the commit") + 1);
        let is_sync = |operation: &&&Operation| matches!(operation.kind, Kind::Sync);
        let of_this = after.iter().filter(is_sync).count();
        assert!(of_this > 0, "delivery {index} was answered and not synced");
        syncs += of_this;
        begin = *end;
    }
    println!(
        "{} deliveries one after the other, each a commit: {syncs} syncs after the last write of each",
        answered.len()
    );
}

/// Sends deliveries, with a clean stop and a kill; gives the journal, and its length when each
/// delivery was answered.
fn deliver(folder: &Path) -> (PathBuf, Vec<u64>) {
    let library = preloaded("power", folder);
    let storage = folder.canonicalize().unwrap().join(FOLDER);
    fs::create_dir(&storage).unwrap();
    let journal = folder.join("journal");
    let text = |path: &Path| path.display().to_string();
    let (library, journal_text, storage_text) = (text(&library), text(&journal), text(&storage));
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("JOURNAL", &journal_text),
        ("JOURNAL_FOLDER", &storage_text),
    ];
    let mut answered = Vec::new();
    for signal in ["TERM", "KILL"] {
        let mut exporter = Exporter::start_with(&storage, &[], &environment);
        for _ in 0..DELIVERIES {
            let answer = exporter.post("/webhooks/meta", &delivery(answered.len()));
            assert_eq!(answer.json()["applied"], NUMBERS, "{}", answer.text());
            answered.push(fs::metadata(&journal).unwrap().len());
        }
        exporter.end(signal);
    }
    (journal, answered)
}

fn delivery(index: usize) -> String {
    let changes: Vec<_> = (0..NUMBERS)
        .map(|number| {
            json!({"field": "phone_number_quality_update", "value": {"event": "FLAGGED",
                "display_phone_number": format!("1555{:07}", index * NUMBERS + number)}})
        })
        .collect();
    json!({"object": "whatsapp_business_account",
        "entry": [{"id": "1", "time": 1_700_000_000, "changes": changes}]})
    .to_string()
}

fn read(mut journal: &[u8]) -> Vec<Operation> {
    let whole = journal.len();
    let mut operations = Vec::new();
    while let Some((head, rest)) = journal.split_at_checked(17) {
        let number = |range: std::ops::Range<usize>| {
            let mut bytes = [0; 8];
            bytes[..range.len()].copy_from_slice(&head[range]);
            u64::from_le_bytes(bytes) as usize
        };
        let (path, rest) = rest.split_at(number(1..5));
        let (data, rest) = rest.split_at(number(5..9));
        let offset = number(9..17);
        let path_of = |bytes: &[u8]| PathBuf::from(String::from_utf8(bytes.to_vec()).unwrap());
        let kind = match head[0] {
            b'W' => Kind::Write {
                offset,
                data: data.to_vec(),
            },
            b'T' => Kind::Truncate { size: offset },
            b'S' => Kind::Sync,
            b'U' => Kind::Unlink,
            b'R' => Kind::Rename { to: path_of(data) },
            letter => panic!("{letter} is no operation"),
        };
        journal = rest;
        let end = (whole - rest.len()) as u64;
        operations.push(Operation {
            kind,
            path: path_of(path),
            end,
        });
    }
    assert!(journal.is_empty(), "half an operation");
    operations
}

/// Cuts the power after each operation; gives how many different disks that left.
fn sweep(operations: &[Operation], answered: &[u64], unsynced: Unsynced) -> usize {
    let mut disk = Disk::default();
    let mut before = None;
    let mut states = 0;
    for (index, operation) in operations.iter().enumerate() {
        disk.follow(index, operation);
        let promised = answered.iter().filter(|end| **end <= operation.end).count();
        let image = (promised, disk.image(unsynced));
        if before.as_ref() != Some(&image) {
            check(
                &image.1,
                promised,
                &format!("{unsynced:?} after operation {index}"),
            );
            states += 1;
        }
        before = Some(image);
    }
    states
}

/// Opens the database of a disk as a start does, and looks for the deliveries that were answered.
fn check(image: &BTreeMap<PathBuf, Vec<u8>>, promised: usize, context: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in image {
        fs::write(folder.path().join(path.file_name().unwrap()), content).unwrap();
    }
    let mut store =
        Sqlite::open(folder.path()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut numbers = BTreeSet::new();
    let loaded = store.load(&mut |record: Record| {
        if let Record::Number(key, _) = record {
            numbers.insert(key.phone_number.as_str().to_owned());
        }
    });
    loaded.unwrap_or_else(|error| panic!("{context}: {error}"));
    for index in 0..2 * DELIVERIES {
        let there = (0..NUMBERS)
            .filter(|number| numbers.contains(&format!("1555{:07}", index * NUMBERS + number)))
            .count();
        let wanted = if index < promised {
            NUMBERS..=NUMBERS
        } else {
            0..=NUMBERS
        };
        assert!(
            wanted.contains(&there) && [0, NUMBERS].contains(&there),
            "{context}: delivery {index} has {there} of {NUMBERS} numbers, {promised} were answered"
        );
    }
}

impl Disk {
    fn follow(&mut self, index: usize, operation: &Operation) {
        let path = &operation.path;
        match &operation.kind {
            Kind::Sync if path.ends_with(FOLDER) => self.synced_names = self.names.clone(),
            Kind::Sync => {
                // A file that was never written to has nothing to lose.
                let Some(file) = self.names.get(path) else {
                    return;
                };
                let file = &mut self.files[*file];
                for (_, change) in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.synced);
                }
            }
            Kind::Unlink => drop(self.names.remove(path)),
            Kind::Rename { to } => {
                if let Some(file) = self.names.remove(path) {
                    self.names.insert(to.clone(), file);
                }
            }
            change => {
                let new = self.files.len();
                let file = *self.names.entry(path.clone()).or_insert(new);
                if file == new {
                    self.files.push(File::default());
                }
                self.files[file].unsynced.push((index, change.clone()));
            }
        }
    }

    /// The files that a loss of power leaves.
    fn image(&self, unsynced: Unsynced) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = match unsynced {
            Unsynced::Lost => &self.synced_names,
            Unsynced::Torn | Unsynced::Kept => &self.names,
        };
        let content = |file: &File| {
            let mut content = file.synced.clone();
            for (index, change) in &file.unsynced {
                match unsynced {
                    Unsynced::Lost => {}
                    Unsynced::Torn if index % 2 == 0 => {}
                    Unsynced::Torn | Unsynced::Kept => change.apply(&mut content),
                }
            }
            content
        };
        names
            .iter()
            .map(|(path, file)| (path.clone(), content(&self.files[*file])))
            .collect()
    }
}

impl Kind {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(data);
            }
            Self::Truncate { size } => content.resize(*size, 0),
            Self::Sync | Self::Unlink | Self::Rename { .. } => {}
        }
    }
}
