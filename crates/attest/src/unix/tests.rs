//! Processes that die, change, hide or lie while they are looked at. Each is a real child process on a real socket.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

const ROLE: &str = "MINTAGE_ATTEST_TEST_ROLE";
const SOCKET: &str = "MINTAGE_ATTEST_TEST_SOCKET";
/// What a child in the role `again` changes while it executes its own program once more.
const NOTHING: [u8; 1] = *b"n";
const GROUP: [u8; 1] = *b"g";
const GROUPS: [u8; 1] = *b"s";
const CHILD_TEST: [&str; 2] = ["--exact", "unix::tests::child_process"];

/// Run again as a child process by the tests below; does nothing in its own right.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let connect = || UnixStream::connect(std::env::var_os(SOCKET).unwrap()).unwrap();
    match role.as_str() {
        "wait" => {
            let _ = connect().read(&mut [0]);
        }
        "exec" => {
            let mut stream = connect();
            stream.read_exact(&mut [0]).unwrap();
            panic!("{}", Command::new("sleep").arg("60").exec());
        }
        "drop-user" => {
            let mut stream = connect();
            stream.read_exact(&mut [0]).unwrap();
            // A new program under another user, with the same process number and start time.
            panic!("{}", Command::new("sleep").arg("60").uid(4321).exec());
        }
        "again" => {
            let mut stream = connect();
            let mut told = [0];
            stream.read_exact(&mut told).unwrap();
            let mut next = Command::new(own_exe());
            next.args(CHILD_TEST).env(ROLE, "held").stdin(OwnedFd::from(stream));
            match told {
                GROUP => next.gid(4321),
                // Setting a user as root empties the supplementary groups.
                GROUPS => next.uid(0),
                _ => &mut next,
            };
            panic!("{}", next.exec());
        }
        "held" => {
            let mut stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            stream.write_all(b"x").unwrap();
            let _ = stream.read(&mut [0]);
        }
        "reuse" => eprintln!("told: {}", reused()),
        "observe" => {
            let stdin = std::io::stdin();
            let observed = |policy| {
                let attestor = UnixAttestor::new(policy, UserNamespacePolicy::Refuse);
                match attestor.attest_peer(stdin.as_fd(), Hashing::Now) {
                    Ok(peer) => format!("selectors {:?}", peer.selectors()),
                    Err(error) => format!("refused {error}"),
                }
            };
            eprintln!("default: {}", observed(ExecutablePolicy::Refuse));
            eprintln!("omit: {}", observed(ExecutablePolicy::Omit));
        }
        other => panic!("no role {other}"),
    }
}

/// Gives the number of a peer that died to another process, and attests again over the peer's socket. Numbers can only be
/// chosen in a process namespace of one's own.
fn reused() -> String {
    let mut first = peer("wait");
    let seen = first.attest().unwrap();
    let pid = first.child.id();
    first.end();
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut second = Command::new("sleep").arg("60").spawn().unwrap();
        let found = (second.id() == pid).then(|| {
            let alive = Path::new(&format!("/proc/{pid}/exe")).exists();
            format!("alive {alive}, same {}, {}", seen.still_same(), first.refusal())
        });
        second.kill().unwrap();
        second.wait().unwrap();
        if let Some(found) = found {
            return found;
        }
    }
    panic!("{pid} was never given again");
}

/// A connected child, killed and reaped on drop.
struct Peer {
    stream: UnixStream,
    child: Child,
    _temp: tempfile::TempDir,
}

impl Peer {
    fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    fn attest(&self) -> Result<WorkloadPeer, AttestError> {
        attest_peer(self.stream.as_fd())
    }

