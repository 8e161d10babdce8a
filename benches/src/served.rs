//! Servers that nobody here wrote, whose certificates change under a steady load of handshakes.

use std::{fs, path::Path};

use mintage_svid::pem::decode_certificates;
use mintage_tests::kit::{
    ca,
    envoy::{Envoy, Peers, Side},
    handshakes::Load,
    proxies::{Proxy, free_port},
};

use crate::{
    host::Host,
    load::Failure,
    node::{agent, renew, stopped},
};

/// What became of handshakes.
#[derive(Debug)]
pub struct Served {
    /// How many were made.
    pub made: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many were made in a second.
    pub per_second: f64,
}

impl Served {
    fn of(load: &Load) -> Self {
        let (made, failed) = load.counts();
        if let Some(failure) = load.first_failure() {
            eprintln!("bench: the first handshake that failed: {failure}");
        }
        Self {
            made,
            failed,
            per_second: load.per_second(),
        }
    }
}

/// nginx with a delivered certificate, told by SIGHUP, under a steady load of handshakes while its certificate changes.
///
/// # Errors
/// When the agent or the load does not begin or end.
pub async fn nginx(host: &Host, dir: &Path, rotations: u32) -> Result<Option<Served>, Failure> {
    let front = dir.join("nginx");
    fs::create_dir(&front)?;
    ca::entry(&host.admin_socket(), "front", "/front").await;
    let uid = rustix::process::geteuid().as_raw();
    let (folder, pid_file) = (front.join("front"), front.join("nginx.pid"));
    let more = format!(
        "[[delivery]]\nentry = 'front'\ndirectory = {folder:?}\nowner = {uid}\ngroup = {uid}\n\
         [[delivery.hook]]\nsignal = 'HUP'\npid_file = {pid_file:?}\n"
    );
    let (mut agent, _) = agent(host, dir, "server", &more).await?;
    let bundle = folder.join("svid_bundle.pem");
    agent.wait_for("the delivery", || bundle.exists().then_some(()));
    let port = free_port();
    let Some(nginx) = Proxy::nginx_from(&front, &folder, port) else {
        stopped(agent)?;
        return Ok(None);
    };
    let load = Load::begin(port, decode_certificates(&fs::read_to_string(bundle)?)?);
    let mut served = load.other_than("").await;
    for _ in 0..rotations {
        renew(host, "server", vec!["front".to_owned()]).await?;
        served = load.other_than(&served).await;
    }
    let served = Served::of(&load);
    drop((load, nginx));
    stopped(agent)?;
    Ok(Some(served))
}

/// Two Envoys with mutual TLS by certificates of SDS, the handshakes of one with the other under load while both certificates
/// change; none where the tests have not installed Envoy beside these programs.
///
/// # Errors
/// When the agent does not begin or end.
pub async fn envoys(host: &Host, dir: &Path, rotations: u32) -> Result<Option<Served>, Failure> {
    const NAMES: [&str; 2] = ["envoy-client", "envoy-server"];
    let Some(program) = Envoy::installed() else {
        return Ok(None);
    };
    for name in NAMES {
        ca::entry(&host.admin_socket(), name, &format!("/{name}")).await;
    }
    let (agent, socket) = agent(host, dir, "envoys", "").await?;
    let front = dir.join("envoy");
    fs::create_dir(&front)?;
    let [client, server] = NAMES.map(|name| format!("spiffe://{}/{name}", ca::domain()));
    let side = |own, peer| Side {
        agent: &socket,
        api: "GRPC",
        own,
        peer,
        peers: Peers::Sds("plain"),
    };
    let served_by = Envoy::server(&program, &front, &side(&server, &client));
    let mut calling = Envoy::client(&program, &front, &side(&client, &server));
    calling.wait_for("a call", |envoy| {
        envoy.get().ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let load = Load::through(&calling, &client);
    let mut shown = load.other_than("").await;
    for _ in 0..rotations {
        renew(host, "envoys", NAMES.map(str::to_owned).to_vec()).await?;
        shown = load.other_than(&shown).await;
    }
    let served = Served::of(&load);
    drop((load, calling, served_by));
    stopped(agent)?;
    Ok(Some(served))
}
