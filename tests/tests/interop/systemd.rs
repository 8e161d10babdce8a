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

/// The agent's configuration: `web` into a folder, after which systemd reloads this unit, and the server must serve it.
fn configured(place: &Path, port: u16, reloads: &str) -> PathBuf {
    let file = config(place, &["web"]);
    let text = fs::read_to_string(&file).unwrap();
    let effect = format!("effect = {{ address = '127.0.0.1:{port}', within_s = 20 }}\n");
    let hook = format!("[[delivery.hook]]\nsystemd = 'reload'\nunit = {reloads:?}\n");
    fs::write(&file, text + &effect + &hook).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_reloads_the_unit_that_the_agent_names_and_a_unit_that_is_none_is_told() {
    let Some(nginx) = peer("nginx") else { return };
    let (scratch, ca) = (tempfile::tempdir().unwrap(), TestCa::start().await);
    ca.entry("web", "/web").await;
    let (place, port) = (scratch.path().join("n1"), free_port());
    fs::create_dir(&place).unwrap();
    let file = configured(&place, port, "front.service");
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
    let Some(systemd) = Systemd::start(scratch.path(), &units) else {
        return;
    };
    systemd.must(&["start", "agent.service"]);
    // A unit that does not run cannot be reloaded: that is told, and what was delivered is there for its start.
    wait_for("a refusal", &log, |log| {
        log.contains("systemctl reload front.service: exit status")
            .then_some(())
    });
    systemd.must(&["start", "front.service"]);
    wait_for("a success", &log, |log| (successes(log) == 1).then_some(()));
    let serves = || serial_of(port, &[]);
    let first = serves().expect("nginx serves");
    revoke(&ca, first.clone()).await;
    let began = Instant::now();
    let second = wait_for("the next certificate", &log, |_| {
        serves().filter(|serial| *serial != first)
    });
    println!(
        "nginx, reloaded by systemd, serves the replacement {:.0} ms after the reply to the command",
        began.elapsed().as_secs_f64() * 1e3
    );
    wait_for("a second success", &log, |log| (successes(log) == 2).then_some(()));
    // It is the same process, reloaded and not begun anew.
    let shown = systemd.ctl(&["show", "-p", "NRestarts", "-p", "ActiveState", "front.service"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("NRestarts=0") && shown.contains("ActiveState=active"),
        "{shown}"
    );

    // A unit that systemd does not know.
    systemd.must(&["stop", "agent.service"]);
    configured(&place, port, "nobody.service");
    systemd.must(&["start", "agent.service"]);
    wait_for("a refusal", &log, |log| {
        let told = log
            .lines()
            .find(|line| line.contains("systemctl reload nobody.service"));
        told.filter(|line| line.contains("not found")).map(drop)
    });
    assert_eq!(serves().as_ref(), Some(&second));
    systemd.must(&["stop", "agent.service", "front.service"]);
    drop(systemd);
    ca.stop().await;
}
