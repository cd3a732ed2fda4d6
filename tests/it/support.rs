//! What the tests share: a running exporter, a client, and a reader of samples.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use serde_json::Value as Json;
use whatsapp_quality_exporter::providers;

/// A deadline for what should happen at once, on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(150);

/// The real binary, in a process of its own, ended with the test.
pub struct Exporter {
    child: Child,
    log: Arc<Mutex<String>>,
    log_reader: Option<thread::JoinHandle<()>>,
    pub web: SocketAddr,
    pub webhook: SocketAddr,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    storage: PathBuf,
    /// How the private listener is asked, where it has TLS.
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A sample of a page in the text format.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Exporter {
    /// Starts the binary on free ports with its storage in `storage`, and waits until it is ready.
    pub fn start(storage: &Path, arguments: &[&str]) -> Self {
        Self::start_with(storage, arguments, &[])
    }

    /// As [`Exporter::start`], with variables of the environment.
    pub fn start_with(storage: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_bare(
            storage,
            &[&[allow_all().as_str()], arguments].concat(),
            environment,
        )
    }

    /// As [`Exporter::start_with`], where only a provider is on that the test itself turns on.
    pub fn start_bare(storage: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let arguments = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self::spawn(command(), storage, arguments, environment).ready()
    }

    /// As [`Exporter::start`], where the private listener speaks TLS.
    pub fn start_with_tls(
        storage: &Path,
        arguments: &[&str],
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        let arguments = [allow_all()].into_iter().chain(arguments).collect();
        let mut exporter = Self::spawn(command(), storage, arguments, vec![]);
        exporter.tls = Some(tls);
        exporter.ready()
    }

    /// As [`Exporter::start`], by a command that runs the binary.
    pub fn start_under(program: Command, storage: &Path) -> Self {
        Self::spawn(program, storage, vec![allow_all()], vec![]).ready()
    }

    /// As [`Exporter::start`], on a disk that is full where a file reaches `bytes`; started again,
    /// it has no limit.
    pub fn start_on_small_disk(storage: &Path, bytes: usize) -> Self {
        Self::start_on_full_disk(storage, bytes, &[]).ready()
    }

    /// As [`Exporter::start_on_small_disk`], without waiting until it is ready.
    pub fn start_on_full_disk(
        storage: &Path,
        bytes: usize,
        environment: &[(String, String)],
    ) -> Self {
        let program = command();
        let mut shell = Command::new("sh");
        // The signal would end the process before it sees the error that a full disk gives.
        let script = format!(
            "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
            bytes / 512
        );
        shell.args(["-c", &script]).arg(program.get_program());
        for (name, _) in program.get_envs() {
            shell.env_remove(name);
        }
        Self::spawn(shell, storage, vec![allow_all()], environment.to_vec())
    }

    fn spawn(
        mut program: Command,
        storage: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Self {
        if !arguments
            .iter()
            .any(|argument| argument.starts_with("--log.format="))
        {
            program.arg("--log.format=json");
        }
        let own = own_address();
        for flag in ["--web.listen-address=", "--webhook.listen-address="] {
            if !arguments.iter().any(|argument| argument.starts_with(flag)) {
                program.arg(format!("{flag}{own}:0"));
            }
        }
        let mut child = program
            .arg(format!("--storage.path={}", storage.display()))
            .args(&arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (addresses, listening) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        let log_reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(address) = listening_address(&line) {
                    let _ = addresses.send(address);
                }
                let mut sink = sink.lock().unwrap();
                sink.push_str(&line);
                sink.push('\n');
            }
        });
        let mut address = || {
            listening.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                let _ = child.kill();
                panic!("the exporter does not listen:\n{}", log.lock().unwrap())
            })
        };
        // The program says where it listens in that order.
        let (web, webhook) = (address(), address());
        let log_reader = Some(log_reader);
        Self {
            child,
            log,
            log_reader,
            web,
            webhook,
            arguments,
            environment,
            storage: storage.into(),
            tls: None,
        }
    }

    /// Starts the binary without waiting until it is ready, with variables of the environment.
    pub fn begin(storage: &Path, environment: Vec<(String, String)>) -> Self {
        Self::spawn(command(), storage, vec![allow_all()], environment)
    }

    fn ready(mut self) -> Self {
        wait_for("the exporter to be ready", || {
            if self.has_ended() {
                self.wait();
                panic!("the exporter ended:\n{}", self.log());
            }
            self.get("/-/ready").status == 200
        });
        self
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Ends the process with SIGKILL and starts it on the same storage.
    pub fn kill_and_restart(mut self) -> Self {
        self.end("KILL");
        self.start_again()
    }

    /// Starts the same process once more; this one must have ended.
    pub fn start_again(&self) -> Self {
        self.begin_again().ready()
    }

    /// As [`Exporter::start_again`], without waiting until it is ready.
    pub fn begin_again(&self) -> Self {
        let mut exporter = Self::spawn(
            command(),
            &self.storage,
            self.arguments.clone(),
            self.environment.clone(),
        );
        exporter.tls = self.tls.clone();
        exporter
    }

    /// The number of the process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal without waiting.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "no process to send {signal} to");
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the process to end; then its log is whole.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_for("the exporter to end", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        ended.unwrap()
    }

    /// What the process has logged so far, a JSON object a line.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks the private listener.
    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).unwrap_or(Answer {
            status: 0,
            headers: BTreeMap::new(),
            body: vec![],
        })
    }

    /// Asks the private listener with further headers.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        match &self.tls {
            None => request(self.web, "GET", path, headers, b""),
            Some(tls) => https(self.web, tls, "GET", path, headers, b""),
        }
    }

    /// Sends a webhook as JSON without authentication.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        request(
            self.webhook,
            "POST",
            path,
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )
        .unwrap()
    }

    /// The samples of the page.
    pub fn samples(&self) -> Vec<Sample> {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        samples(answer.text())
    }

    /// The value of the one series of that name that carries these labels, if there is one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        value(&self.samples(), name, labels)
    }
}

