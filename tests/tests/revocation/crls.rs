//! Lists of revoked certificates from the CA through the agent to software that speaks only X.509: what is good is accepted,
//! what is revoked, by serial or by a rule, is refused; and the lists survive restarts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use mintage_ca::Ca;
use mintage_proto::v1::{
    RevokeRequest, WatchCrlsRequest, crls_client::CrlsClient, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::{Crl, LeafInfo, pem::decode_certificates};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    bins::binary,
    ca::{CaProcess, TestCa, config as ca_config, entry, make, make_with, token, with_metrics},
    client::{admin, anonymous},
    clock::Shifted,
    peers::peer,
};

/// The CA's lists by their issuers, as anybody gets them.
async fn lists(socket: &Path) -> BTreeMap<Vec<u8>, Crl> {
    let mut client = CrlsClient::new(admin(socket).await.unwrap());
    read(&mut client).await
}

async fn read(client: &mut CrlsClient<tonic::transport::Channel>) -> BTreeMap<Vec<u8>, Crl> {
    let mut chunks = client
        .watch(WatchCrlsRequest { once: true })
        .await
        .unwrap()
        .into_inner();
    let mut lists: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(chunk.data.len() <= 256 * 1024);
        lists.entry(chunk.issuer_key_id).or_default().extend(chunk.data);
    }
    lists
        .into_iter()
        .map(|(issuer, der)| (issuer, Crl::parse(&der).unwrap()))
        .collect()
}

