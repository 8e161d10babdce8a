//! The policy for keys and signing requests, over the wire: `ca.allow_rsa` and `ca.strict_csr`, at joining and at every ask.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, process::Command};

use mintage_ca::{Ca, Config, Deps};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{entry, make, token},
    client::{Joined, join_with},
    peers::peer,
    stream::{Stream, ask_with},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tonic::Code;

/// A CA with these lines in its configuration's table `ca`.
async fn serving(folder: &Path, policy: &str) -> Ca {
    let dir = folder.join("ca");
    if !dir.exists() {
        make(&dir);
    }
    let text = format!(
        "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[ca]\n{policy}\n",
        dir.display().to_string()
    );
    let config = Config::parse(Path::new("ca.toml"), &text).unwrap();
    let ca = Ca::start(config, Deps::system()).await.unwrap();
    entry(ca.admin_socket(), "web", "/web").await;
    ca
}

/// A key and a signing request for it that asks for nothing.
fn bare() -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap();
    (key.serialize_der(), csr.der().to_vec())
}

/// Two signing requests of P-256 keys that ask for names.
fn wishful() -> [Vec<u8>; 2] {
    [wish(), wish()]
}

fn wish() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["victim.example.org".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// Joins with a request that every policy takes.
async fn joined(ca: &Ca) -> Joined {
    let (key, csr) = bare();
    let token = token(ca.admin_socket(), "asks").await;
    let answer = join_with(&token, csr).await.unwrap();
    Joined {
        key,
        chain: answer.chain,
        roots: answer.bundle.unwrap().roots,
        domain: token.trust_domain().clone(),
        instance: answer.instance,
    }
}

/// What the CA answers an agent that asks for `web` with the first of two signing requests, and a node that joins with the
/// second: why not, or nothing where there was a certificate. One key would not be taken for two identities.
async fn answers(ca: &Ca, [asking, joining]: [Vec<u8>; 2]) -> [String; 2] {
    let agent = joined(ca).await;
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let result = stream.ask_one(ask_with("web", asking)).await.unwrap();
    let asked = match &result.refusal {
        Some(refusal) => {
            assert!(result.leaf.is_empty(), "{refusal:?}");
            assert_eq!(refusal.grpc_code, Code::InvalidArgument as u32, "{refusal:?}");
            refusal.message.clone()
        }
        None => {
            let leaf = LeafInfo::parse(&result.leaf).unwrap();
            assert_eq!(leaf.id().as_str(), "spiffe://dev.test/web");
            assert!(
                leaf.dns_names().is_empty(),
                "nothing is read out of a request but its key"
            );
            String::new()
        }
    };
    let joined = join_with(&token(ca.admin_socket(), "joins").await, joining).await;
    let refused = joined.err().map(|status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.message().to_owned()
    });
    [asked, refused.unwrap_or_default()]
}

/// Two signing requests of OpenSSL with RSA keys of so many bits; none where it is not installed.
fn rsa(folder: &Path, bits: u32) -> Option<[Vec<u8>; 2]> {
    let openssl = peer("openssl")?;
    Some([0, 1].map(|n| rsa_request(&openssl, &folder.join(format!("rsa-{bits}-{n}")), bits)))
}

fn rsa_request(openssl: &Path, file: &Path, bits: u32) -> Vec<u8> {
    let [key, csr] = ["key", "csr"].map(|name| file.with_extension(name));
    let output = Command::new(openssl)
        .args([
            "req",
            "-new",
            "-newkey",
            &format!("rsa:{bits}"),
            "-nodes",
            "-outform",
            "DER",
        ])
        .args(["-sha256", "-subj", "/", "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(&csr)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(csr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_keys_are_taken_only_where_they_are_allowed_and_only_from_2048_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(weak), Some(good)) = (rsa(folder.path(), 1024), rsa(folder.path(), 2048)) else {
        return;
    };
    let ca = serving(folder.path(), "").await;
    for told in answers(&ca, good.clone()).await {
        assert!(told.contains("RSA keys are off by policy"), "{told}");
    }
    ca.stop().await;

    let ca = serving(folder.path(), "allow_rsa = true").await;
    assert_eq!(answers(&ca, good).await, ["", ""]);
    for told in answers(&ca, weak).await {
        assert!(told.contains("the key of the signing request is refused"), "{told}");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_for_names_is_ignored_or_refused_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    for policy in ["", "strict_csr = false"] {
        let ca = serving(folder.path(), policy).await;
        assert_eq!(answers(&ca, wishful()).await, ["", ""], "ignored under {policy:?}");
        ca.stop().await;
    }
    let ca = serving(folder.path(), "strict_csr = true").await;
    for told in answers(&ca, wishful()).await {
        assert!(told.contains("strict policy refuses"), "{told}");
    }
    assert_eq!(answers(&ca, [bare().1, bare().1]).await, ["", ""]);

    // The real agent asks for nothing but its key, so that it may stand under either policy.
    let file = config(folder.path(), &["web"]);
    let token = token(ca.admin_socket(), "n1").await;
    let mut agent = AgentProcess::start(folder.path(), &file, Some(&token));
    let svid = folder.path().join("web/svid.pem");
    agent.wait_for("the first delivery", || svid.exists().then_some(()));
    assert_eq!(agent.stop(), Some(0));
    ca.stop().await;
}
