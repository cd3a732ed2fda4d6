//! Members of a real etcd, which a test kills, freezes and cuts off, and the tests of that itself.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    slice,
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{
    link::Link,
    support::{Answer, finish, own_address, parse_answer, wait_for},
};

/// A cluster on loopback. Its members end with it, and with the process of the tests.
pub struct Cluster {
    members: Vec<Member>,
    isolated: BTreeSet<usize>,
    flags: Vec<String>,
    /// How often it was restored: members of another cluster refuse each other.
    restored: usize,
    folder: TempDir,
}

struct Member {
    client: SocketAddrV4,
    peer: SocketAddrV4,
    /// What clients are told to connect to.
    client_link: Link,
    /// What the other members are told to connect to.
    peer_link: Link,
    process: Option<Child>,
    frozen: bool,
}

impl Cluster {
    /// Starts this number of members and waits until all of them answer.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, &[])
    }

    /// As [`Cluster::start`], with further flags of etcd for each member.
    pub fn start_with(members: usize, flags: &[&str]) -> Self {
        let mut cluster = Self {
            members: (0..members).map(|_| Member::new()).collect(),
            isolated: BTreeSet::new(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            restored: 0,
            folder: tempfile::tempdir().unwrap(),
        };
        for member in 0..members {
            cluster.spawn(member);
        }
        cluster.wait_until_healthy();
        cluster
    }

    /// Where clients connect to, in the order of the members: to [`Cluster::link`] of each.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len())
            .map(|member| self.endpoint(member))
            .collect()
    }

    /// Where clients connect to for this member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("http://{}", self.link(member).address)
    }

    /// The way of clients to a member.
    pub fn link(&self, member: usize) -> &Link {
        &self.members[member].client_link
    }

    /// Ends a member by SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].end();
    }

    /// Ends a member by SIGKILL, if it runs, and starts it on what it has stored. Nothing is waited
    /// for: a member alone never answers, see [`Cluster::wait_until_healthy`].
    pub fn restart(&mut self, member: usize) {
        self.kill(member);
        self.spawn(member);
    }

    /// Stops a member where it is. Its connections stay open, and new ones to it are opened.
    pub fn freeze(&mut self, member: usize) {
        self.members[member].frozen = true;
        let process = self.members[member].signal(Signal::STOP);
        wait_for("a member to be stopped", || {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
            let (_, after_name) = stat.rsplit_once(") ").unwrap();
            after_name.starts_with('T')
        });
    }

    /// Has a frozen member go on.
    pub fn thaw(&mut self, member: usize) {
        self.members[member].signal(Signal::CONT);
        self.members[member].frozen = false;
    }

    /// Cuts a member off from the others, in both directions; clients still reach it.
    pub fn isolate(&mut self, member: usize) {
        self.isolated.insert(member);
        self.set_peer_links();
    }

    /// Undoes [`Cluster::isolate`].
    pub fn mend(&mut self, member: usize) {
        self.isolated.remove(&member);
        self.set_peer_links();
    }

    /// Waits until a majority of all members agrees on a leader, which is one that runs, is not
    /// frozen and not isolated: the others take a while to see that theirs is gone.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        wait_for("a leader", || {
            let seen: Vec<_> = (0..self.members.len())
                .filter(|member| !self.isolated.contains(member))
                .filter_map(|member| Some((member, self.status(member)?)))
                .collect();
            leader = seen.iter().find_map(|(member, status)| {
                let agrees = |(_, other): &&(usize, Json)| {
                    other["leader"] == status["header"]["member_id"]
                        && other["raftTerm"] == status["raftTerm"]
                };
                let majority = seen.iter().filter(agrees).count() > self.members.len() / 2;
                majority.then_some(*member)
            });
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Whether a member answers, and reads what a majority has.
    pub fn is_healthy(&self, member: usize) -> bool {
        self.ask(member, "GET", "/health", "")
            .is_some_and(|answer| answer.status == 200)
    }

    /// Waits until every member is healthy that runs, is not frozen and not isolated.
    pub fn wait_until_healthy(&mut self) {
        for member in 0..self.members.len() {
            if !self.members[member].answers() || self.isolated.contains(&member) {
                continue;
            }
            wait_for("a member to be healthy", || {
                let process = self.members[member].process.as_mut().unwrap();
                if let Some(status) = process.try_wait().unwrap() {
                    panic!(
                        "a member ended by itself, {status}: make setup, where there is no etcd"
                    );
                }
                self.is_healthy(member)
            });
        }
    }

    /// Forgets all old versions, and says which is the oldest that can be read now.
    pub fn compact(&self) -> i64 {
        let leader = self.leader();
        let status = self.status(leader).unwrap();
        let revision = status["header"]["revision"].as_str().unwrap();
        let body = json!({"revision": revision, "physical": true}).to_string();
        let answer = self.ask(leader, "POST", "/v3/kv/compaction", &body);
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        revision.parse().unwrap()
    }

    /// Writes a snapshot to a file.
    pub fn save(&self, file: &Path) {
        let from = format!("http://{}", self.members[self.leader()].client);
        etcdctl(&[from], &["snapshot", "save", file.to_str().unwrap()]).unwrap();
    }

    /// Throws away what all members have, and starts them on a snapshot, as a new cluster.
    pub fn restore(&mut self, file: &Path) {
        for member in &mut self.members {
            member.end();
        }
        self.restored += 1;
        for member in 0..self.members.len() {
            let data = self.data(member);
            fs::remove_dir_all(&data).unwrap();
            let mut arguments = vec![
                "snapshot".into(),
                "restore".into(),
                file.to_str().unwrap().into(),
                format!("--data-dir={}", data.display()),
            ];
            arguments.extend(self.membership(member));
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            etcdctl(&[], &arguments).unwrap();
        }
        for member in 0..self.members.len() {
            self.spawn(member);
        }
        self.wait_until_healthy();
    }

    fn spawn(&mut self, number: usize) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(number))
            .unwrap();
        let member = &self.members[number];
        // However the process of the tests ends, a member ends with it.
        let mut command = bare_command("setpriv");
        command
            .args(["--pdeathsig=KILL", "etcd", "--logger=zap"])
            .args(["--heartbeat-interval=50", "--election-timeout=500"])
            .arg(format!("--data-dir={}", self.data(number).display()))
            .arg(format!("--listen-client-urls=http://{}", member.client))
            .arg(format!("--advertise-client-urls={}", self.endpoint(number)))
            .arg(format!("--listen-peer-urls=http://{}", member.peer))
            .args(self.membership(number))
            .args(&self.flags)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.members[number].process = Some(spawn(command));
        self.members[number].frozen = false;
        self.set_peer_links();
    }

    /// The flags that say who the members are.
    fn membership(&self, number: usize) -> [String; 4] {
        let url = |member: &Member| format!("http://{}", member.peer_link.address);
        let members = self.members.iter().enumerate();
        let members: Vec<_> = members
            .map(|(number, member)| format!("member-{number}={}", url(member)))
            .collect();
        [
            format!("--name=member-{number}"),
            format!("--initial-cluster={}", members.join(",")),
            format!("--initial-cluster-token=restored-{}", self.restored),
            format!(
                "--initial-advertise-peer-urls={}",
                url(&self.members[number])
            ),
        ]
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("member-{member}"))
    }

    fn log(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("member-{member}.log"))
    }

    /// A member connects to each of the others, and all of them are told the same addresses: who
    /// opened a connection shows which link it takes.
    fn set_peer_links(&self) {
        let together = self.members.iter().enumerate().filter_map(|(i, member)| {
            let process = member.process.as_ref()?.id();
            (!self.isolated.contains(&i)).then_some(process)
        });
        let together: Vec<_> = together.collect();
        for (i, member) in self.members.iter().enumerate() {
            if self.isolated.is_empty() {
                member.peer_link.mend();
            } else if self.isolated.contains(&i) {
                member.peer_link.cut();
            } else {
                member.peer_link.cut_for_all_but(together.clone());
            }
        }
    }

    fn status(&self, member: usize) -> Option<Json> {
        let answer = self.ask(member, "POST", "/v3/maintenance/status", "{}")?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Asks a member by HTTP, past its link; nothing where it does not answer soon.
    fn ask(&self, member: usize, method: &str, path: &str, body: &str) -> Option<Answer> {
        let member = &self.members[member];
        if !member.answers() {
            return None;
        }
        let address = member.client;
        let mut stream = TcpStream::connect(address).ok()?;
        // A member without a leader says so after a second.
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        parse_answer(&answer).ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for member in 0..self.members.len() {
                let log = fs::read_to_string(self.log(member)).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(20)..];
                eprintln!("the last of member {member}:\n{}", last.join("\n"));
            }
        }
    }
}

