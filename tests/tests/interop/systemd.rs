//! The agent as a unit of a real systemd, which it asks to reload another unit: nginx, on the folder that it delivers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mintage_proto::v1::{RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_tests::kit::{
    agent::{config, secret_file},
    bins::binary,
    ca::TestCa,
    client::admin,
    peers::peer,
    proxies::{free_port, nginx_file, serial_of},
    systemd::Systemd,
};

/// Longest wait for what happens by itself; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

fn wait_for<T>(what: &str, agent: &Path, mut done: impl FnMut(&str) -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        let log = fs::read_to_string(agent).unwrap_or_default();
        if let Some(found) = done(&log) {
            return found;
        }
        assert!(started.elapsed() < SOON, "{what} did not come:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn revoke(ca: &TestCa, serial: String) {
    let request = RevokeRequest {
        target: Some(Target::Serial(serial)),
        reason: "superseded".to_owned(),
        ..RevokeRequest::default()
    };
    let channel = admin(ca.ca.admin_socket()).await.unwrap();
    RevocationClient::new(channel).revoke(request).await.unwrap();
}

/// How often hooks have succeeded.
fn successes(log: &str) -> usize {
    log.matches("hooks succeeded").count()
}

/// A unit that is there without all that a machine's systemd would start first.
fn unit(start: String, more: &str) -> String {
    format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={start}\n{more}\n")
}

/// The agent's configuration: `web` into a folder, after which systemd does this with a unit, and `more` of the delivery.
fn configured(place: &Path, job: &str, of: &str, more: &str) -> PathBuf {
    let file = config(place, &["web"]);
    let text = fs::read_to_string(&file).unwrap();
    let hook = format!("{more}[[delivery.hook]]\nsystemd = '{job}'\nunit = {of:?}\n");
    fs::write(&file, text + &hook).unwrap();
    file
}

/// The server must serve it.
fn effect(port: u16) -> String {
    format!("effect = {{ address = '127.0.0.1:{port}', within_s = 20 }}\n")
}

/// systemd with the agent, which runs, and nginx, which does not yet, as units.
struct Scene {
    systemd: Systemd,
    ca: TestCa,
    place: PathBuf,
    port: u16,
    /// The agent's.
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Scene {
    /// With this asked of systemd after a change; none where systemd or nginx is not to be had.
    async fn start(job: &str, with_effect: bool) -> Option<Self> {
        let nginx = peer("nginx")?;
        let (scratch, ca) = (tempfile::tempdir().unwrap(), TestCa::start().await);
        ca.entry("web", "/web").await;
        let (place, port) = (scratch.path().join("n1"), free_port());
        fs::create_dir(&place).unwrap();
        let more = if with_effect { effect(port) } else { String::new() };
        let file = configured(&place, job, "front.service", &more);
        let token = scratch.path().join("token");
        secret_file(&token, &ca.token("n1").await.encode());
        let front = nginx_file("delivered.conf", scratch.path(), &place.join("web"), port);
        let log = scratch.path().join("agent.log");
        let shown = |path: &Path| path.display().to_string();
        let [file_at, token_at] = [shown(&file), shown(&token)];
        let agent = shown(&binary("mintage-agent"));
        let agent = format!("{agent} run --config {file_at} --join-token-file {token_at}");
        let nginx = format!(
            "{} -p {} -c {} -e stderr",
            shown(&nginx),
            shown(scratch.path()),
            shown(&front)
        );
        let units = [
            (
                "agent.service",
                unit(agent, &format!("StandardError=append:{}", shown(&log))),
            ),
            ("front.service", unit(nginx, "ExecReload=/bin/kill -HUP $MAINPID")),
        ];
        let systemd = Systemd::start(scratch.path(), &units)?;
        systemd.must(&["start", "agent.service"]);
        Some(Self {
            systemd,
            ca,
            place,
            port,
            log,
            _scratch: scratch,
        })
    }

    fn serves(&self) -> Option<String> {
        serial_of(self.port, &[])
    }

    /// Waits until hooks have succeeded so often.
    fn succeeds(&self, times: usize) {
        wait_for("a success", &self.log, |log| (successes(log) == times).then_some(()));
    }

    /// What systemd says of a unit.
    fn shown(&self, unit: &str, of: &str) -> String {
        let shown = self.systemd.ctl(&["show", "--value", "-p", of, unit]);
        String::from_utf8_lossy(&shown.stdout).trim().to_owned()
    }

    async fn end(self) {
        drop(self.systemd);
        self.ca.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_reloads_the_unit_that_the_agent_names_and_a_unit_that_is_none_is_told() {
    let Some(scene) = Scene::start("reload", true).await else {
        return;
    };
    let (systemd, log) = (&scene.systemd, &scene.log);
    // A unit that does not run cannot be reloaded: that is told, and what was delivered is there for its start.
    wait_for("a refusal", log, |log| {
        log.contains("systemctl reload front.service: exit status")
            .then_some(())
    });
    systemd.must(&["start", "front.service"]);
    scene.succeeds(1);
    let first = scene.serves().expect("nginx serves");
    revoke(&scene.ca, first.clone()).await;
    let began = Instant::now();
    let second = wait_for("the next certificate", log, |_| {
        scene.serves().filter(|serial| *serial != first)
    });
    println!(
        "nginx, reloaded by systemd, serves the replacement {:.0} ms after the reply to the command",
        began.elapsed().as_secs_f64() * 1e3
    );
    scene.succeeds(2);
    // It is the same process, reloaded and not begun anew.
    assert_eq!(scene.shown("front.service", "NRestarts"), "0");
    assert_eq!(scene.shown("front.service", "ActiveState"), "active");

    // A unit that systemd does not know.
    systemd.must(&["stop", "agent.service"]);
    configured(&scene.place, "reload", "nobody.service", &effect(scene.port));
    systemd.must(&["start", "agent.service"]);
    wait_for("a refusal", log, |log| {
        let told = log
            .lines()
            .find(|line| line.contains("systemctl reload nobody.service"));
        told.filter(|line| line.contains("not found")).map(drop)
    });
    assert_eq!(scene.serves().as_ref(), Some(&second));
    systemd.must(&["stop", "agent.service", "front.service"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_restarts_the_unit_that_the_agent_names_and_leaves_a_stopped_one_stopped() {
    let Some(scene) = Scene::start("restart", false).await else {
        return;
    };
    // One that does not run is left alone, and that is no failure.
    scene.succeeds(1);
    assert_eq!(scene.shown("front.service", "ActiveState"), "inactive");
    scene.systemd.must(&["start", "front.service"]);
    let serves = |what: &str, not: &str| {
        let other = |_: &str| scene.serves().filter(|serial| serial != not);
        wait_for(what, &scene.log, other)
    };
    let first = serves("nginx", "");
    let process = scene.shown("front.service", "MainPID");
    revoke(&scene.ca, first.clone()).await;
    let second = serves("the next certificate", &first);
    scene.succeeds(2);
    let next = scene.shown("front.service", "MainPID");
    assert!(process != "0" && next != "0" && next != process, "{process} {next}");

    scene.systemd.must(&["stop", "front.service"]);
    revoke(&scene.ca, second).await;
    scene.succeeds(3);
    assert_eq!(scene.shown("front.service", "ActiveState"), "inactive");
    scene.systemd.must(&["stop", "agent.service"]);
    scene.end().await;
}