/// A loopback address that no other process of these tests has. The port of a process that has ended
/// may be given to the next one; at another address, that one never gets what was meant for the first.
pub fn own_address() -> Ipv4Addr {
    static GIVEN: AtomicU32 = AtomicU32::new(1);
    let given = GIVEN.fetch_add(1, Ordering::Relaxed);
    // Ten bits for the process of the tests, 14 for its exporters, inside of 127.0.0.0/8.
    let host = ((std::process::id() % 1022 + 1) << 14) | (given % (1 << 14));
    Ipv4Addr::from_bits((127 << 24) | host)
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that serves HTTP.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it with a configuration file in this folder, beside which it may put its data and its
    /// log.
    pub fn start(
        program: &str,
        folder: &Path,
        configuration: &str,
        arguments: impl Fn(&mut Command, &Path, SocketAddr),
    ) -> Self {
        let name = Path::new(program).file_name().unwrap().display();
        let file = folder.join(format!("{name}.yml"));
        fs::write(&file, configuration).unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut command = Command::new(program);
        arguments(&mut command, &file, address);
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}: make setup"));
        let server = Self { child, address };
        wait_for(&format!("{name} to be ready"), || {
            request(address, "GET", "/-/ready", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        server
    }

    /// Starts a Prometheus.
    pub fn prometheus(program: &str, folder: &Path, configuration: &Json) -> Self {
        Self::start(
            program,
            folder,
            &configuration.to_string(),
            |command, file, address| {
                command
                    .arg(format!("--config.file={}", file.display()))
                    .arg(format!(
                        "--storage.tsdb.path={}",
                        file.with_extension("data").display()
                    ))
                    .arg(format!("--web.listen-address={address}"));
            },
        )
    }

    pub fn get(&self, path: &str) -> Json {
        // HTTP/1.0: nothing comes in chunks.
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {path}: {answer}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }
}

/// The flag that turns every provider on that has no secret.
pub fn allow_all() -> String {
    let names: Vec<_> = providers::ALL
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    format!("--webhook.allow-unauthenticated={}", names.join(","))
}

/// The binary, or the one that `EXPORTER` names, without any variable that would configure it.
pub fn command() -> Command {
    let own = || env!("CARGO_BIN_EXE_whatsapp-quality-exporter").into();
    let mut command = Command::new(std::env::var_os("EXPORTER").unwrap_or_else(own));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHATSAPP_EXPORTER_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command that should end by itself; where it does not, it has no exit status.
pub fn finish(mut command: Command) -> Output {
    command.stdout(Stdio::piped());
    finish_with_stdout(command)
}

/// As [`finish`], where the command has a standard output of its own.
pub fn finish_with_stdout(mut command: Command) -> Output {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Compiles a library of `tests/it`, `NAME.c`, which is to be preloaded, into a folder.
pub fn preloaded(name: &str, folder: &Path) -> PathBuf {
    let library = folder.join(format!("{name}.so"));
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(fixture_path(&format!("it/{name}.c")))
        .arg("-ldl")
        .status();
    assert!(status.unwrap().success(), "cc failed: make setup");
    library
}

/// The value of `X-Hub-Signature-256`, as Meta makes it.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!(
        "sha256={}",
        base16ct::lower::encode_string(hmac::sign(&key, body).as_ref())
    )
}

/// Sends a request on a connection of its own and reads the answer.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    exchange(address, &written(address, method, target, headers, body))
}

/// As [`request`], over TLS.
pub fn https(
    address: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let connection =
        rustls::ClientConnection::new(Arc::clone(tls), "localhost".try_into().unwrap())
            .map_err(io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, connect(address)?);
    stream.write_all(&written(address, method, target, headers, body))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_answer(&answer)
}

fn written(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// Sends bytes on a connection of their own and reads the answer, to the end of the connection.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_answer(&answer)
}

/// A connection that gives up in the end.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads an answer that is there as a whole.
pub fn parse_answer(bytes: &[u8]) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "no whole answer");
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(broken)?;
    let head = str::from_utf8(&bytes[..end]).map_err(|_| broken())?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect::<BTreeMap<_, _>>();
    let body = &bytes[end + 4..];
    let body = match headers.get("transfer-encoding").map(String::as_str) {
        Some("chunked") => dechunked(body).ok_or_else(broken)?,
        _ => body.to_vec(),
    };
    Ok(Answer {
        status: status.ok_or_else(broken)?,
        headers,
        body,
    })
}

