//! The agent killed and started again while the CA is away: callers of the socket are served as before, and the CA corrects it
//! when it is back. All are the real programs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use mintage_proto::v1::{BanAgentRequest, DeleteEntryRequest};
use mintage_tests::kit::{
    agent::{AgentProcess, WAIT_MAX, config},
    bins::binary,
    ca::{CaProcess, entry, make, token},
    client::registry,
};

/// A place for both, and the port of the CA, which stays.
struct Scene {
    folder: tempfile::TempDir,
    port: u16,
}

impl Scene {
    /// Both, and the serial that a caller was given.
    async fn new() -> (Self, CaProcess, AgentProcess, String) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("ca");
        make(&data);
        let ca = CaProcess::start(&data, 0);
        let port = ca.address.rsplit(':').next().unwrap().parse().unwrap();
        entry(&ca.admin_socket(), "web", "/web").await;
        let file = config(folder.path(), &[]);
        let scene = Self { folder, port };
        let text = fs::read_to_string(&file).unwrap();
        let socket = format!("socket = {:?}", scene.socket());
        fs::write(&file, text.replace("socket = \"off\"", &socket)).unwrap();
        let token = token(&ca.admin_socket(), "n1").await;
        let mut agent = AgentProcess::start(scene.folder.path(), &file, Some(&token));
        agent.wait_for_log("the entries", |log| log.contains("entries applied"));
        let serial = scene.fetched(&mut agent, "a first answer");
        let kept = scene.kept();
        agent.wait_for("what is kept", || kept.exists().then_some(()));
        (scene, ca, agent, serial)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/agent.sock")
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("agent/workloads/web.pem")
    }

    fn agent(&self) -> AgentProcess {
        AgentProcess::start(self.folder.path(), &self.folder.path().join("agent.toml"), None)
    }

    fn ca(&self) -> CaProcess {
        CaProcess::start(&self.folder.path().join("ca"), self.port)
    }

    /// Waits until `mintage svid fetch` is given something; its serial.
    fn fetched(&self, agent: &mut AgentProcess, what: &str) -> String {
        agent.wait_for(what, || fetch(&self.socket()).ok())
    }

    /// Waits until it is told this.
    fn refused(&self, agent: &mut AgentProcess, words: &str) {
        agent.wait_for(words, || {
            fetch(&self.socket()).err().filter(|told| told.contains(words))
        });
    }
}

fn fetch(socket: &Path) -> Result<String, String> {
    let mut command = Command::new(binary("mintage"));
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));
    let output = command.args(["svid", "fetch", "-o", "json"]).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Ok(answer["svids"][0]["serial"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_while_the_ca_is_away_gives_callers_the_same_certificate_until_the_ca_says_otherwise() {
    let (scene, ca, agent, serial) = Scene::new().await;
    ca.kill();
    agent.kill();
    let mut agent = scene.agent();
    assert_eq!(scene.fetched(&mut agent, "an answer without the CA"), serial);
    // Killed again and again: what lies there is whole each time.
    for _ in 0..3 {
        agent.kill();
        agent = scene.agent();
        assert_eq!(scene.fetched(&mut agent, "an answer after another death"), serial);
    }
    agent.kill();

    // Deleted while the agent was down: it is taken back as soon as the agent hears of it, and leaves no key behind.
    let ca = scene.ca();
    let request = DeleteEntryRequest {
        name: "web".to_owned(),
        dry_run: false,
    };
    let mut entries = registry(&ca.admin_socket()).await;
    entries.delete_entry(request).await.unwrap();
    let mut agent = scene.agent();
    scene.refused(&mut agent, "no identity is issued to this process");
    let kept = scene.kept();
    agent.wait_for("the end of the key", || (!kept.exists()).then_some(()));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_and_a_ban_take_nothing_but_what_they_are_about() {
    let (scene, ca, agent, serial) = Scene::new().await;
    ca.kill();
    agent.kill();
    let whole = fs::read(scene.kept()).unwrap();
    fs::write(scene.kept(), &whole[..whole.len() / 3]).unwrap();
    let mut agent = scene.agent();
    agent.wait_for_log("what was set aside", |log| log.contains("set aside as web.damaged"));
    let ca = scene.ca();
    let other = scene.fetched(&mut agent, "an answer with the CA");
    assert_ne!(other, serial);
    let kept = scene.kept();
    agent.wait_for("what is kept", || kept.exists().then_some(()));
    agent.kill();
    let request = BanAgentRequest {
        name: "n1".to_owned(),
        ..BanAgentRequest::default()
    };
    registry(&ca.admin_socket()).await.ban_agent(request).await.unwrap();
    // Whatever it serves for a moment, the CA's word ends it; and then the agent is of no use.
    let agent = scene.agent();
    assert_eq!(agent.ended(), Some(2), "a new join token is needed");
    let started = Instant::now();
    while kept.exists() {
        assert!(started.elapsed() < WAIT_MAX, "a key of a banned agent stays");
    }
    assert_eq!(ca.stop(), Some(0));
}
