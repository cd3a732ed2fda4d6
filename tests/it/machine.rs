//! Places where the program may be put: process 1 of a container, a machine without IPv6, a root
//! that is read-only, and a user that may write nothing but a folder of its own.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Exporter, allow_all, command, finish, preloaded, wait_for};

/// The user `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

#[test]
fn process_1_reloads_stops_and_leaves_no_child() {
    let folder = tempfile::tempdir().unwrap();
    let namespaces = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let unshare = unshare(&namespaces);
    let is_process_1 = unshare.is_some();
    let program = launch(unshare.unwrap_or_else(|| {
        println!("this user may make no process 1: the exporter is an ordinary process here");
        Command::new("env")
    }));
    let mut exporter = Exporter::start_under(program, folder.path());
    let process = match is_process_1 {
        true => children(exporter.id()).first().copied().unwrap(),
        false => exporter.id(),
    };
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = ids.unwrap().split_whitespace().last().unwrap();
    assert_eq!(own == "1", is_process_1, "{status}");

    assert_eq!(exporter.post("/webhooks/8x8", "{}").status, 200);
    signal("HUP", process);
    wait_for("the reload", || {
        exporter.log().contains("configurations read again")
    });
    assert_eq!(exporter.get("/-/ready").status, 200);
    assert!(children(process).is_empty(), "{:?}", children(process));
    signal("TERM", process);
    assert_eq!(exporter.wait().code(), Some(0), "{}", exporter.log());
}

#[test]
fn address_without_a_host_is_bound_where_the_kernel_has_no_ipv6() {
    let folder = tempfile::tempdir().unwrap();
    let library = preloaded("no_ipv6", folder.path());
    let preload = [("LD_PRELOAD", library.to_str().unwrap())];
    for address in [":0", "localhost:0"] {
        let data = tempfile::tempdir().unwrap();
        let addresses = ["web", "webhook"].map(|role| format!("--{role}.listen-address={address}"));
        let addresses = [&*addresses[0], &*addresses[1]];
        let exporter = Exporter::start_with(data.path(), &addresses, &preload);
        assert!(exporter.web.is_ipv4() && exporter.webhook.is_ipv4());
        assert_eq!(exporter.post("/webhooks/8x8", "{}").status, 200);
    }
    // With IPv6 it would have had another address.
    let mut command = command();
    command
        .args([
            "--web.listen-address=[::1]:0",
            "--webhook.listen-address=[::1]:0",
        ])
        .arg(allow_all())
        .envs(preload);
    let output = finish(command);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("cannot listen on [::1]:0"), "{log}");
}

#[test]
fn root_that_is_read_only_needs_no_folder_but_the_storage() {
    /// Every file system is made read-only but the one of the folder that is given.
    const READ_ONLY: &str = r#"
        mount --make-rprivate / && mount --bind "$0" "$0" || exit 99
        while read -r _ _ _ _ point _; do
            [ "$point" = "$0" ] || mount -o remount,bind,ro "$point" || exit 99
        done </proc/self/mountinfo
        for folder in / /tmp /var/tmp /dev/shm /run; do
            ! touch "$folder/written" 2>/dev/null || exit 98
        done
        exec "$@""#;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let read_only = || {
        let mut command = unshare(&["--mount"])?;
        command.args(["sh", "-c", READ_ONLY]).arg(&folder);
        Some(command)
    };
    let is_read_only = read_only().is_some_and(|mut command| {
        let status = command.arg("true").status().unwrap();
        assert_ne!(status.code(), Some(98), "a folder can be written");
        status.success()
    });
    if !is_read_only {
        println!("this user may not make the root read-only: only open files are looked at");
    }
    let start = || {
        let command = read_only().filter(|_| is_read_only);
        let program = launch(command.unwrap_or_else(|| Command::new("env")));
        Exporter::start_under(program, &folder)
    };
    let mut exporter = start();
    // More than SQLite keeps in memory.
    for time in 1..=20 {
        let answer = exporter.post("/webhooks/meta", &batch(time, 1000));
        assert_eq!(answer.json()["applied"], 1000, "{}", answer.text());
    }
    let files = format!("/proc/{}/fd", exporter.id());
    for file in fs::read_dir(files).unwrap() {
        let file = file.unwrap();
        // The standard streams are the test's own, and may be files.
        if ["0", "1", "2"]
            .map(Some)
            .contains(&file.file_name().to_str())
        {
            continue;
        }
        // A socket is gone before it is looked at.
        let Ok(path) = fs::read_link(file.path()) else {
            continue;
        };
        let is_device = path.starts_with("/dev");
        let is_kept = path.starts_with(&folder);
        assert!(!path.is_absolute() || is_device || is_kept, "{path:?}");
    }
    assert!(exporter.get("/metrics").text().len() > 1 << 20);
    exporter.end("KILL");
    let exporter = start();
    let known = exporter.value("whatsapp_exporter_phone_numbers", &[]);
    assert_eq!(known, Some(1000.0));
    assert_eq!(exporter.get("/-/ready").status, 200);
}