/// The body that was sent in chunks; nothing where the last of them is missing.
fn dechunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n")?;
        let length = str::from_utf8(&chunks[..end]).ok()?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunks.get(end + 2..end + 2 + length)?);
        chunks = chunks.get(end + 2 + length + 2..)?;
    }
}

/// The address in a line of the log that says where the process listens.
fn listening_address(line: &str) -> Option<SocketAddr> {
    // Whether it is JSON or logfmt.
    let (_, address) = line
        .split_once("listening")
        .and_then(|(_, rest)| rest.split_once("address"))?;
    address.trim_matches(['"', ':', '=', '}']).parse().ok()
}

/// Waits for a condition, never for a time.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a page in the text format; panics where a line is not valid.
pub fn samples(page: &str) -> Vec<Sample> {
    page.split('\n')
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(sample)
        .collect()
}

fn sample(line: &str) -> Sample {
    let name_end = line
        .find(['{', ' '])
        .unwrap_or_else(|| panic!("no sample: {line:?}"));
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest
                .split_once("=\"")
                .unwrap_or_else(|| panic!("no label: {line:?}"));
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters
                    .next()
                    .unwrap_or_else(|| panic!("no end of a label: {line:?}"))
                {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                        _ => panic!("no escape: {line:?}"),
                    },
                    (_, character) => value.push(character),
                }
            };
            assert!(
                labels.insert(label.to_owned(), value).is_none(),
                "repeated label: {line:?}"
            );
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    let value = rest
        .strip_prefix(' ')
        .unwrap_or_else(|| panic!("no value: {line:?}"));
    Sample {
        name: name.to_owned(),
        labels,
        value: value.replace("Inf", "inf").parse().unwrap(),
    }
}

/// The value of the one sample of that name that carries these labels, if there is one.
pub fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let carries = |sample: &&Sample| {
        sample.name == name
            && labels.iter().all(|(label, value)| {
                sample
                    .labels
                    .get(*label)
                    .is_some_and(|found| found == value)
            })
    };
    let mut found = samples.iter().filter(carries);
    let value = found.next().map(|sample| sample.value);
    assert!(
        found.next().is_none(),
        "more than one {name} carries {labels:?}"
    );
    value
}

/// A file below `tests/`.
pub fn fixture(path: &str) -> String {
    let path = fixture_path(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares with a file below `tests/`, or writes it where `UPDATE_GOLDEN` is set.
pub fn assert_golden(path: &str, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = fixture_path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    } else {
        assert_eq!(
            text,
            fixture(path),
            "tests/{path} differs; where that is wanted: make golden"
        );
    }
}

fn fixture_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}
