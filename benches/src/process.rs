//! Programs that are measured, each ended with its measurement.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{load::SECRET, tls::Tls};

/// The exporter, as it is shipped.
pub const EXPORTER: &str = "../target/release/whatsapp-quality-exporter";

/// A program, and where it takes requests.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// The exporter's private listener.
    pub web: SocketAddr,
    /// From its start to its first answer that it is ready.
    pub ready: Duration,
}

impl Server {
    /// One of this program's own servers.
    pub fn limit(kind: &str, file: Option<&Path>) -> Self {
        let address = free();
        let command = limit(kind, address, file);
        Self::start(command, address, address, || is_ok(address, "/"))
    }

    /// One of this program's own servers, over TLS.
    pub fn limit_with_tls(kind: &str, file: &Path, tls: &Tls) -> Self {
        let address = free();
        let mut command = limit(kind, address, Some(file));
        command.arg(tls.folder());
        Self::start(command, address, address, || tls.is_ok(address, "/", ""))
    }

    /// The exporter, as it is shipped.
    pub fn exporter(storage: &Path) -> Self {
        Self::build(Path::new(EXPORTER), storage)
    }

    /// A build of the exporter.
    pub fn build(binary: &Path, storage: &Path) -> Self {
        Self::run(Command::new(binary), storage, None)
    }

    /// The exporter, by a command that runs it and may have arguments already; with TLS and a
    /// password on its private listener where they are given.
    pub fn run(mut command: Command, storage: &Path, tls: Option<&Tls>) -> Self {
        let (web, address) = (free(), free());
        command
            .arg(format!("--web.listen-address={web}"))
            .arg(format!("--webhook.listen-address={address}"))
            .arg(format!("--storage.path={}", storage.display()))
            .env("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET);
        if let Some(tls) = tls {
            let file = tls.web_config();
            command.arg(format!("--web.config.file={}", file.display()));
        }
        let path = "/-/ready";
        Self::start(command, address, web, || match tls {
            Some(tls) => tls.is_ok(web, path, ""),
            None => is_ok(web, path),
        })
    }

    pub fn pushgateway() -> Self {
        let address = free();
        let mut command = Command::new("prometheus-pushgateway");
        command
            .arg(format!("--web.listen-address={address}"))
            .arg("--push.disable-consistency-check");
        Self::start(command, address, address, || is_ok(address, "/-/ready"))
    }

    fn start(
        mut command: Command,
        address: SocketAddr,
        web: SocketAddr,
        is_ready: impl Fn() -> bool,
    ) -> Self {
        let began = Instant::now();
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Self {
            child,
            address,
            web,
            ready: Duration::ZERO,
        };
        while !is_ready() {
            assert!(
                server.child.try_wait().expect("a state").is_none(),
                "{command:?} ended"
            );
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "{command:?} is not ready"
            );
            thread::sleep(Duration::from_micros(200));
        }
        server.ready = began.elapsed();
        server
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub fn memory(&self, line: &str) -> f64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let value = status
            .lines()
            .find_map(|found| found.strip_prefix(line))
            .expect("a line");
        value
            .trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("KiB")
    }

    /// Seconds of processor time that its threads have taken.
    pub fn processor_time(&self) -> f64 {
        let threads = format!("/proc/{}/task", self.child.id());
        let of_thread = |thread: std::io::Result<fs::DirEntry>| {
            let path = thread.expect("a thread").path().join("schedstat");
            let times = fs::read_to_string(path).expect("its times");
            let nanoseconds = times.split(' ').next().expect("a time");
            nanoseconds.parse::<f64>().expect("a number") / 1e9
        };
        let threads = fs::read_dir(threads).expect("a process");
        threads.map(of_thread).sum()
    }

    /// Tells the program to stop, and gives how long it took to end.
    pub fn stop(mut self) -> Duration {
        let began = Instant::now();
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(kill.expect("kill").success());
        self.child.wait().expect("its end");
        began.elapsed()
    }

    /// Forgets the peak.
    pub fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("to reset the peak");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer to a GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

fn is_ok(address: SocketAddr, path: &str) -> bool {
    get(address, path, "").is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

/// This program as one of its own servers.
fn limit(kind: &str, address: SocketAddr, file: Option<&Path>) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command
        .args(["serve", kind, &address.to_string()])
        .args(file);
    command
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}
