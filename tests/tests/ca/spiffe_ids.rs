//! One table of SPIFFE IDs through every door by which one comes in: entry files, the command line, the admin socket, an
//! export of SPIRE, a revocation, a certificate, a signing request. Each door gives the same verdict.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output, Stdio},
};

use mintage_proto::v1::{
    CaStatusRequest, DeleteEntryRequest, Entry, RevokeRequest, revocation_client::RevocationClient,
    revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{self, TestCa, entries},
    client::{admin, join, registry},
    csr::{Requester, alternative_names, tlv, uri},
    ids::{Named, good, malformed, not_for_entries, trust_domains},
    stream::{Stream, ask_with, code},
};
use serde_json::{Value, json};
use tonic::{Code, Status};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// Whatever an entry must not give, with what is no ID at all.
fn bad() -> Vec<Named> {
    [malformed(), not_for_entries()].concat()
}

/// Runs `mintage` against the CA.
fn mintage(ca: &TestCa, words: &[&str]) -> Output {
    let mut command = Command::new(binary("mintage"));
    command
        .env_remove("MINTAGE_FORMAT")
        .arg("--socket")
        .arg(ca.ca.admin_socket());
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

/// Holds that a program refused, and over the ID.
#[track_caller]
fn refuses(what: &str, output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{what}: {}: {told}",
        output.status
    );
    assert!(told.contains("spiffe"), "{what}: {told}");
    assert!(!told.contains("panicked"), "{what}: {told}");
}

