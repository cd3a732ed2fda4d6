//! A way to a server by TCP that a test can cut, mend and make slow.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Listens in the place of a server, and carries what comes in to it and back.
pub struct Link {
    pub address: SocketAddrV4,
    shared: Arc<Shared>,
    listener: Option<thread::JoinHandle<()>>,
}

struct Shared {
    address: SocketAddrV4,
    target: SocketAddrV4,
    delay: Mutex<Duration>,
    state: Mutex<State>,
}

struct State {
    admitted: Admitted,
    ended: bool,
    carried: BTreeMap<SocketAddrV4, [TcpStream; 2]>,
    /// Nobody reads them, and nobody closes them: who opened one waits for an answer.
    swallowed: Vec<TcpStream>,
}

/// Whose connections are carried.
enum Admitted {
    All,
    Nobody,
    Processes(Vec<u32>),
}

impl Link {
    /// Listens on a free port of this address.
    pub fn start(own: Ipv4Addr, target: SocketAddrV4) -> Self {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = v4(listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            address,
            target,
            delay: Mutex::new(Duration::ZERO),
            state: Mutex::new(State {
                admitted: Admitted::All,
                ended: false,
                carried: BTreeMap::new(),
                swallowed: vec![],
            }),
        });
        let of_listener = Arc::clone(&shared);
        let listener = thread::spawn(move || {
            for stream in listener.incoming() {
                if of_listener.state.lock().unwrap().ended {
                    break;
                }
                let shared = Arc::clone(&of_listener);
                // A connection may take long to be opened where the server is frozen.
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        Self {
            address,
            shared,
            listener: Some(listener),
        }
    }

    /// Closes all connections; a new one is opened, and what is sent on it gets no answer.
    pub fn cut(&self) {
        self.shared.admit(Admitted::Nobody);
    }

    /// As [`Link::cut`], but for the connections that these processes open.
    pub fn cut_for_all_but(&self, processes: Vec<u32>) {
        self.shared.admit(Admitted::Processes(processes));
    }

    /// Carries everything again; who waited for an answer sees the connection closed.
    pub fn mend(&self) {
        self.shared.admit(Admitted::All);
    }

    /// From now on everything arrives so much later, in either direction.
    pub fn delay(&self, by: Duration) {
        *self.shared.delay.lock().unwrap() = by;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().ended = true;
        self.cut();
        // The listener wakes up by it.
        let _ = TcpStream::connect(self.address);
        let _ = self.listener.take().map(thread::JoinHandle::join);
    }
}

impl Shared {
    fn admit(&self, admitted: Admitted) {
        let mut state = self.state.lock().unwrap();
        state.admitted = admitted;
        state.swallowed.clear();
        for (from, streams) in &state.carried {
            if !self.admits(&state, *from) {
                for stream in streams {
                    // It may be closed already.
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }

    fn admits(&self, state: &State, from: SocketAddrV4) -> bool {
        match &state.admitted {
            Admitted::All => true,
            Admitted::Nobody => false,
            Admitted::Processes(processes) => opened_by(processes, from, self.address),
        }
    }

    /// Hands a connection back that is to be carried, and keeps any other.
    fn admitted(&self, state: &mut State, client: TcpStream) -> Option<(SocketAddrV4, TcpStream)> {
        let from = v4(client.peer_addr().ok()?);
        if self.admits(state, from) {
            return Some((from, client));
        }
        // At the end all of them are closed, and no further one is kept.
        if !state.ended {
            state.swallowed.push(client);
        }
        None
    }

    fn serve(&self, client: TcpStream) {
        let admitted = self.admitted(&mut self.state.lock().unwrap(), client);
        let Some((_, client)) = admitted else { return };
        let Ok(server) = TcpStream::connect(self.target) else {
            return;
        };
        let mut state = self.state.lock().unwrap();
        let Some((from, client)) = self.admitted(&mut state, client) else {
            return;
        };
        let streams = [&client, &server].map(|stream| {
            stream.set_nodelay(true).unwrap();
            stream.try_clone().unwrap()
        });
        state.carried.insert(from, streams);
        drop(state);
        thread::scope(|scope| {
            scope.spawn(|| self.carry(&client, &server));
            self.carry(&server, &client);
        });
        self.state.lock().unwrap().carried.remove(&from);
    }

    /// Carries one direction to its end. Reading goes on while something waits for its time, so that
    /// a delay does not make it less per second.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        thread::scope(|scope| {
            scope.spawn(move || {
                for (due, bytes) in receiver {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if to.write_all(&bytes).is_err() {
                        let _ = from.shutdown(Shutdown::Both);
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
            let mut buffer = vec![0; 1 << 16];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                let due = Instant::now() + *self.delay.lock().unwrap();
                if sender.send((due, buffer[..read].to_vec())).is_err() {
                    break;
                }
            }
            drop(sender);
        });
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => unreachable!("{address}: links listen on 127.0.0.0/8"),
    }
}

/// Whether one of the processes has a connection open from one address to another.
fn opened_by(processes: &[u32], from: SocketAddrV4, to: SocketAddrV4) -> bool {
    // As the kernel writes them: the four bytes of the address as one number.
    let [from, to] = [from, to].map(|end| {
        let ip = u32::from_ne_bytes(end.ip().octets());
        format!("{ip:08X}:{:04X}", end.port())
    });
    let connections = fs::read_to_string("/proc/net/tcp").unwrap();
    let socket = connections.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[1..3] == [&from, &to]).then(|| format!("socket:[{}]", fields[9]))
    });
    let Some(socket) = socket else { return false };
    let has = |process: &u32| {
        // There is no such folder where the process has ended.
        let files = fs::read_dir(format!("/proc/{process}/fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|is| is == Path::new(&socket)))
    };
    processes.iter().any(has)
}