#[test]
fn full_file_system_puts_webhooks_off_until_there_is_room() {
    const SMALL: &str = r#"mount -t tmpfs -o size=2m none "$0" || exit 99; exec "$@""#;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let small = || {
        let mut command = unshare(&["--mount"])?;
        command.args(["sh", "-c", SMALL]).arg(&folder);
        Some(command)
    };
    let may_mount = small().is_some_and(|mut command| {
        let status = command.arg("true").status();
        status.unwrap().success()
    });
    if !may_mount {
        println!(
            "this user may mount no file system: storage::a_full_disk_promises_nothing_and_loses_\
             nothing has a limit of its files in the place of one"
        );
        return;
    }
    let exporter = Exporter::start_under(launch(small().unwrap()), &folder);
    let inside = format!("/proc/{}/root{}", exporter.id(), folder.display());
    let ballast = Path::new(&inside).join("ballast");
    let events = |numbers: std::ops::Range<usize>| {
        let event = |number| {
            format!(
                r#"{{"field":"phone_number_quality_update","value":{{"display_phone_number":"1555{number:07}","event":"FLAGGED"}}}}"#
            )
        };
        let changes = numbers.map(event).collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"entry":[{{"id":"1","time":1748454394,"changes":[{changes}]}}]}}"#);
        exporter.post("/webhooks/meta", &body)
    };
    let value = |name| exporter.value(name, &[]).unwrap();
    assert_eq!(events(0..10).json()["applied"], 10);
    let mut known = 10;
    for round in 0..3 {
        let filled = fs::write(&ballast, vec![0; 2 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        // A page of the log may have room for a small one.
        while events(known..known + 1).status == 200 {
            known += 1;
        }
        assert_eq!(events(known..known + 500).status, 503, "round {round}");
        assert_eq!(value("whatsapp_exporter_storage_up"), 0.0);
        assert_eq!(value("whatsapp_exporter_phone_numbers"), known as f64);
        assert_eq!(exporter.get("/-/ready").status, 503);

        fs::remove_file(&ballast).unwrap();
        wait_for("the storage to take changes again", || {
            exporter.get("/-/ready").status == 200
        });
        let answer = events(known..known + 50).json();
        assert_eq!(answer["applied"], 50);
        known += 50;
        assert_eq!(value("whatsapp_exporter_phone_numbers"), known as f64);
    }
    println!("a tmpfs of 2 MiB was full 3 times: {known} numbers answered, 0 lost");
}

#[test]
fn storage_that_cannot_be_written_is_named_with_the_user() {
    let above = tempfile::tempdir().unwrap();
    let user = User::new(above.path());
    let folder = user.folder("data");
    let database = folder.join("whatsapp-quality-exporter.db");
    let cannot_use = |path: &Path| format!("cannot use the storage folder {}: ", path.display());
    let cannot_write = format!("cannot write the database {}: ", database.display());

    set_mode(&folder, 0o500);
    assert_refused(&user, &folder, &cannot_use(&folder));
    let missing = folder.join("missing");
    assert_refused(&user, &missing, &cannot_use(&missing));
    set_mode(&folder, 0o700);
    user.serve_once(&folder);
    for mode in [0o000, 0o400] {
        set_mode(&database, mode);
        assert_refused(&user, &folder, &cannot_write);
        set_mode(&database, 0o600);
    }
    // The write-ahead log is to be made beside it.
    set_mode(&folder, 0o500);
    assert_refused(&user, &folder, &cannot_write);
    set_mode(&folder, 0o700);
    user.serve_once(&folder);
}

fn assert_refused(user: &User, folder: &Path, sentence: &str) {
    let mut command = user.command();
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
        ])
        .arg(allow_all())
        .arg(format!("--storage.path={}", folder.display()));
    let output = finish(command);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let user = format!("the user of this process (uid {})", user.id);
    assert!(log.contains(sentence) && log.contains(&user), "{log}");
}