#[track_caller]
fn takes(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Text as a TOML string, with everything but plain characters escaped.
fn toml(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\U{:08X}", u32::from(c)),
            ' '..='~' => c.to_string(),
            _ => format!("\\U{:08X}", u32::from(c)),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_files_take_good_ids_and_no_other() {
    let ca = TestCa::start().await;
    let file = ca.beside("entries.toml");
    let apply = |id: &str| {
        let text = format!(
            "[[entry]]\nname = \"web\"\nspiffe_id = {}\nagents = [\"spiffe://dev.test/mintage/agent/n1\"]\nselectors = \
             [\"unix:uid:1\"]\n",
            toml(id)
        );
        std::fs::write(&file, text).unwrap();
        mintage(&ca, &["entry", "apply", "-f", file.to_str().unwrap()])
    };
    for (what, id) in bad() {
        let output = apply(&id);
        refuses(what, &output);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains("entries.toml:3: ") && told.contains("spiffe_id"),
            "{what}: {told}"
        );
    }
    assert_eq!(entries(ca.ca.admin_socket()).await, 0);
    for (what, id) in good() {
        takes(what, &apply(&id));
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_good_ids_and_no_other() {
    let ca = TestCa::start().await;
    let create = |id: &str, more: &[&str]| {
        let words = [
            "entry",
            "create",
            "web",
            "--agent",
            "*",
            "--selector",
            "unix:uid:1",
            "--spiffe-id",
        ];
        mintage(&ca, &[&words, [id].as_slice(), more].concat())
    };
    for (what, id) in bad() {
        // No argument can hold a NUL.
        if !id.contains('\0') {
            refuses(what, &create(&id, &[]));
        }
    }
    assert_eq!(entries(ca.ca.admin_socket()).await, 0);
    for (what, id) in good() {
        takes(what, &create(&id, &["--dry-run"]));
    }
    ca.stop().await;
}

async fn apply(socket: &Path, id: &str) -> Result<(), Status> {
    let entry = Entry {
        name: "web".to_owned(),
        spiffe_id: id.to_owned(),
        agents: vec!["spiffe://dev.test/mintage/agent/n1".to_owned()],
        selectors: vec!["unix:uid:1".to_owned()],
        ..Entry::default()
    };
    ca::apply(socket, vec![entry]).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_socket_takes_good_ids_and_no_other_and_records_none_of_them() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let size = async || {
        let status = registry(socket).await.ca_status(CaStatusRequest {}).await;
        status.unwrap().into_inner().ledger_size
    };
    let before = size().await;
    for (what, id) in bad() {
        let refused = apply(socket, &id).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        assert!(
            refused.message().contains("entry web: spiffe_id"),
            "{what}: {refused:?}"
        );
    }
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    for (what, id) in malformed() {
        let request = RevokeRequest {
            target: Some(Target::SpiffeId(id)),
            ..RevokeRequest::default()
        };
        let refused = revocation.revoke(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
    }
    assert_eq!((entries(socket).await, size().await), (0, before));
    for (what, id) in good() {
        apply(socket, &id)
            .await
            .unwrap_or_else(|refused| panic!("{what}: {refused:?}"));
    }
    ca.stop().await;
}

/// An entry as SPIRE exports it; none for an ID that its form of two parts cannot say.
fn exported(number: usize, id: &str) -> Option<Value> {
    let rest = id.strip_prefix("spiffe://")?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(json!({
        "id": format!("e{number}"),
        "spiffe_id": {"trust_domain": domain, "path": path},
        "parent_id": {"trust_domain": "dev.test", "path": "/spire/agent/x509pop/n1"},
        "selectors": [{"type": "unix", "value": "uid:1"}],
        "x509_svid_ttl": 300,
        "hint": format!("h{number}"),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_takes_good_ids_and_leaves_every_other_out() {
    let ca = TestCa::start().await;
    let file = ca.beside("spire.json");
    let import = |table: Vec<Named>, code: i32| {
        let all: Vec<_> = table
            .iter()
            .enumerate()
            .filter_map(|(n, (_, id))| exported(n, id))
            .collect();
        std::fs::write(&file, json!({"entries": all}).to_string()).unwrap();
        let words = ["entry", "import", "--from", "spire-json", "--agents", "*", "-o", "json"];
        let output = mintage(&ca, &[&words, [file.to_str().unwrap()].as_slice()].concat());
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (all, serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let (all, told) = import(bad(), 3);
    assert!(all.len() + 8 > bad().len(), "almost all can be exported");
    assert_eq!(
        (&told["created"], &told["left_out"]),
        (&json!(0), &json!(all.len())),
        "{told}"
    );
    let left_out: BTreeSet<_> = told["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["entry_id"].as_str())
        .collect();
    assert_eq!(left_out, all.iter().map(|entry| entry["id"].as_str()).collect());
    for note in told["notes"].as_array().unwrap() {
        assert!(
            note["text"].as_str().unwrap().starts_with("left out: spiffe_id: "),
            "{note}"
        );
    }
    assert_eq!(entries(ca.ca.admin_socket()).await, 0);
    let (all, told) = import(good(), 0);
    assert_eq!(
        (&told["created"], &told["left_out"]),
        (&json!(all.len()), &json!(0)),
        "{told}"
    );
    // Names are made of paths: none begins like an option or a hidden file, whatever its path does.
    let names = told["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["name"].as_str().unwrap());
    for name in names {
        assert!(
            name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.contains('/'),
            "{name}"
        );
        let request = DeleteEntryRequest {
            name: name.to_owned(),
            dry_run: false,
        };
        registry(ca.ca.admin_socket())
            .await
            .delete_entry(request)
            .await
            .unwrap();
    }
    ca.stop().await;
}

/// A certificate that is right in everything but, perhaps, the one URI in it.
fn certificate(id: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(vec![0x41; 16].into());
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2027, 1, 1));
    let names = tlv(0x30, &[&uri(id.as_bytes())]);
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn a_certificate_with_a_bad_id_is_no_svid() {
    for (what, id) in malformed() {
        let outcome = LeafInfo::parse(&certificate(&id));
        assert!(outcome.is_err(), "{what}: {outcome:?}");
    }
    for (what, id) in good() {
        let leaf = LeafInfo::parse(&certificate(&id)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(leaf.id().as_str(), id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_id_in_a_signing_request_reaches_the_certificate() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let wished = [bad(), good()].concat();
    for some in wished.chunks(32) {
        let asks = some.iter().map(|(_, id)| {
            let names = alternative_names(&[uri(id.as_bytes())]);
            ask_with("web", Requester::new().with_extensions(&[names]))
        });
        stream.ask(asks.collect()).await.unwrap();
        let results = stream.minted().await.unwrap();
        assert_eq!(results.len(), some.len());
        for (result, (what, _)) in results.iter().zip(some) {
            assert_eq!(code(result), "", "{what}: {result:?}");
            let (_, leaf) = X509Certificate::from_der(&result.leaf).unwrap();
            let names = leaf.subject_alternative_name().unwrap().unwrap();
            let names = &names.value.general_names;
            assert!(
                matches!(names.as_slice(), [GeneralName::URI("spiffe://dev.test/web")]),
                "{what}: {names:?}"
            );
        }
    }
    ca.stop().await;
}

#[test]
fn trust_domains_are_taken_and_refused_by_one_rule() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = trust_domains();
    let file = folder.path().join("entries.toml");
    let validated = |domain: &str| {
        let text = format!(
            "[[entry]]\nname = \"web\"\nspiffe_id = \"spiffe://{domain}/web\"\nagents = \
             [\"spiffe://{domain}/mintage/agent/n1\"]\nselectors = [\"unix:uid:1\"]\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary("mintage"));
        command.args(["entry", "validate", "--trust-domain", domain]).arg(&file);
        command.output().unwrap()
    };
    let initialised = |domain: &str, name: &str| {
        let dir = folder.path().join(name);
        let mut command = Command::new(binary("mintage-ca"));
        command.args(["init", "--trust-domain", domain, "--data-dir"]).arg(&dir);
        (command.output().unwrap(), dir)
    };
    for domain in &good {
        takes(domain, &validated(domain));
    }
    for domain in &bad {
        let told = validated(domain);
        assert!(!told.status.success(), "{domain}");
        let (told, dir) = initialised(domain, "bad");
        assert_eq!(told.status.code(), Some(1), "{domain}");
        let text = String::from_utf8_lossy(&told.stderr);
        assert!(
            text.contains("trust domain") || text.contains("trust-domain"),
            "{domain}: {text}"
        );
        assert!(!dir.exists(), "{domain} left something behind");
    }
    let (told, _) = initialised("a_b.c-1.test", "good");
    takes("init", &told);
}
