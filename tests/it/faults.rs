//! Errors of the disk, at each call in turn: what was answered 200 is there afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::json;

use crate::{
    storage,
    support::{Exporter, preloaded, request, wait_for},
};

/// Deliveries that are in the database before the fault, and that come with it.
const BEFORE: usize = 3;
const DELIVERIES: usize = 8;
/// New numbers of a delivery: several, so that a part of them would be seen.
const NUMBERS: usize = 3;

/// What goes wrong, as tests/it/fault.c says, and which functions it befalls.
const FAULTS: [(&str, &[&str]); 4] = [
    ("error", &[""]),
    ("short", &["pread", "pwrite"]),
    ("torn", &["pread", "pwrite"]),
    ("full", &["pwrite"]),
];

/// A sweep over the calls of a process, from its start to its end.
struct Sweep {
    preload: PathBuf,
    /// The files with which the process starts.
    files: BTreeMap<String, Vec<u8>>,
    /// The deliveries that these files hold.
    before: usize,
}

/// What a process with a fault did.
struct Run {
    /// The calls on its files, each as its function and its path.
    calls: Vec<String>,
    /// The deliveries that it answered 200.
    answered: Vec<usize>,
    /// How many deliveries it answered 503, or not at all.
    put_off: usize,
    was_ready: bool,
    /// Whether it ended by itself.
    has_ended: bool,
    /// Calls before it was told to stop.
    until_stop: usize,
    log: String,
}

#[test]
fn fault_at_any_call_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let preload = preloaded("fault", folder.path());
    let log = (storage::WAL.to_owned(), vec![]);
    let with_empty_log = files_after("TERM").into_iter().chain([log]).collect();
    let killed = files_after("KILL");
    for (name, faults, before, files) in [
        ("a new storage", &FAULTS[..], 0, BTreeMap::new()),
        ("a killed process' storage", &FAULTS, BEFORE, killed),
        (
            "a storage with an empty log",
            &FAULTS[..1],
            BEFORE,
            with_empty_log,
        ),
    ] {
        let sweep = Sweep {
            preload: preload.clone(),
            files,
            before,
        };
        let calls = sweep.run(0, "error").calls;
        for (fault, functions) in faults {
            let is_hit = |at: &usize| {
                let hits = |function: &&str| calls[at - 1].starts_with(function);
                functions.iter().any(hits)
            };
            let at: Vec<_> = (1..=calls.len()).filter(is_hit).collect();
            assert!(at.len() > DELIVERIES, "{name}, {fault}: {calls:?}");
            let (ended, put_off) = sweep.all(&at, fault);
            println!(
                "{name}, {fault}: {} of {} calls swept, {ended} processes ended by themselves, \
                 {put_off} deliveries put off, 0 lost, 0 counted twice",
                at.len(),
                calls.len()
            );
        }
    }
}

/// The files that a process leaves which is ended by this signal.
fn files_after(signal: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    for index in 0..BEFORE {
        assert_eq!(send(&exporter, index), Some(200));
    }
    exporter.end(signal);
    storage::files(folder.path())
}