async fn revoke(socket: &Path, target: Target) {
    let request = RevokeRequest {
        target: Some(target),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    let channel = admin(socket).await.unwrap();
    RevocationClient::new(channel).revoke(request).await.unwrap();
}

/// What `openssl verify -crl_check_all` says of `chain`, with bundle and lists of `folder`.
fn verdict(openssl: &Path, chain: &Path, folder: &Path) -> String {
    let output = Command::new(openssl)
        .args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"])
        .arg(folder.join("svid_bundle.pem"))
        .arg("-CRLfile")
        .arg(folder.join("svid_crl.pem"))
        .arg("-untrusted")
        .arg(chain)
        .arg(chain)
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

struct Node {
    ca: CaProcess,
    agent: AgentProcess,
    place: PathBuf,
}

/// A CA with two entries, and an agent that delivers both with the lists.
async fn node(folder: &Path) -> Node {
    let data = folder.join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    for name in ["web", "db"] {
        entry(&ca.admin_socket(), name, &format!("/{name}")).await;
    }
    let place = folder.join("n1");
    fs::create_dir(&place).unwrap();
    let file = config(&place, &["web", "db"]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[[delivery]]", "[[delivery]]\ncrl = true")).unwrap();
    let token = token(&ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(&place, &file, Some(&token));
    for name in ["web", "db"] {
        let file = place.join(name).join("svid_crl.pem");
        agent.wait_for("the lists of root and intermediate", || {
            let text = fs::read_to_string(&file).ok()?;
            (text.matches("BEGIN X509 CRL").count() == 2).then_some(())
        });
    }
    Node { ca, agent, place }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_accepts_what_is_good_and_refuses_what_a_serial_or_a_rule_revoked() {
    let Some(openssl) = peer("openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let Node { ca, mut agent, place } = node(folder.path()).await;
    let socket = ca.admin_socket();
    let (web, db) = (place.join("web"), place.join("db"));
    let old = |name: &str| folder.path().join(format!("old-{name}.pem"));
    for name in ["web", "db"] {
        fs::copy(place.join(name).join("svid.pem"), old(name)).unwrap();
        let said = verdict(&openssl, &old(name), &place.join(name));
        assert!(said.contains(": OK"), "{said}");
    }
    let leaf = decode_certificates(&fs::read_to_string(old("web")).unwrap()).unwrap();
    let serial = LeafInfo::parse(&leaf[0]).unwrap().serial().to_string();
    revoke(&socket, Target::Serial(serial)).await;
    let told = Instant::now();
    agent.wait_for("a list with the serial", || {
        verdict(&openssl, &old("web"), &web)
            .contains("certificate revoked")
            .then_some(())
    });
    let late = told.elapsed().as_secs_f64() * 1e3;
    println!("openssl verify -crl_check_all: refused {late:.0} ms after the reply to the revocation");
    let said = verdict(&openssl, &old("db"), &db);
    assert!(said.contains(": OK"), "the other one is good: {said}");

    revoke(&socket, Target::SpiffeId("spiffe://dev.test/db".to_owned())).await;
    agent.wait_for("a list with what the rule strikes", || {
        verdict(&openssl, &old("db"), &db)
            .contains("certificate revoked")
            .then_some(())
    });
    for folder in [&web, &db] {
        // The replacement, and the lists beside it, are one generation.
        agent.wait_for("a replacement that is accepted", || {
            verdict(&openssl, &folder.join("svid.pem"), folder)
                .contains(": OK")
                .then_some(())
        });
    }
    let held = lists(&socket).await;
    assert_eq!(held.values().map(Crl::entries).sum::<usize>(), 2);
    let command = Command::new(&openssl)
        .args(["crl", "-noout", "-text", "-in"])
        .arg(web.join("svid_crl.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&command.stdout).into_owned();
    assert!(!text.contains("Key Compromise"), "no reason unless asked for: {text}");
    assert_eq!((agent.stop(), ca.stop()), (Some(0), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_rise_over_a_restart_and_an_agent_keeps_its_lists() {
    let folder = tempfile::tempdir().unwrap();
    let Node { ca, mut agent, place } = node(folder.path()).await;
    let before = lists(&ca.admin_socket()).await;
    assert_eq!(before.len(), 2, "the root's, and the intermediate's");
    revoke(&ca.admin_socket(), Target::SpiffeId("spiffe://dev.test/web".to_owned())).await;
    let file = place.join("web/svid_crl.pem");
    let first = fs::read_to_string(&file).unwrap();
    agent.wait_for("the next list", || {
        fs::read_to_string(&file).ok().filter(|text| *text != first)
    });
    let revoked = lists(&ca.admin_socket()).await;
    assert_eq!(revoked.values().map(Crl::entries).sum::<usize>(), 1);
    assert_eq!(ca.stop(), Some(0));
    assert_eq!(agent.stop(), Some(0));

    // Without the CA the agent has what it had.
    fs::remove_dir_all(place.join("web")).unwrap();
    let mut agent = AgentProcess::start(&place, &place.join("agent.toml"), None);
    agent.wait_for("the lists out of the data directory", || {
        let text = fs::read_to_string(&file).ok()?;
        (text.matches("BEGIN X509 CRL").count() == 2).then_some(())
    });
    let ca = CaProcess::start(&folder.path().join("ca"), 0);
    let after = lists(&ca.admin_socket()).await;
    let rose = |(issuer, list): (&Vec<u8>, &Crl)| after[issuer].number() > list.number();
    assert_eq!(
        revoked.iter().filter(|pair| rose(*pair)).count(),
        1,
        "the root's stays as it is"
    );
    assert!(
        revoked
            .iter()
            .all(|(issuer, list)| list.number() >= before[issuer].number())
    );
    assert_eq!(
        after.values().map(Crl::entries).sum::<usize>(),
        1,
        "it is still revoked"
    );
    assert_eq!((agent.stop(), ca.stop()), (Some(0), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_s_list_is_renewed_while_the_ca_serves_with_what_it_named_and_what_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    // The key lies elsewhere, as it should.
    let key = folder.path().join("safe.key");
    fs::rename(data.join("keys/root.key"), &key).unwrap();
    let ca = CaProcess::start(&data, 0);
    let socket = ca.admin_socket();
    let before = lists(&socket).await;
    let renew = |more: &[&str]| {
        let mut command = Command::new(binary("mintage-ca"));
        command
            .args(["renew-root-crl", "--data-dir"])
            .arg(&data)
            .args(more)
            .output()
            .unwrap()
    };
    let refused = renew(&[]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("--root-key FILE"), "{told}");
    let serial = "4f1d2c3b4a596877869504132231405f";
    let done = renew(&["--root-key", key.to_str().unwrap(), "--revoke", serial]);
    assert!(done.status.success(), "{done:?}");
    ca.hang_up();
    let newer = async {
        loop {
            let now = lists(&socket).await;
            let mut rose = now
                .iter()
                .filter(|(issuer, list)| list.number() > before[*issuer].number());
            if let Some((_, list)) = rose.find(|(_, list)| list.entries() == 1) {
                return list.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let list = tokio::time::timeout(Duration::from_secs(60), newer)
        .await
        .expect("it is taken up");
    assert!(list.next_update() > before.values().map(Crl::next_update).min().unwrap());
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_revocations_make_few_lists_and_anybody_may_have_them() {
    let ca = TestCa::start_with(with_metrics).await;
    let socket = ca.ca.admin_socket().to_owned();
    let began = std::time::Instant::now();
    let first = lists(&socket).await;
    for n in 0..50 {
        revoke(&socket, Target::Key(format!("{n:064x}"))).await;
    }
    let newer = |now: &BTreeMap<Vec<u8>, Crl>| now.iter().any(|(issuer, list)| list.number() > first[issuer].number());
    while !newer(&lists(&socket).await) {
        assert!(began.elapsed() < Duration::from_secs(60), "no list came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = ca.metrics().await;
    let signed = text
        .lines()
        .find_map(|line| line.strip_prefix("mintage_crls_signed_total "));
    let signed: u64 = signed.unwrap().trim().parse().unwrap();
    // One at the start, and one for each second that has passed.
    let most = 2 + began.elapsed().as_secs();
    assert!((2..=most).contains(&signed), "{signed} lists in {:?}", began.elapsed());
    assert!(
        text.contains("mintage_crl_end_timestamp_seconds{ca=\"root\"}"),
        "{text}"
    );

    let (channel, _) = anonymous(&ca.token("n1").await).await.unwrap();
    assert_eq!(read(&mut CrlsClient::new(channel)).await.len(), 2);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_rises_though_the_clock_was_set_back_while_the_ca_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    let hour = Duration::from_secs(3_600);
    let clock = Shifted::behind(hour * 3);
    make_with(&data, &clock.deps());
    clock.move_on(hour * 2);
    let mut before: Option<BTreeMap<Vec<u8>, u64>> = None;
    for step_seconds in [0, -3_600, -600] {
        clock.step(step_seconds);
        let ca = Ca::start(ca_config(&data), clock.deps()).await.unwrap();
        let lists = lists(ca.admin_socket()).await;
        let numbers: BTreeMap<Vec<u8>, u64> = lists
            .iter()
            .map(|(issuer, list)| (issuer.clone(), list.number()))
            .collect();
        assert_eq!(numbers.len(), 2, "of the root and of the issuing key");
        // The root's is a file that nothing here renews.
        let risen = |former: &BTreeMap<Vec<u8>, u64>| {
            numbers
                .iter()
                .filter(|(issuer, number)| **number > former[*issuer])
                .count()
        };
        assert!(
            before.as_ref().is_none_or(|former| risen(former) == 1),
            "{before:?} then {numbers:?}"
        );
        before = Some(numbers);
        ca.stop().await;
    }
    fs::write(data.join("crl-number"), "x\n").unwrap();
    let told = Ca::start(ca_config(&data), clock.deps())
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(told.contains("crl-number") && told.contains("remove it"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_lists_are_for_everybody_and_never_less_than_all_of_them_in_one_file() {
    let ca = TestCa::start().await;
    let out = ca.beside("public/lists");
    let save = |more: &[&str]| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(binary("mintage"));
        shell
            .args(["revocation", "crl", "-o", "json", "--out"])
            .arg(&out)
            .args(more);
        shell.env("MINTAGE_ADMIN_SOCKET", ca.ca.admin_socket());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let names = || -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let issuer = lists(ca.ca.admin_socket()).await.into_keys().next().unwrap();
    let issuer = hex::encode(issuer);
    save(&["--issuer", &issuer]);
    assert_eq!(names(), [format!("{issuer}.crl")], "no crl.pem that lacks a list");
    let told = save(&[]);
    assert_eq!((names().len(), told["crls"].as_array().unwrap().len()), (3, 2));
    let all = fs::read_to_string(out.join("crl.pem")).unwrap();
    assert_eq!(all.matches("BEGIN X509 CRL").count(), 2);
    save(&["--issuer", &issuer]);
    assert_eq!(fs::read_to_string(out.join("crl.pem")).unwrap(), all);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(out.parent().unwrap()), mode(&out)), (0o755, 0o755));
    for name in names() {
        assert_eq!(mode(&out.join(&name)), 0o644, "{name}");
    }
    ca.stop().await;
}
