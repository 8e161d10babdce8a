//! Programs that nobody here wrote, unchanged, on delivered folders: each is used as its manual says, and follows a rotation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use mintage_proto::v1::{Entry, revoke_request::Target};
use mintage_svid::pem;
use mintage_tests::kit::{
    agent::secret_file,
    ca::{apply, domain},
    node::{Node, until},
    peers::peer,
    proxies::{Proxy, free_port},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A second delivery of an entry, into a folder of its own, with `more` in it.
fn delivery(entry: &str, directory: &Path, more: &str) -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!("[[delivery]]\nentry = {entry:?}\ndirectory = {directory:?}\nowner = {uid}\ngroup = {uid}\n{more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_takes_the_user_from_the_spiffe_id_and_reloads_by_the_hook() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let hook = format!(
        "[[delivery.hook]]\nsignal = 'HUP'\npid_file = {:?}\n",
        front.path().join("nats.pid")
    );
    let mut node = Node::start(&["db", "other", "web"], &hook).await;
    let Some(nats) = Proxy::nats(front.path(), &node.place.join("web"), port) else {
        return;
    };
    let (web, db) = (node.pair("web"), node.pair("db"));
    assert_eq!(
        db.nats(port).await.unwrap(),
        ("PONG".to_owned(), web.serial()),
        "{}",
        nats.log()
    );
    let (said, _) = node.pair("other").nats(port).await.unwrap();
    assert!(said.contains("Authorization Violation"), "{said}");

    let accepted = node.revoke(Target::Serial(web.serial())).await;
    let next = node.after("web", &web).serial();
    let serves = async || {
        db.nats(port)
            .await
            .is_ok_and(|(said, served)| said == "PONG" && served == next)
    };
    let latency = until(accepted, "the replacement", serves).await;
    println!(
        "NATS serves the replacement {:.0} ms after the revocation",
        latency.as_secs_f64() * 1e3
    );
    node.stop();
}