impl Sweep {
    /// Has each of these calls go wrong, in a process of its own; gives in how many of them the
    /// process ended by itself, and how many deliveries were put off.
    fn all(&self, at: &[usize], fault: &str) -> (usize, usize) {
        let [next, ended, put_off] = [(); 3].map(|()| AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(at) = at.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = self.run(*at, fault);
                        ended.fetch_add(run.has_ended.into(), Ordering::Relaxed);
                        put_off.fetch_add(run.put_off, Ordering::Relaxed);
                    }
                });
            }
        });
        (ended.into_inner(), put_off.into_inner())
    }

    /// Runs a process of which one call goes wrong, none where that is 0, and checks what a process
    /// without a fault finds afterwards.
    fn run(&self, at: usize, fault: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let data = folder.join("storage");
        fs::create_dir(&data).unwrap();
        for (name, content) in &self.files {
            fs::write(data.join(name), content).unwrap();
        }
        let path = |name| folder.join(name).display().to_string();
        let environment = [
            ("LD_PRELOAD", self.preload.display().to_string()),
            ("FAULT_FOLDER", path("storage")),
            ("FAULT_CALLS", path("calls")),
            ("FAULT_MENDED", path("mended")),
            ("FAULT_AT", at.to_string()),
            ("FAULT", fault.to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let run = deliver(&data, environment.into(), self.before);
        let Some(call) = at.checked_sub(1).map(|at| &run.calls[at]) else {
            assert_eq!((run.put_off, run.has_ended), (0, false), "{}", run.log);
            return run;
        };
        let context = format!("{fault} at call {at}, {call}:\n{}", run.log);
        // Nothing is promised after a failed sync; while it stops, nothing is promised anyway.
        let is_harmless = !call.contains("sync ") || at > run.until_stop;
        assert!(
            run.has_ended || is_harmless || run.is_folder_synced_besides(at),
            "{context}"
        );
        if call.starts_with("pread") && !run.was_ready && self.before > 0 {
            let mut wanted = self.files.clone();
            // SQLite removes an empty log.
            wanted.retain(|name, content| !content.is_empty() || data.join(name).exists());
            assert!(
                storage::files(&data) == wanted,
                "{context}a file was changed"
            );
        }
        self.check(&data, &run.answered, &context);
        run
    }

    /// Starts a process without a fault: what was answered is there, nothing is there in part, and
    /// what is sent again counts once.
    fn check(&self, storage: &Path, answered: &[usize], context: &str) {
        let exporter = Exporter::start(storage, &[]);
        let there = known(&exporter, 1.0);
        for index in 0..self.before + DELIVERIES {
            let numbers = numbers_of(index)
                .filter(|number| there.contains(number))
                .count();
            let was_answered = index < self.before || answered.contains(&index);
            assert!(
                numbers == NUMBERS || numbers == 0 && !was_answered,
                "{context}{numbers} numbers of delivery {index}, answered: {was_answered}"
            );
        }
        for index in 0..self.before + DELIVERIES {
            assert_eq!(send(&exporter, index), Some(200), "{context}");
        }
        let all = (0..self.before + DELIVERIES).flat_map(numbers_of);
        assert_eq!(known(&exporter, 1.0), all.collect(), "{context}");
        assert!(known(&exporter, 2.0).is_empty(), "{context}counted twice");
    }
}

impl Run {
    /// Whether this call and another one synced the folder, the other one when the log was in it.
    /// SQLite goes on where such a sync fails.
    fn is_folder_synced_besides(&self, at: usize) -> bool {
        let is_log_opened = |call: &String| call.starts_with("open") && call.ends_with("-wal");
        let opened = self.calls.iter().rposition(is_log_opened);
        let is_folder = |call: &String| call.starts_with("fsync ") && call.ends_with("/storage");
        let synced = (1..=self.calls.len()).filter(|call| is_folder(&self.calls[call - 1]));
        let mut besides = synced.filter(|call| *call != at && Some(*call) > opened);
        is_folder(&self.calls[at - 1]) && besides.next().is_some()
    }
}

/// Runs a process with a fault until its end. It is sent the deliveries, and once more what it did
/// not answer 200, when the fault is over.
fn deliver(storage: &Path, environment: Vec<(String, String)>, first: usize) -> Run {
    let mut exporter = Exporter::begin(storage, environment);
    let mut was_ready = false;
    wait_for(
        "the process to be ready, to wait for the storage, or to end",
        || {
            was_ready = exporter.get("/-/ready").status == 200;
            let waits = exporter.log().contains("the storage takes no changes");
            was_ready || waits || exporter.has_ended()
        },
    );
    let mut unanswered: Vec<_> = (first..first + DELIVERIES).collect();
    let mut answered = Vec::new();
    let mut send_unanswered = |exporter: &Exporter, wanted: &[u16]| {
        unanswered.retain(|index| {
            // Where there is no answer, the process has ended.
            let status = send(exporter, *index);
            assert!(
                status.is_none_or(|status| wanted.contains(&status)),
                "{status:?}"
            );
            let is_answered = status == Some(200);
            if is_answered {
                answered.push(*index);
            }
            !is_answered
        });
        unanswered.len()
    };
    let put_off = send_unanswered(&exporter, &[200, 503]);
    fs::write(storage.with_file_name("mended"), "").unwrap();
    let mut has_ended = false;
    wait_for("the process to go on by itself, or to end", || {
        has_ended = exporter.has_ended();
        has_ended || exporter.get("/-/ready").status == 200
    });
    if !has_ended {
        assert_eq!(send_unanswered(&exporter, &[200]), 0, "{}", exporter.log());
    }
    let calls = || {
        let calls = fs::read_to_string(storage.with_file_name("calls")).unwrap();
        calls.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let until_stop = calls().len();
    if !has_ended {
        exporter.signal("TERM");
    }
    let status = exporter.wait();
    let log = exporter.log();
    if has_ended {
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(r#""level":"ERROR""#), "{log}");
    }
    Run {
        calls: calls(),
        answered,
        put_off,
        was_ready,
        has_ended,
        until_stop,
        log,
    }
}

fn send(exporter: &Exporter, index: usize) -> Option<u16> {
    let changes: Vec<_> = numbers_of(index)
        .map(|number| {
            json!({"field": "phone_number_quality_update",
                "value": {"event": "FLAGGED", "display_phone_number": number}})
        })
        .collect();
    let body = json!({"entry": [{"id": "1", "time": 1_700_000_000, "changes": changes}]});
    let body = body.to_string();
    let answer = request(
        exporter.webhook,
        "POST",
        "/webhooks/meta",
        &[],
        body.as_bytes(),
    );
    answer.ok().map(|answer| answer.status)
}

fn numbers_of(index: usize) -> impl Iterator<Item = String> {
    (0..NUMBERS).map(move |number| format!("1555{:07}", index * NUMBERS + number))
}

/// The numbers that were flagged so often.
fn known(exporter: &Exporter, times: f64) -> BTreeSet<String> {
    let samples = exporter.samples().into_iter();
    let events =
        samples.filter(|sample| sample.name == "whatsapp_phone_number_quality_events_total");
    let flagged = events.filter(|event| event.labels["event"] == "FLAGGED" && event.value == times);
    flagged
        .map(|sample| sample.labels["phone_number"].clone())
        .collect()
}