    fn refusal(&self) -> String {
        self.attest().unwrap_err().to_string()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn own_exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn peer(role: &str) -> Peer {
    peer_of(Command::new(own_exe()), role)
}

/// Starts the command with the test's arguments after its own, and waits for the connection.
fn peer_of(mut command: Command, role: &str) -> Peer {
    let temp = tempfile::tempdir().unwrap();
    // Children under other users must reach the socket.
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = temp.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    command
        .args(CHILD_TEST)
        .env(ROLE, role)
        .env(SOCKET, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    Peer {
        stream,
        child,
        _temp: temp,
    }
}

/// A copy of this program under another name, so that its file can be changed.
fn copy_of_exe(dir: &Path, name: &str) -> PathBuf {
    let copy = fs::canonicalize(dir).unwrap().join(name);
    fs::copy(own_exe(), &copy).unwrap();
    copy
}

/// A file that was just written cannot be executed while a child that another thread is starting holds a copy of the
/// descriptor (ETXTBSY), so `sh` tries until it can and then becomes the program.
fn command_of(copy: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"until "$0" --list >/dev/null 2>&1; do sleep 0.1; done; exec "$0" "$@""#)
        .arg(copy);
    command
}

fn is_root() -> bool {
    able(rustix::process::geteuid().is_root(), "root")
}

/// Says what a test lacks, so that a green run without it is not mistaken for a proof.
fn able(can: bool, what: &str) -> bool {
    if !can {
        println!("missing privilege: {what}; this test proves nothing here");
    }
    can
}

fn texts(peer: &WorkloadPeer) -> Vec<&str> {
    peer.selectors().iter().map(Selector::as_str).collect()
}

fn sha256_selector(path: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, &fs::read(path).unwrap());
    let hex: String = digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    format!("unix:sha256:{hex}")
}

/// Waits until a change that the child makes on its own shows.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_living_peer_shows_its_ids_path_and_digest() {
    let peer = peer("wait");
    let seen = peer.attest().unwrap();
    assert_eq!(seen.pid(), peer.child.id() as i32);
    assert_eq!(seen.uid(), rustix::process::geteuid().as_raw());
    let exe = fs::canonicalize(own_exe()).unwrap();
    let texts = texts(&seen);
    for wanted in [
        format!("unix:uid:{}", seen.uid()),
        format!("unix:gid:{}", seen.gid()),
        format!("unix:path:{}", exe.display()),
        sha256_selector(&exe),
    ] {
        assert!(texts.contains(&wanted.as_str()), "{wanted} not in {texts:?}");
    }
    for gid in seen.groups() {
        assert!(texts.contains(&format!("unix:supplementary_gid:{gid}").as_str()));
    }
    let group = fs::read_to_string(format!("/proc/{}/cgroup", peer.child.id())).unwrap();
    let unified = group.lines().find_map(|line| line.strip_prefix("0::"));
    let wanted = unified.map(|path| format!("cgroup:path:{path}"));
    assert!(
        wanted.is_none_or(|wanted| texts.contains(&wanted.as_str())),
        "{texts:?}"
    );
    assert!(["peer_pidfd", "pidfd_open"].contains(&seen.method()));
    assert!(seen.still_same());
    let local = seen.executable().is_some_and(Executable::is_local);
    assert_eq!(seen.still_same_at_once(), local.then_some(true));
}

#[test]
fn both_ends_of_a_pair_in_one_process_are_this_process() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let seen = attest_peer(ours.as_fd()).unwrap();
    assert_eq!(seen.pid(), std::process::id() as i32);
}

#[test]
fn peer_that_died_before_or_after_it_was_attested_gets_nothing() {
    let mut peer = peer("wait");
    let seen = peer.attest().unwrap();
    peer.end();
    // The socket still works and still shows the number, which may belong to another process by now.
    assert!(!seen.still_same());
    assert!(peer.refusal().contains("has ended"));
    assert!(!seen.pidfd().is_alive());
}

#[test]
fn a_peer_that_ended_but_was_not_reaped_gets_nothing() {
    let mut peer = peer("wait");
    let seen = peer.attest().unwrap();
    peer.child.kill().unwrap();
    assert!(eventually(|| !seen.pidfd().is_alive()));
    assert!(!seen.still_same());
    assert!(peer.attest().is_err());
    peer.end();
}

#[test]
fn a_peers_number_given_to_another_process_gets_nothing() {
    let namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let status = Command::new("unshare").args(namespace).arg("true").status();
    if !able(status.is_ok_and(|status| status.success()), "a namespace of its own") {
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(namespace)
        .arg(own_exe())
        .args(CHILD_TEST)
        .arg("--nocapture");
    let output = command.env(ROLE, "reuse").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("told: alive true, same false, "), "{text}");
    assert!(text.contains("has ended"), "{text}");
}

#[test]
fn exec_hand_off_after_connecting_is_noticed_though_number_and_start_time_stay() {
    let mut peer = peer("exec");
    let seen = peer.attest().unwrap();
    assert!(seen.still_same());
    peer.stream.write_all(b"x").unwrap();
    assert!(eventually(|| !seen.still_same()));
    assert_eq!(seen.still_same_at_once(), None, "what it executes now may lie anywhere");
    assert!(seen.pidfd().is_alive(), "the process lives on as another program");
}

#[test]
fn a_process_that_changed_its_user_since_it_connected_gets_nothing() {
    if !is_root() {
        return;
    }
    let mut peer = peer("drop-user");
    let seen = peer.attest().unwrap();
    peer.stream.write_all(b"x").unwrap();
    assert!(eventually(|| !seen.still_same()));
    assert!(eventually(|| peer.refusal().contains("runs as user 4321 now")));
}