/// A user without the rights of root.
struct User {
    id: u32,
    /// Where this user may start it.
    exporter: PathBuf,
    folder: PathBuf,
}

impl User {
    /// Of the test itself, or `nobody` where the test is root; with a folder of their own.
    fn new(folder: &Path) -> Self {
        let binary = command().get_program().to_owned();
        let id = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
        if id != 0 {
            return Self {
                id,
                exporter: binary.into(),
                folder: folder.into(),
            };
        }
        set_mode(folder, 0o755);
        let exporter = folder.join("exporter");
        fs::copy(binary, &exporter).unwrap();
        Self {
            id: NOBODY,
            exporter,
            folder: folder.into(),
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).unwrap();
        if self.id == NOBODY {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        folder
    }

    /// The exporter, as this user.
    fn command(&self) -> Command {
        if self.id != NOBODY {
            return command();
        }
        let mut setpriv = Command::new("setpriv");
        setpriv
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&self.exporter);
        without_variables(setpriv)
    }

    /// Starts and stops it; then the database is there, and no log beside it.
    fn serve_once(&self, folder: &Path) {
        let mut exporter = Exporter::start_under(self.command(), folder);
        assert_eq!(exporter.end("TERM").code(), Some(0), "{}", exporter.log());
    }
}

/// A command that makes namespaces and runs in them what is appended; `None` where this user may
/// make none.
fn unshare(namespaces: &[&str]) -> Option<Command> {
    let as_root: &[&str] = &["--user", "--map-root-user"];
    [&[], as_root].into_iter().find_map(|user| {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(user).args(namespaces);
            command
        };
        let is_allowed = unshare().arg("true").status().unwrap().success();
        is_allowed.then(unshare)
    })
}

/// The exporter, run by another program.
fn launch(mut launcher: Command) -> Command {
    launcher.arg(command().get_program());
    without_variables(launcher)
}

fn without_variables(mut program: Command) -> Command {
    for (name, _) in command().get_envs() {
        program.env_remove(name);
    }
    program
}

/// The children of all threads of a process, those that ended and were not waited for among them.
fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_threads = threads.map(|thread| {
        let path = thread.unwrap().path().join("children");
        fs::read_to_string(path).unwrap()
    });
    let all: Vec<_> = of_threads.collect();
    all.concat()
        .split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}

fn signal(name: &str, process: u32) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &process.to_string()]);
    assert!(kill.status().unwrap().success());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Changes of many numbers in one webhook.
fn batch(time: u64, numbers: u64) -> String {
    let changes: Vec<_> = (0..numbers)
        .map(|number| {
            let number = 15_550_000_000 + number;
            format!(
                r#"{{"field":"phone_number_quality_update","value":{{
                   "display_phone_number":"{number}","event":"UPGRADE","current_limit":"TIER_1K"}}}}"#
            )
        })
        .collect();
    let changes = changes.join(",");
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"1","time":{time},"changes":[{changes}]}}]}}"#
    )
}
