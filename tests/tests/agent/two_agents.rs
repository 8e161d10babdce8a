//! Two agents with one identity. In one data directory the second is refused; from a copy of it both run, and the CA takes
//! only the last two certificates of an agent: whoever falls behind is refused, told so, and has to join anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command, time::Duration};

use mintage_proto::v1::{RenewAgentRequest, ShowAgentRequest};
use mintage_tests::kit::{
    agent::{AgentProcess, WAIT_MAX, config},
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::{admin, registry},
    refusal::{refused, tells},
};
use rustix::process::{Pid, Signal, kill_process};

/// A CA with one entry, and the place of an agent that has joined it.
async fn joined(folder: &Path) -> (CaProcess, AgentProcess) {
    let data = folder.join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    entry(&ca.admin_socket(), "web", "/web").await;
    let place = folder.join("first");
    fs::create_dir(&place).unwrap();
    let file = config(&place, &["web"]);
    let token = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(&place, &file, Some(&token));
    agent.wait_for("the first delivery", || {
        place.join("web/svid.pem").exists().then_some(())
    });
    (ca, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_in_one_data_directory_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, mut agent) = joined(folder.path()).await;
    let place = folder.path().join("first");
    let mut second = Command::new(binary("mintage-agent"));
    second.arg("run").arg("--config").arg(place.join("agent.toml"));
    let told = refused(&mut second);
    tells(
        &told,
        &["agent/lock", "another process holds it", "stop that process first"],
    );

    let read = || fs::read_to_string(place.join("web/svid.pem")).ok();
    let before = read();
    renew(&ca, false).await;
    agent.wait_for("a renewal", || read().filter(|text| Some(text) != before.as_ref()));
    let first = agent.id();
    let lock = fs::read_to_string(place.join("agent/lock")).unwrap();
    assert_eq!(lock.trim(), first.to_string(), "the lock names its holder");
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_for_one_socket_one_serves_and_the_other_says_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let socket = folder.path().join("run/agent.sock");
    let mut files = Vec::new();
    for name in ["first", "second"] {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        let file = config(&place, &[]);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("socket = \"off\"", &format!("socket = {socket:?}"))).unwrap();
        let token = token(&ca.admin_socket(), name).await;
        let mut agent = AgentProcess::start(&place, &file, Some(&token));
        agent.wait_for("the socket", || socket.exists().then_some(()));
        agent.wait_for_log("its identity", |log| log.contains("connected to the CA"));
        // As a kill leaves it: stale.
        agent.kill();
        files.push((place, file));
    }
    for _ in 0..4 {
        let mut both: Vec<_> = files
            .iter()
            .map(|(place, file)| {
                let _ = fs::remove_file(place.join("agent.log"));
                AgentProcess::start(place, file, None)
            })
            .collect();
        let log = |of: usize| fs::read_to_string(files[of].0.join("agent.log")).unwrap_or_default();
        let told = |of: usize| log(of).contains("another agent serves it");
        let serves = |of: usize| log(of).contains("connected to the CA");
        let began = std::time::Instant::now();
        let one = loop {
            if let Some(one) = (0..2).find(|of| serves(*of) && told(1 - of)) {
                break one;
            }
            assert!(began.elapsed() < WAIT_MAX, "{}\n---\n{}", log(0), log(1));
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let other = both.remove(1 - one);
        assert_eq!(other.ended(), Some(1), "{}", log(1 - one));
        let mut serving = both.remove(0);
        serving.runs();
        admin(&socket).await.expect("it goes on to serve");
        serving.kill();
    }
    assert_eq!(ca.stop(), Some(0));
}

async fn renew(ca: &CaProcess, itself: bool) {
    let request = RenewAgentRequest {
        name: "n1".to_owned(),
        agent: itself,
        ..RenewAgentRequest::default()
    };
    let asked = registry(&ca.admin_socket()).await.renew_agent(request).await;
    asked.expect("an agent is connected");
}

/// A copy of a data directory as somebody takes it who can read it.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copied(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The serial of the agent's own certificate, as the CA has it.
async fn own_serial(ca: &CaProcess) -> String {
    let request = ShowAgentRequest { name: "n1".to_owned() };
    let shown = registry(&ca.admin_socket()).await.show_agent(request).await.unwrap();
    shown.into_inner().agent.unwrap().serial
}

/// Starts an agent over a copied data directory, with a folder of its own.
fn second_of(folder: &Path) -> AgentProcess {
    let place = folder.join("second");
    fs::create_dir(&place).unwrap();
    copied(&folder.join("first/agent"), &place.join("agent"));
    let file = config(&place, &["web"]);
    AgentProcess::start(&place, &file, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_of_one_identity_one_falls_behind_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, agent) = joined(folder.path()).await;
    assert_eq!(agent.stop(), Some(0));
    let place = |name: &str| folder.path().join(name);
    // Both begin with the same key and certificate.
    let mut second = second_of(folder.path());
    let mut first = AgentProcess::start(&place("first"), &place("first/agent.toml"), None);
    let times = |name: &str, part: &str| {
        let log = fs::read_to_string(place(name).join("agent.log")).unwrap_or_default();
        log.matches(part).count()
    };
    let connected = "connected to the CA";
    first.wait_for("the stream", || (times("first", connected) == 2).then_some(()));
    second.wait_for("the stream", || (times("second", connected) == 1).then_some(()));

    // The first renews its own certificate while the other cannot: after two of them the one they shared is out.
    let frozen = Pid::from_raw(i32::try_from(second.id()).unwrap()).unwrap();
    kill_process(frozen, Signal::STOP).unwrap();
    for streams in 3..6 {
        let before = own_serial(&ca).await;
        renew(&ca, true).await;
        // With a new certificate comes a new stream. Until the CA has it, it has nobody to ask for the next renewal but
        // the one that is frozen.
        first.wait_for("the next stream", || {
            (times("first", connected) == streams).then_some(())
        });
        assert_ne!(own_serial(&ca).await, before);
    }
    kill_process(frozen, Signal::CONT).unwrap();
    let token_needed = "a new join token is needed";
    second.wait_for("what to do", || (times("second", token_needed) > 0).then_some(()));
    let log = ca.log();
    let told = log
        .lines()
        .filter(|line| line.contains("\"message\":\"agent refused\""));
    assert!(
        told.clone().all(|line| line.contains("was superseded by")) && told.count() > 0,
        "{log}"
    );
    assert_eq!(times("first", token_needed), 0, "the other one goes on");
    let read = || fs::read_to_string(place("first").join("web/svid.pem")).ok();
    let before = read();
    renew(&ca, false).await;
    first.wait_for("a renewal", || read().filter(|text| Some(text) != before.as_ref()));
    assert_eq!(second.stop(), Some(0));
    assert_eq!(first.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}
