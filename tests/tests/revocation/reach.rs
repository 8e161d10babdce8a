//! How far a revocation has come, as the operator is told: by the acknowledgements of real agents, one of which is held up. It
//! is named, and nobody waits for it for ever.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use mintage_proto::v1::{RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::admin,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const AGENTS: usize = 4;
/// Longer than the command waits, shorter than a person's patience.
const BOUND: Duration = Duration::from_secs(60);

fn mintage(socket: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage"));
    command
        .args(words)
        .env("MINTAGE_ADMIN_SOCKET", socket)
        .output()
        .unwrap()
}

fn status(socket: &Path) -> Value {
    let output = mintage(socket, &["revocation", "status", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The last line of what was told on the way, and the two figures in it.
fn last_line(output: &Output) -> (String, [f64; 2]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = told
        .lines()
        .rfind(|line| line.contains("enforced on"))
        .unwrap_or_default();
    let figures = line.split("p50/p99 ").nth(1).and_then(|rest| rest.split(' ').next());
    let figures: Vec<f64> = figures
        .unwrap_or_default()
        .split('/')
        .filter_map(|figure| figure.parse().ok())
        .collect();
    (line.to_owned(), figures.try_into().unwrap_or_else(|_| panic!("{told}")))
}

fn id(agent: &AgentProcess) -> Pid {
    Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap()
}

/// An agent that reads nothing until its queue is full is cut off, and is current again soon after it comes back.
async fn cut_off_and_back(socket: &Path, agent: &mut AgentProcess) {
    kill_process(id(agent), Signal::STOP).unwrap();
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    let began = Instant::now();
    for number in 0_u64.. {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let request = RevokeRequest {
            target: Some(Target::Key(hex::encode(key))),
            ..RevokeRequest::default()
        };
        revocation.revoke(request).await.unwrap();
        if number % 50 == 49 && status(socket)["agents"] == AGENTS - 1 {
            println!("cut off after {} revocations", number + 1);
            break;
        }
        assert!(
            began.elapsed() < 3 * BOUND,
            "{number} revocations, and its queue is not full"
        );
    }
    kill_process(id(agent), Signal::CONT).unwrap();
    agent.wait_for("its coming back", || {
        (status(socket)["agents_current"] == AGENTS).then_some(())
    });
}

/// An agent that is away is told of, and nobody waits for it.
fn is_away(socket: &Path, away: AgentProcess, other: &mut AgentProcess) {
    assert_eq!(away.stop(), Some(0));
    other.wait_for("its leaving", || (status(socket)["agents"] == AGENTS - 1).then_some(()));
    let output = mintage(socket, &["revoke", "--key", &"cd".repeat(32), "--wait", "30s"]);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("enforced on 3 of 3 agents") && told.contains("; 1 not connected"),
        "{told}"
    );
    assert_eq!(status(socket)["not_connected"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_told_how_fast_agents_follow_and_which_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let socket = ca.admin_socket();
    for name in ["web", "db"] {
        entry(&socket, name, &format!("/{name}")).await;
    }
    let mut agents = Vec::new();
    for number in 1..=AGENTS {
        let name = format!("n{number}");
        let place = folder.path().join(&name);
        fs::create_dir(&place).unwrap();
        let token = token(&socket, &name).await;
        agents.push(AgentProcess::start(&place, &config(&place, &["web"]), Some(&token)));
    }
    agents[0].wait_for("every agent", || {
        (status(&socket)["agents_current"] == AGENTS).then_some(())
    });
    let output = mintage(
        &socket,
        &["revoke", "--spiffe-id", "spiffe://dev.test/db", "--wait", "30s"],
    );
    assert!(output.status.success(), "{output:?}");
    let (line, [p50, p99]) = last_line(&output);
    println!("all of them: {line}");
    assert!(
        line.contains("enforced on 4 of 4 agents") && !line.contains("missing"),
        "{line}"
    );
    assert!(p50 > 0.0 && p50 <= p99, "{line}");

    // It stays connected, and reads nothing.
    kill_process(id(&agents[2]), Signal::STOP).unwrap();
    let began = Instant::now();
    let output = mintage(&socket, &["revoke", "--spiffe-id", "spiffe://dev.test/web"]);
    let waited = began.elapsed();
    assert!(output.status.success(), "nobody asked for all: {output:?}");
    let (line, [p50, p99]) = last_line(&output);
    println!("one held up: {line}, after {:.1} s", waited.as_secs_f64());
    assert!(
        line.contains("enforced on 3 of 4 agents") && line.contains("missing: n3"),
        "{line}"
    );
    assert!(p50 > 0.0 && p50 <= p99, "{line}");
    assert!(waited < BOUND, "{waited:?}");
    let output = mintage(&socket, &["revoke", "--key", &"ab".repeat(32), "--wait", "1s"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(status(&socket)["missing"], serde_json::json!(["n3"]));

    kill_process(id(&agents[2]), Signal::CONT).unwrap();
    agents[2].wait_for("its acknowledgement", || {
        (status(&socket)["agents_current"] == AGENTS).then_some(())
    });
    assert_eq!(status(&socket)["missing"], serde_json::json!([]));

    cut_off_and_back(&socket, &mut agents[1]).await;

    is_away(&socket, agents.pop().unwrap(), &mut agents[0]);
    for agent in agents {
        assert_eq!(agent.stop(), Some(0));
    }
    assert_eq!(ca.stop(), Some(0));
}
