//! Errors of the disk, at each call in turn: what was answered 200 is there afterwards.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::json;

use crate::support::{Exporter, preloaded, request, wait_for};

/// Deliveries that are in the database before the fault, and that come with it.
const BEFORE: usize = 3;
const DELIVERIES: usize = 8;
/// New numbers of a delivery: several, so that a part of them would be seen.
const NUMBERS: usize = 3;

/// A sweep over the calls of a process, from its start to its end.
struct Sweep {
    library: PathBuf,
    /// The files with which the process starts.
    files: Vec<(String, Vec<u8>)>,
    /// The deliveries that these files hold.
    before: usize,
}

/// What a process with a fault did.
struct Run {
    /// The calls on its files, each as its function and its path.
    calls: Vec<String>,
    /// How many of them came before it was told to stop.
    calls_while_serving: usize,
    /// The deliveries that it answered 200.
    answered: Vec<usize>,
    /// Whether its end was a failure, by itself or when it was told to stop.
    has_failed: bool,
}

#[test]
fn fault_at_any_call_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let library = preloaded("fault", folder.path());
    let empty = Sweep {
        library: library.clone(),
        files: Vec::new(),
        before: 0,
    };
    let killed = Sweep {
        files: files_of_a_killed_process(),
        before: BEFORE,
        library,
    };
    for (name, sweep) in [
        ("a new storage", empty),
        ("a killed process' storage", killed),
    ] {
        let calls = sweep.run(0, "error").calls;
        for fault in ["error", "short", "torn"] {
            let is_moved = |call: &String| call.starts_with("pread") || call.starts_with("pwrite");
            let at: Vec<_> = (1..=calls.len())
                .filter(|at| fault == "error" || is_moved(&calls[at - 1]))
                .collect();
            let (failed, refused) = sweep.all(&at, fault);
            println!(
                "{name}, {fault}: {} of {} calls swept, {failed} processes ended with \
                 an error, {refused} deliveries were put off, 0 lost, 0 counted twice",
                at.len(),
                calls.len()
            );
        }
    }
}

/// A database whose last changes stand in its log.
fn files_of_a_killed_process() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    for index in 0..BEFORE {
        assert_eq!(send(&exporter, index), Some(200));
    }
    exporter.end("KILL");
    let files = fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
    let name = |file: &fs::DirEntry| file.file_name().into_string().unwrap();
    files
        .filter(|file| !name(file).ends_with("-shm"))
        .map(|file| (name(&file), fs::read(file.path()).unwrap()))
        .collect()
}

impl Sweep {
    /// Has each of these calls go wrong, in a process of its own; gives in how many of them the
    /// process ended with an error, and how many deliveries were put off.
    fn all(&self, at: &[usize], fault: &str) -> (usize, usize) {
        let [next, failed, refused] = [(); 3].map(|()| AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(at) = at.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = self.run(*at, fault);
                        failed.fetch_add(run.has_failed.into(), Ordering::Relaxed);
                        let put_off = DELIVERIES - run.answered.len();
                        refused.fetch_add(put_off, Ordering::Relaxed);
                    }
                });
            }
        });
        (failed.into_inner(), refused.into_inner())
    }

    /// Runs a process of which one call goes wrong, none where that is 0, and checks what a process
    /// without a fault finds afterwards.
    fn run(&self, at: usize, fault: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().canonicalize().unwrap().join("storage");
        fs::create_dir(&storage).unwrap();
        for (name, content) in &self.files {
            fs::write(storage.join(name), content).unwrap();
        }
        let calls = folder.path().join("calls");
        let environment = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAULT_FOLDER", storage.display().to_string()),
            ("FAULT_CALLS", calls.display().to_string()),
            ("FAULT_AT", at.to_string()),
            ("FAULT", fault.to_owned()),
        ];
        let run = deliver(&storage, &environment, &calls, self.before);
        let context = match at {
            0 => "without a fault".to_owned(),
            _ => format!("{fault} at call {at}, {}", run.calls[at - 1]),
        };
        if at == 0 {
            assert_eq!(run.answered.len(), DELIVERIES, "{context}");
        }
        let is_sync_of_log = context.contains("sync /") && context.ends_with("-wal");
        if is_sync_of_log && at <= run.calls_while_serving {
            assert!(run.has_failed, "{context}: it went on after a failed sync");
        }
        self.check(&storage, &run.answered, &context);
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
                "{context}: {numbers} numbers of delivery {index}, answered: {was_answered}"
            );
        }
        for index in 0..self.before + DELIVERIES {
            assert_eq!(send(&exporter, index), Some(200), "{context}");
        }
        let all = (0..self.before + DELIVERIES).flat_map(numbers_of);
        assert_eq!(known(&exporter, 1.0), all.collect(), "{context}");
        assert!(known(&exporter, 2.0).is_empty(), "{context}: counted twice");
    }
}

/// Runs a process with a fault until its end, and sends it the deliveries.
fn deliver(storage: &Path, environment: &[(&str, String)], calls: &Path, first: usize) -> Run {
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let what = format!("the process to be ready or to end, with {environment:?}");
    let mut exporter = Exporter::begin(storage, environment);
    let mut has_ended = false;
    wait_for(&what, || {
        has_ended = exporter.has_ended();
        has_ended || exporter.get("/-/ready").status == 200
    });
    let mut answered = Vec::new();
    for index in first..first + DELIVERIES {
        match send(&exporter, index) {
            Some(200) => answered.push(index),
            Some(status) => assert_eq!(status, 503, "{}", exporter.log()),
            // The process has ended.
            None => {}
        }
    }
    has_ended = exporter.has_ended();
    let calls_so_far = || {
        let calls = fs::read_to_string(calls).unwrap();
        calls.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let calls_while_serving = calls_so_far().len();
    if !has_ended {
        exporter.signal("TERM");
    }
    let has_failed = !exporter.wait().success();
    assert!(has_failed || !has_ended, "{}", exporter.log());
    let says_why = exporter.log().contains("\"level\":\"ERROR\"");
    assert!(says_why || !has_failed, "{}", exporter.log());
    Run {
        calls: calls_so_far(),
        calls_while_serving,
        answered,
        has_failed,
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