impl Member {
    fn new() -> Self {
        let own = own_address();
        // Both are kept until the links have ports of their own.
        let listeners = [(); 2].map(|()| TcpListener::bind((own, 0)).unwrap());
        let [client, peer] = listeners
            .each_ref()
            .map(|listener| SocketAddrV4::new(own, listener.local_addr().unwrap().port()));
        Self {
            client,
            peer,
            client_link: Link::start(own, client),
            peer_link: Link::start(own, peer),
            process: None,
            frozen: false,
        }
    }

    fn answers(&self) -> bool {
        self.process.is_some() && !self.frozen
    }

    fn signal(&self, signal: Signal) -> u32 {
        let process = self.process.as_ref().expect("the member does not run");
        kill_process(Pid::from_child(process), signal).unwrap();
        process.id()
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs etcdctl; what it prints, or what it says of its failure.
pub fn etcdctl(endpoints: &[String], arguments: &[&str]) -> Result<String, String> {
    let mut command = bare_command("etcdctl");
    command.env("ETCDCTL_API", "3").args(arguments);
    if !endpoints.is_empty() {
        command.arg(format!("--endpoints={}", endpoints.join(",")));
    }
    let output = finish(command);
    let [printed, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    if output.status.success() {
        Ok(printed)
    } else {
        Err(said)
    }
}

/// A command without any variable that would configure it.
pub fn bare_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// Starts a process from a thread that is there as long as the process of the tests: a process that
/// is to end with its parent ends with the thread that started it.
pub fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<Child>);
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                // Who asked for it sees that there is no answer.
                if let Ok(child) = command.spawn() {
                    let _ = answer.send(child);
                }
            }
        });
        Mutex::new(sender)
    });
    let (sender, receiver) = mpsc::channel();
    orders.lock().unwrap().send((command, sender)).unwrap();
    receiver.recv().expect("setpriv of util-linux is not there")
}

