//! `mintage-ca` as whoever runs it meets it: arguments and exit codes, what is printed where, configurations that are
//! refused, the log under hostile names, and what the CA says of its own keys.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use mintage_ca::{Ca, Deps};
use mintage_identity::{ReplicaName, Serial, SpiffeId, UnixTime};
use mintage_ledger::{
    Actor, Body, FileJournal, Journal, OpenOptions, Record,
    wire::{CaEvent, CaEventKind, CaRole},
};
use mintage_mint::{CaDates, CaKey, make_root};
use mintage_proto::v1::{AgentMessage, CaStatusRequest, Hello, agent_message::Message, node_client::NodeClient};
use mintage_svid::{CertInfo, cert_sha256};
use mintage_tests::kit::{
    bins::binary,
    ca::{self, CaProcess, TestCa, domain},
    client::{self, join, random},
    refusal::{refused, tells},
};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage-ca"));
    // As on the machine of whoever runs it: nothing around it decides for him.
    command.env_remove("MINTAGE_FORMAT").env_remove("CREDENTIALS_DIRECTORY");
    command.args(arguments).output().expect("mintage-ca runs")
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).expect("UTF-8")
}

/// What a successful run printed, as one JSON object.
fn object(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

#[test]
fn wrong_usage_is_1_and_answers_are_0() {
    for wrong in [
        &[][..],
        &["unknown"],
        &["serve"],
        &["serve", "--data-dir", "/x", "--config", "/y"],
        &["serve", "--data-dir", "/x", "--metrics", "0.0.0.0:1"],
        &["init", "--trust-domain", "UPPER", "--data-dir", "/x"],
        &["version", "-o", "yaml"],
        &["completions", "tcsh"],
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
    for answer in [&["--help"][..], &["--version"], &["init", "--help"]] {
        let output = run(answer);
        assert_eq!(output.status.code(), Some(0), "{answer:?}: {output:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{answer:?}");
    }
}

#[test]
fn version_and_completions_are_printed() {
    let version = object(&["version", "-o", "json"]);
    assert_eq!(version["schema_version"], 1);
    let shown = version["version"].as_str().unwrap();
    assert_eq!(text(&run(&["version"]).stdout), format!("mintage-ca {shown}\n"));
    let line = run(&["version", "-o", "jsonl"]).stdout;
    assert_eq!(text(&line).lines().count(), 1);
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).stdout;
        assert!(text(&script).contains("passphrase-file"), "{shell}");
    }
}

#[test]
fn init_says_what_it_makes_and_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    // A path that a shell would take apart.
    let (dir, pass) = (folder.path().join("my ca"), folder.path().join("it's a pass"));
    fs::write(&pass, "correct horse\n").unwrap();
    fs::set_permissions(&pass, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (dir, pass) = (dir.to_str().unwrap(), pass.to_str().unwrap());
    let init = ["init", "--trust-domain", "example.org", "--data-dir", dir, "-o", "json"];
    let secret = ["--passphrase-file", pass];
    let rehearsal = object(&[&init[..], &secret, &["--dry-run"]].concat());
    assert_eq!(
        (&rehearsal["schema_version"], &rehearsal["dry_run"]),
        (&1.into(), &true.into())
    );
    assert_eq!(rehearsal["data_dir"], dir);
    assert_eq!(rehearsal.get("root_sha256"), None, "nobody knows it yet");
    assert!(!Path::new(dir).exists(), "a rehearsal makes nothing");
    // Without a passphrase the rehearsal refuses what init would refuse.
    let unprotected = run(&[&init[..], &["--dry-run"]].concat());
    assert_eq!(unprotected.status.code(), Some(1));

    let output = run(&[&init[..], &secret].concat());
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&made["schema_version"], &made["dry_run"]), (&1.into(), &false.into()));
    for field in ["root_sha256", "ledger_origin", "ledger_vkey", "keys"] {
        assert!(
            made[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {made}"
        );
    }
    let again = run(&[&init[..], &secret, &["--dry-run"]].concat());
    tells(text(&again.stderr), &["not empty"]);
    assert_eq!(again.status.code(), Some(1));

    // The command is run as it stands, by a shell; only the address is not everybody's, and `validate` ends by itself.
    let next = text(&output.stderr).lines().last().unwrap();
    let next = next.strip_prefix("next: mintage-ca serve ").expect("a command");
    let shell = format!("exec \"$0\" validate -o jsonl {next}");
    let validated = Command::new("sh")
        .arg("-c")
        .arg(shell)
        .arg(binary("mintage-ca"))
        .output()
        .unwrap();
    assert_eq!(validated.status.code(), Some(0), "{next}: {validated:?}");
    let valid: Value = serde_json::from_slice(&validated.stdout).unwrap();
    assert_eq!((&valid["schema_version"], &valid["valid"]), (&1.into(), &true.into()));
    assert_eq!(valid["data_dir"], dir);
}