#[test]
fn a_process_that_left_a_group_since_it_connected_gets_nothing() {
    if !is_root() {
        return;
    }
    let grouped = || {
        let mut command = Command::new("setpriv");
        command.args(["--groups", "7,9"]).arg(own_exe());
        command
    };
    // The same program, process number and start time each time: only the ids tell.
    for (changed, told) in [
        (NOTHING, None),
        (GROUP, Some("runs as group 4321 now")),
        (GROUPS, Some("other supplementary groups")),
    ] {
        let mut peer = peer_of(grouped(), "again");
        let seen = peer.attest().unwrap();
        assert_eq!(seen.groups(), [7, 9]);
        assert!(seen.still_same());
        peer.stream.write_all(&changed).unwrap();
        peer.stream.read_exact(&mut [0]).unwrap();
        assert_eq!(seen.still_same(), told.is_none(), "{told:?}");
        match told {
            Some(told) => assert!(peer.refusal().contains(told), "{}", peer.refusal()),
            None => assert_eq!(peer.attest().unwrap().selectors(), seen.selectors()),
        }
    }
}

#[test]
fn deleted_executable_gets_nothing_by_default_and_no_hints_otherwise() {
    let temp = tempfile::tempdir().unwrap();
    let copy = copy_of_exe(temp.path(), "workload");
    let peer = peer_of(command_of(&copy), "wait");
    let seen = peer.attest().unwrap();
    assert!(texts(&seen).contains(&format!("unix:path:{}", copy.display()).as_str()));
    fs::remove_file(&copy).unwrap();
    assert!(!seen.still_same());
    assert!(peer.refusal().contains("deleted or replaced"));
    // Not even a file put in its place under the same name, or under the name the kernel shows, changes that.
    fs::write(&copy, "another").unwrap();
    fs::write(copy.with_file_name("workload (deleted)"), "another").unwrap();
    assert!(peer.refusal().contains("deleted or replaced"));
    let attestor = UnixAttestor::new(ExecutablePolicy::Omit, UserNamespacePolicy::Refuse);
    let seen = attestor.attest_peer(peer.stream.as_fd(), Hashing::Now).unwrap();
    assert!(
        texts(&seen)
            .iter()
            .all(|text| !text.starts_with("unix:path") && !text.starts_with("unix:sha256"))
    );
    assert!(texts(&seen).contains(&format!("unix:uid:{}", seen.uid()).as_str()));
    assert!(seen.executable().is_none() && seen.still_same());
}

#[test]
fn executable_whose_name_was_removed_but_which_has_another_link_has_a_digest_and_no_path() {
    let temp = tempfile::tempdir().unwrap();
    let copy = copy_of_exe(temp.path(), "workload");
    let peer = peer_of(command_of(&copy), "wait");
    fs::hard_link(&copy, copy.with_file_name("elsewhere")).unwrap();
    fs::remove_file(&copy).unwrap();
    let seen = peer.attest().unwrap();
    let texts = texts(&seen);
    assert!(texts.iter().any(|text| text.starts_with("unix:sha256:")));
    assert!(!texts.iter().any(|text| text.starts_with("unix:path:")), "{texts:?}");
}

#[test]
fn sparse_four_gigabyte_executable_is_refused_quickly() {
    let temp = tempfile::tempdir().unwrap();
    let copy = copy_of_exe(temp.path(), "huge");
    let file = fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.set_len(4 << 30).unwrap();
    drop(file);
    let peer = peer_of(command_of(&copy), "wait");
    let began = Instant::now();
    assert!(peer.refusal().contains("4294967296 bytes"));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_name_that_imitates_the_fields_of_stat_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // The kernel keeps 15 bytes of the file's name as the process's.
    for name in ["a) R 1 1 1 1 1 ", ") Z 0 (", "x\nUid: 0 0 0 0"] {
        let copy = copy_of_exe(temp.path(), name);
        let peer = peer_of(command_of(&copy), "wait");
        let comm = fs::read_to_string(format!("/proc/{}/comm", peer.child.id())).unwrap();
        assert!(
            name.starts_with(comm.trim_end_matches('\n')) && comm.len() > 5,
            "{comm:?}"
        );
        let seen = peer.attest().unwrap();
        assert!(seen.still_same());
        let path_shown = texts(&seen).iter().any(|text| text.starts_with("unix:path:"));
        assert_eq!(path_shown, !name.contains('\n'), "control characters make no selector");
    }
}

#[test]
fn unreadable_proc_means_nothing_by_default_and_ids_alone_where_that_is_accepted() {
    if !is_root() {
        return;
    }
    // An agent without privilege looks at a process of root.
    let peer = peer("wait");
    let observer = Command::new(own_exe())
        .args(CHILD_TEST)
        .arg("--nocapture")
        .env(ROLE, "observe")
        .stdin(OwnedFd::from(peer.stream.try_clone().unwrap()))
        .uid(4321)
        .gid(4321)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&observer.stderr).into_owned();
    assert!(
        text.contains("default: refused workload is not attested: cannot read its executable"),
        "{text}"
    );
    assert!(
        text.contains("omit: selectors") && text.contains("unix:uid:0") && !text.contains("sha256"),
        "{text}"
    );
}