/// What a program says on its standard output; it must end well.
fn said(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// curl and openssl know the server by its DNS name, and by no other; it shows them this serial of the client's.
fn by_name(own: &Path, port: u16, serial: &str, nginx: &Proxy) {
    let (roots, both) = (own.join("svid_bundle.pem"), own.join("svid_credential_bundle.pem"));
    if let Some(curl) = peer("curl") {
        let ask = |name: &str| {
            let mut curl = Command::new(&curl);
            curl.args(["--silent", "--show-error", "--cacert"])
                .arg(&roots)
                .arg("--cert")
                .arg(&both);
            curl.args([
                "--resolve",
                &format!("{name}:{port}:127.0.0.1"),
                &format!("https://{name}:{port}/"),
            ]);
            curl
        };
        assert!(said(ask("web.example")).contains(serial), "{}", nginx.log());
        assert!(!ask("other.example").output().unwrap().status.success(), "another name");
    }
    if let Some(openssl) = peer("openssl") {
        let ask = |name: &str| {
            let mut client = Command::new(&openssl);
            client.args([
                "s_client",
                "-brief",
                "-verify_return_error",
                "-x509_strict",
                "-verify_hostname",
                name,
            ]);
            client
                .arg("-connect")
                .arg(format!("127.0.0.1:{port}"))
                .arg("-CAfile")
                .arg(&roots);
            client
                .arg("-cert")
                .arg(&both)
                .arg("-key")
                .arg(&both)
                .arg("-cert_chain")
                .arg(own.join("svid.pem"));
            client.stdin(Stdio::null()).output().unwrap().status.success()
        };
        assert!(ask("web.example") && !ask("other.example"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_curl_and_openssl_verify_a_dns_name_and_show_what_was_delivered() {
    let front = tempfile::tempdir().unwrap();
    let (directory, port) = (front.path().join("front"), free_port());
    let mut node = Node::start(&["db"], &delivery("front", &directory, "")).await;
    let entry = Entry {
        name: "front".to_owned(),
        spiffe_id: format!("spiffe://{}/front", domain()),
        agents: vec![format!("spiffe://{}/mintage/agent/*", domain())],
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        dns_names: vec!["web.example".to_owned()],
        ..Entry::default()
    };
    apply(&node.ca.admin_socket(), vec![entry]).await.unwrap();
    let bundle = directory.join("svid_credential_bundle.pem");
    node.agent.wait_for("a delivery", || bundle.exists().then_some(()));
    let Some(nginx) = Proxy::nginx_by("mutual.conf", front.path(), &directory, port) else {
        return;
    };
    let (first, own) = (node.pair("db"), node.place.join("db"));
    let serial = |pair: &mintage_tests::kit::node::Pair| pair.serial().to_uppercase();
    by_name(&own, port, &serial(&first), &nginx);

    let scratch = node.beside("prometheus");
    let Some(prometheus) = Proxy::prometheus(&scratch, &own, port) else {
        return;
    };
    let sees = async |serial: &str| -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", prometheus.ports[0])).await else {
            return false;
        };
        let query = "GET /api/v1/query?query=client_certificate HTTP/1.0\r\n\r\n";
        stream.write_all(query.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.contains(serial)
    };
    until(Instant::now(), "the first scrape", async || sees(&serial(&first)).await).await;
    let accepted = node.revoke(Target::Serial(first.serial())).await;
    let second = serial(&node.after("db", &first));
    let latency = until(accepted, "a scrape with the replacement", async || sees(&second).await).await;
    println!(
        "Prometheus scrapes with the replacement {:.0} ms after the revocation",
        latency.as_secs_f64() * 1e3
    );
    node.stop();
}

/// `keytool` on a store that has this password.
fn keytool(keytool: &Path, words: &[&str], store: &Path, kind: &str, password: &Path) -> Command {
    let mut command = Command::new(keytool);
    command.args(["-J-Duser.language=en", words[0], "-keystore"]).arg(store);
    command
        .args(["-storetype", kind, "-storepass:file"])
        .arg(password)
        .args(&words[1..]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn java_opens_the_delivered_stores_as_pkcs12_and_as_jks() {
    let front = tempfile::tempdir().unwrap();
    let password = front.path().join("password");
    secret_file(&password, "correct horse\n");
    let folder = |layout: &str| -> PathBuf { front.path().join(layout) };
    let more = format!("password_file = {password:?}\n");
    let deliveries: String = ["pkcs12", "jks"]
        .iter()
        .map(|layout| delivery("web", &folder(layout), &format!("{more}layout = {layout:?}\n")))
        .collect();
    let mut node = Node::start(&["web"], &deliveries).await;
    for (layout, extension, kind) in [("pkcs12", "p12", "PKCS12"), ("jks", "jks", "JKS")] {
        let store = folder(layout).join(format!("keystore.{extension}"));
        let trust = folder(layout).join(format!("truststore.{extension}"));
        node.agent.wait_for("a store", || store.exists().then_some(()));
        let Some(java) = peer("keytool") else { return };
        let listed = said(keytool(&java, &["-list", "-v"], &store, kind, &password));
        for word in [
            "Alias name: svid",
            "PrivateKeyEntry",
            "Certificate chain length: 2",
            "spiffe://dev.test/web",
        ] {
            assert!(listed.contains(word), "{word}: {listed}");
        }
        let listed = said(keytool(&java, &["-list"], &trust, kind, &password));
        assert!(
            listed.contains("trustedCertEntry") && listed.contains("1 entry"),
            "{listed}"
        );
        let wrong = front.path().join("wrong");
        secret_file(&wrong, "incorrect horse\n");
        assert!(
            !keytool(&java, &["-list"], &store, kind, &wrong)
                .output()
                .unwrap()
                .status
                .success()
        );

        // Java has the key out, and in again under a password of its own; openssl shows that it is the one.
        let copy = front.path().join(format!("copy.{layout}"));
        let mut import = Command::new(&java);
        import
            .args(["-importkeystore", "-noprompt", "-srckeystore"])
            .arg(&store);
        import
            .args(["-srcstoretype", kind, "-srcstorepass:file"])
            .arg(&password)
            .arg("-destkeystore")
            .arg(&copy);
        import.args(["-deststoretype", "PKCS12", "-deststorepass", "battery staple"]);
        said(import);
        let Some(openssl) = peer("openssl") else { return };
        let mut show = Command::new(openssl);
        show.args(["pkcs12", "-nodes", "-nocerts", "-passin", "pass:battery staple", "-in"])
            .arg(&copy);
        let shown = said(show);
        let key = pem::decode_private_key(&shown[shown.find("-----BEGIN").unwrap()..]).unwrap();
        let mut show = Command::new(peer("openssl").unwrap());
        show.args(["pkcs12", "-nokeys", "-clcerts", "-passin", "pass:battery staple", "-in"])
            .arg(&copy);
        let shown = said(show);
        let leaf = pem::decode_certificates(&shown[shown.find("-----BEGIN").unwrap()..]).unwrap();
        assert!(mintage_svid::key_matches(&leaf[0], &key).unwrap());
    }
    fs::remove_file(&password).unwrap();
    node.stop();
}