fn put(endpoints: &[String], value: &str) {
    // A member that has just lost its leader says so, and the next time there is one.
    wait_for("a value to be put", || {
        etcdctl(endpoints, &["put", "key", value]).is_ok()
    });
}

fn get(endpoints: &[String]) -> String {
    let printed = etcdctl(endpoints, &["get", "key", "--print-value-only"]).unwrap();
    printed.trim_end().to_owned()
}

#[test]
fn three_members_elect_a_leader_and_have_the_same() {
    let cluster = Cluster::start(3);
    assert!(cluster.leader() < 3);
    let endpoints = cluster.endpoints();
    for (number, endpoint) in endpoints.iter().enumerate() {
        put(slice::from_ref(endpoint), &number.to_string());
        for endpoint in &endpoints {
            assert_eq!(get(slice::from_ref(endpoint)), number.to_string());
        }
    }
    let oldest = cluster.compact();
    let rev = format!("--rev={}", oldest - 1);
    let refused = etcdctl(&endpoints, &["get", "key", &rev]).unwrap_err();
    assert!(refused.contains("has been compacted"), "{refused}");
    let rev = format!("--rev={oldest}");
    assert!(etcdctl(&endpoints, &["get", "key", &rev]).is_ok());
}

#[test]
fn two_members_go_on_without_the_leader() {
    let mut cluster = Cluster::start(3);
    let endpoints = cluster.endpoints();
    let killed = cluster.leader();
    cluster.kill(killed);
    let frozen = cluster.leader();
    assert_ne!(frozen, killed);
    put(&endpoints, "while one was dead");
    cluster.restart(killed);
    cluster.wait_until_healthy();
    assert_eq!(get(&[cluster.endpoint(killed)]), "while one was dead");

    cluster.freeze(frozen);
    assert!(!cluster.is_healthy(frozen));
    assert_ne!(cluster.leader(), frozen);
    put(&[cluster.endpoint(killed)], "while one was frozen");
    cluster.thaw(frozen);
    cluster.wait_until_healthy();
    assert_eq!(get(&[cluster.endpoint(frozen)]), "while one was frozen");
}

#[test]
fn an_isolated_leader_has_only_the_past() {
    let mut cluster = Cluster::start(3);
    put(&cluster.endpoints(), "before");
    let isolated = cluster.leader();
    cluster.isolate(isolated);
    let leader = cluster.leader();
    assert_ne!(leader, isolated);
    put(&[cluster.endpoint(leader)], "after");
    let alone = [cluster.endpoint(isolated)];
    let read = ["get", "key", "--print-value-only", "--command-timeout=1s"];
    let refused = etcdctl(&alone, &read).unwrap_err();
    println!("{refused}");
    let stale = etcdctl(&alone, &[&read[..], &["--consistency=s"]].concat());
    assert_eq!(stale.as_deref(), Ok("before\n"));
    // Neither does a new process of it reach the others.
    cluster.restart(isolated);
    cluster.wait_until_healthy();
    assert!(!cluster.is_healthy(isolated));

    cluster.mend(isolated);
    cluster.wait_until_healthy();
    assert_eq!(get(&alone), "after");
}

#[test]
fn a_snapshot_is_restored_as_it_was_saved() {
    let mut cluster = Cluster::start(3);
    let endpoints = cluster.endpoints();
    put(&endpoints, "saved");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    cluster.save(&file);
    put(&endpoints, "lost");
    cluster.restore(&file);
    assert_eq!(cluster.endpoints(), endpoints);
    for endpoint in endpoints {
        assert_eq!(get(slice::from_ref(&endpoint)), "saved");
        put(slice::from_ref(&endpoint), "new");
        put(slice::from_ref(&endpoint), "saved");
    }
}

#[test]
fn a_link_is_cut_and_mended_and_slow() {
    let cluster = Cluster::start_with(1, &["--quota-backend-bytes=100000000"]);
    let endpoints = cluster.endpoints();
    put(&endpoints, "value");
    cluster.link(0).cut();
    let mut waiting = TcpStream::connect(cluster.link(0).address).unwrap();
    let get_now = ["get", "key", "--command-timeout=1s"];
    let refused = etcdctl(&endpoints, &get_now).unwrap_err();
    assert!(refused.contains("deadline"), "{refused}");
    cluster.link(0).mend();
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0, "closed");
    assert_eq!(get(&endpoints), "value");

    let by = Duration::from_millis(300);
    cluster.link(0).delay(by);
    let began = Instant::now();
    assert_eq!(get(&endpoints), "value");
    assert!(began.elapsed() > 2 * by);
}