#[test]
fn a_peer_in_its_own_user_namespace_gets_nothing_unless_that_is_accepted() {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(own_exe());
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .status();
    if !able(status.is_ok_and(|status| status.success()), "a namespace of its own") {
        return;
    }
    let peer = peer_of(command, "wait");
    assert!(peer.refusal().contains("user namespace of its own"));
    let attestor = UnixAttestor::new(ExecutablePolicy::Refuse, UserNamespacePolicy::Accept);
    let seen = attestor.attest_peer(peer.stream.as_fd(), Hashing::Now).unwrap();
    // Root in there is who he always was out here.
    assert_eq!(seen.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn a_path_shown_from_another_mount_namespace_is_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    let honest = copy_of_exe(temp.path(), "honest");
    let impostor = copy_of_exe(temp.path(), "impostor");
    let status = Command::new("unshare").args(["--mount", "true"]).status();
    if !able(status.is_ok_and(|status| status.success()), "a namespace of its own") {
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-c",
            r#"mount --bind "$1" "$0" && exec "$0" "$2" "$3""#,
        ])
        .args([&honest, &impostor]);
    let peer = peer_of(command, "wait");
    let shown = fs::read_link(format!("/proc/{}/exe", peer.child.id())).unwrap();
    assert_eq!(shown, honest, "the kernel shows what the process sees");
    let seen = peer.attest().unwrap();
    assert_eq!(seen.executable().unwrap().path(), None);
    assert!(!texts(&seen).iter().any(|text| text.starts_with("unix:path:")));
}

#[test]
fn a_digest_is_remembered_until_the_file_changes() {
    let temp = tempfile::tempdir().unwrap();
    let copy = copy_of_exe(temp.path(), "workload");
    let attestor = UnixAttestor::default();
    let digest = |peer: &Peer| {
        let seen = attestor.attest_peer(peer.stream.as_fd(), Hashing::Now).unwrap();
        *seen.executable().unwrap().sha256()
    };
    let before = {
        let peer = peer_of(command_of(&copy), "wait");
        let first = digest(&peer);
        assert_eq!(digest(&peer), first);
        first
    };
    let mut file = fs::OpenOptions::new().append(true).open(&copy).unwrap();
    file.write_all(b"changed").unwrap();
    drop(file);
    let peer = peer_of(command_of(&copy), "wait");
    let after = digest(&peer);
    assert_ne!(before, after);
    assert!(sha256_selector(&copy).ends_with(&after.iter().map(|o| format!("{o:02x}")).collect::<String>()));
}

#[test]
fn peers_are_attested_from_many_threads_at_once() {
    let attestor = UnixAttestor::default();
    let peers: Vec<_> = (0..4).map(|_| peer("wait")).collect();
    std::thread::scope(|scope| {
        for peer in &peers {
            for _ in 0..4 {
                scope.spawn(|| attestor.attest_peer(peer.stream.as_fd(), Hashing::Now).unwrap());
            }
        }
    });
}

#[test]
fn what_is_no_connected_unix_socket_is_refused() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    assert!(attest_peer(stream.as_fd()).is_err());
    assert!(attest_peer(tempfile::tempfile().unwrap().as_fd()).is_err());
}

#[test]
fn the_owner_of_a_folder_proves_user_and_group_alone() {
    let selectors: Vec<String> = file_owner_selectors(1000, 100)
        .iter()
        .map(Selector::to_string)
        .collect();
    assert_eq!(selectors, ["unix:gid:100", "unix:uid:1000"]);
}

#[test]
fn a_process_in_more_groups_than_the_limit_is_refused_and_not_half_described() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let credentials = mintage_sys::peer::peer_credentials(ours.as_fd()).unwrap();
    let groups = vec![1; GROUPS_MAX + 1];
    let error = UnixAttestor::default().attest(credentials, groups, peer_pidfd(ours.as_fd()), Hashing::Later);
    assert!(error.unwrap_err().to_string().contains("1025 groups"));
}

#[test]
fn what_is_not_remembered_is_hashed_only_when_that_is_allowed() {
    let attestor = UnixAttestor::new(ExecutablePolicy::Omit, UserNamespacePolicy::Refuse);
    let peer = peer("wait");
    let attest = |hashing| attestor.attest_peer(peer.stream.as_fd(), hashing);
    assert!(
        matches!(attest(Hashing::Later), Err(AttestError::HashNeeded)),
        "nor is it left out, as what cannot be hashed would be"
    );
    let hashed = attest(Hashing::Now).unwrap();
    assert_eq!(attest(Hashing::Later).unwrap().executable(), hashed.executable());
}