#[test]
fn init_for_people_keeps_data_and_notices_apart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca").display().to_string();
    let init = ["init", "--trust-domain", "dev.test", "--data-dir", &dir];
    let rehearsal = run(&[&init[..], &["--dry-run"]].concat());
    tells(text(&rehearsal.stdout), &["would make", "dev.test", &dir, "in clear"]);
    tells(text(&rehearsal.stderr), &["nothing was made"]);
    let made = run(&init);
    tells(text(&made.stdout), &["sha256:", "ledger vkey"]);
    assert!(!text(&made.stdout).contains("next:"));
    assert_eq!(
        text(&made.stderr).lines().last(),
        Some(&*format!("next: mintage-ca serve --data-dir {dir}"))
    );
    let valid = run(&["validate", "--data-dir", &dir]);
    assert_eq!(text(&valid.stdout), format!("ok: {dir}\n"));
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let file = folder.path().join("ca.toml");
    let start = format!("data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n", dir.display().to_string());
    let refusals = |parts: &[&str]| {
        for verb in ["validate", "serve"] {
            let mut command = Command::new(binary("mintage-ca"));
            tells(&refused(command.arg(verb).arg("--config").arg(&file)), parts);
        }
    };
    for (more, parts) in [
        ("lissten = \"127.0.0.1:1\"\n", &["ca.toml:3", "lissten", "`listen`"][..]),
        ("metrics = 9100\n", &["ca.toml:3", "string"]),
        ("listen = \"127.0.0.1:1\"\n", &["ca.toml:3", "duplicate"]),
        ("[ca]\nmax_ttl = \"0s\"\n", &["ca.toml:4", "range"]),
        (
            "[ca]\nmax_ttl = \"99999999999999999999h\"\n",
            &["ca.toml:4", "99999999999999999999h"],
        ),
        ("[ca]\nagent_ttl = \"999999h\"\n", &["ca.toml:4", "range"]),
        ("[ledger]\ncheckpoint_interval = \"0s\"\n", &["ca.toml:4", "100ms"]),
    ] {
        fs::write(&file, format!("{start}{more}")).unwrap();
        refusals(parts);
    }
    fs::write(&file, b"# \xff\n").unwrap();
    refusals(&["ca.toml", "UTF-8"]);
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    refusals(&["ca.toml", "longer than"]);
    fs::remove_file(&file).unwrap();
    // Nobody ever writes into it: a program that waited would be found by the deadline of a refusal.
    mkfifoat(CWD, &file, Mode::from_raw_mode(0o600)).unwrap();
    refusals(&["ca.toml", "no regular file", "write the configuration to a file"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refusals(&["ca.toml", "no regular file"]);
    fs::remove_dir(&file).unwrap();
    refusals(&["ca.toml", "cannot be read"]);
    fs::write(folder.path().join("real.toml"), &start).unwrap();
    std::os::unix::fs::symlink("real.toml", &file).unwrap();
    let file = file.to_str().unwrap();
    let valid = object(&["validate", "-o", "json", "--config", file]);
    assert_eq!(valid["valid"], true, "a link to a good one is followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hostile_reaches_the_log_or_the_terminal_raw() {
    const HOSTILE: &str = "x\n\u{1b}[31m\u{202e}\u{9b}y";
    let raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join(HOSTILE);
    let nowhere = run(&["validate", "--data-dir", dir.to_str().unwrap()]);
    let told = text(&nowhere.stderr);
    assert!(told.lines().count() == 1 && !told.chars().any(raw), "{told:?}");

    ca::make(&dir);
    let running = CaProcess::start(&dir, 0);
    let agent = join(&ca::token(&running.admin_socket(), "n1").await).await.unwrap();
    let hello = AgentMessage {
        message: Some(Message::Hello(Hello {
            agent_version: HOSTILE.to_owned(),
            ..Hello::default()
        })),
    };
    let (channel, _) = agent.channel(&running.address).await.unwrap();
    let stream = NodeClient::new(channel).sync(tokio_stream::iter([hello])).await;
    // The first push comes after the line about the connection.
    assert!(stream.unwrap().into_inner().message().await.unwrap().is_some());
    assert_eq!(running.stop(), Some(0));

    let log = fs::read_to_string(dir.with_extension("log")).unwrap();
    let events = log.lines().map(|line| {
        assert!(!line.chars().any(raw), "{line:?}");
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    });
    let events: Vec<Value> = events.collect();
    let of = |message: &str| {
        events
            .iter()
            .find(|event| event["message"] == message)
            .expect("the event")
    };
    // What an agent says of itself is stripped when it comes in; of what the log was given, nothing is lost.
    assert_eq!(of("agent connected")["version"], "x[31my");
    let path = of("the state is built from the whole ledger")["dir"].as_str().unwrap();
    assert!(path.contains(HOSTILE), "{path:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_metrics_tell_of_the_cas_own_certificate_from_the_start() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    let metrics = ca.metrics().await;
    let mut registry = client::registry(ca.ca.admin_socket()).await;
    let status = registry.ca_status(CaStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.live_certificates, 1, "its own");
    assert!(metrics.lines().any(|line| line == "mintage_svids_live 1"), "{metrics}");
    let own: Vec<_> = status.keys.iter().filter(|key| key.role == "replica").collect();
    let [own] = own[..] else { panic!("{:?}", status.keys) };
    assert_eq!(
        (&*own.status, &*own.subject),
        ("active", "spiffe://dev.test/mintage/ca/ca-1")
    );
    assert!(own.not_before_ms < own.not_after_ms);
    let expiry = format!(
        "mintage_ca_expiry_timestamp_seconds{{ca=\"replica\"}} {}",
        own.not_after_ms / 1000
    );
    assert!(metrics.contains(&expiry), "{expiry} in\n{metrics}");
    // The serial is the one that callers are shown.
    let shown = shown_serial(&ca).await;
    assert_eq!(own.serial, shown);
    ca.stop().await;
}

/// The serial of the certificate that the CA serves with.
async fn shown_serial(ca: &TestCa) -> String {
    let token = ca.token("probe").await;
    let pins = token.root_hashes().iter().copied();
    let provider = client::provider();
    let verifier = mintage_verifier::JoinVerifier::new(domain(), pins, &provider).unwrap();
    let config = mintage_verifier::join_config(verifier, &client::settings()).unwrap();
    let stream = tokio::net::TcpStream::connect(ca.ca.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("mintage.invalid").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let leaf = &stream.get_ref().1.peer_certificates().unwrap()[0];
    CertInfo::parse(leaf).unwrap().serial().to_string()
}

/// Records a new root of the trust domain at some stage of its life, and returns its certificate.
fn record_root(dir: &Path, stages: &[CaEventKind]) -> Vec<u8> {
    let now = UnixTime::from_seconds(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64);
    let (key, _) = CaKey::generate().unwrap();
    let der = make_root(&domain(), &key, Serial::from_random(random()), CaDates::root(now)).unwrap();
    let info = CertInfo::parse(&der).unwrap();
    let journal = FileJournal::open(&dir.join("ledger"), OpenOptions::default()).unwrap();
    let records = stages.iter().map(|stage| {
        let event = CaEvent {
            event: (*stage).into(),
            role: CaRole::Root.into(),
            key_id: info.key_id().as_bytes().to_vec(),
            certificate_der: der.clone(),
            not_after_s: info.not_after().seconds(),
            ..CaEvent::default()
        };
        let id = SpiffeId::replica(&domain(), &ReplicaName::parse("ca-1").unwrap());
        let record = Record {
            time: now,
            salt: random(),
            actor: Actor::Replica { id },
            attestation: None,
            request_id: None,
            replica: "ca-1".to_owned(),
            control_seen: 0,
            body: Body::CaEvent(event),
        };
        record.encode().unwrap()
    });
    let records: Vec<_> = records.collect();
    journal.append(&records, journal.control_head()).unwrap();
    der
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_pins_every_root_that_is_active_or_prepared() {
    use CaEventKind::{Activate, Prepare, Retire};
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let prepared = record_root(&dir, &[Prepare]);
    let active = record_root(&dir, &[Prepare, Activate]);
    let retired = record_root(&dir, &[Prepare, Activate, Retire]);
    let first = fs::read_to_string(dir.join("root.pem")).unwrap();
    let first = mintage_svid::pem::decode_certificates(&first).unwrap().remove(0);
    let running = Ca::start(ca::config(&dir), Deps::system()).await.unwrap();
    let token = ca::token(running.admin_socket(), "n1").await;
    let pins = token.root_hashes();
    for wanted in [&first, &prepared, &active] {
        assert!(pins.contains(&cert_sha256(wanted)), "{pins:?}");
    }
    assert!(!pins.contains(&cert_sha256(&retired)));
    assert_eq!(pins.len(), 3, "each once");
    join(&token).await.expect("the token opens the door");
    running.stop().await;
}
