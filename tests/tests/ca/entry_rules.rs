//! Entries that would match everybody, nobody, or one workload twice: refused whole at the admin socket and in files, with
//! the remedy, and what stands already is left as it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use mintage_proto::v1::{Entry, ListEntriesRequest};
use mintage_tests::kit::{
    bins::binary,
    ca::{TestCa, apply},
    client::registry,
};
use tonic::Code;

const DIGEST: &str = "unix:sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn entry(name: &str, selectors: &[&str]) -> Entry {
    Entry {
        name: name.to_owned(),
        spiffe_id: "spiffe://dev.test/web".to_owned(),
        agents: vec!["spiffe://dev.test/mintage/agent/n1".to_owned()],
        selectors: selectors.iter().map(|text| (*text).to_owned()).collect(),
        ..Entry::default()
    }
}

/// Selectors that no entry may have, and a part of the reason.
const BAD: [(&[&str], &str); 11] = [
    (&[], "would match every process"),
    (&["unix:path:/usr/bin/web"], "add unix:uid:N"),
    (&[DIGEST], "add unix:uid:N"),
    (&["unix:path:/usr/bin/web", DIGEST], "add unix:uid:N"),
    (&["unix:uid:1", "unix:uid:1"], "written twice"),
    (&["unix:uid:1", "unix:uid:2"], "can never match"),
    (&["unix:uid:1", "unix:path:/a", "unix:path:/b"], "can never match"),
    (&["unix:uid:01"], "without leading zeros"),
    (&["unix:uid:4294967296"], "up to 4294967295"),
    (&["unix:uid:1", "unix:path:/usr/../bin/web"], "absolute path"),
    (&["unix:user:root"], "unknown kind"),
];

#[tokio::test(flavor = "multi_thread")]
async fn selectors_that_prove_nothing_are_refused_at_the_socket_and_in_files() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let file = ca.beside("entries.toml");
    for (selectors, why) in BAD {
        // One bad entry refuses the whole set.
        let set = vec![entry("good", &["unix:uid:7"]), entry("bad", selectors)];
        let refused = apply(socket, set).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{selectors:?}: {refused:?}");
        for part in ["entry bad: selectors", why] {
            assert!(refused.message().contains(part), "{selectors:?}: {refused:?}");
        }
        let text = format!(
            "[[entry]]\nname = \"bad\"\nspiffe_id = \"spiffe://dev.test/web\"\nagents = \
             [\"spiffe://dev.test/mintage/agent/n1\"]\nselectors = {selectors:?}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary("mintage"));
        command
            .arg("--socket")
            .arg(socket)
            .args(["entry", "apply", "-f"])
            .arg(&file);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("entries.toml:5: ") && told.contains(why),
            "{selectors:?}: {told}"
        );
    }
    let listed = registry(socket).await.list_entries(ListEntriesRequest::default()).await;
    assert!(listed.unwrap().into_inner().entries.is_empty());
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_entries_that_give_one_workload_the_same_identity_are_refused_whatever_their_lifetimes() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let selectors = ["unix:uid:1", "unix:gid:2"];
    apply(socket, vec![entry("first", &selectors)]).await.unwrap();
    let longer = Entry {
        ttl_seconds: 3600,
        ..entry("longer", &selectors)
    };
    let other_order = Entry {
        agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
        ..entry("everywhere", &["unix:gid:2", "unix:uid:1"])
    };
    for second in [entry("same", &selectors), longer.clone(), other_order] {
        // Beside what stands, and within one set of a CA that has neither.
        let refused = apply(socket, vec![second.clone()]).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{second:?}: {refused:?}");
        for name in ["first", second.name.as_str()] {
            assert!(refused.message().contains(name), "{second:?}: {refused:?}");
        }
        let twin = |entry: &Entry, name: &str| Entry {
            name: name.to_owned(),
            spiffe_id: "spiffe://dev.test/twin".to_owned(),
            ..entry.clone()
        };
        let set = vec![twin(&second, "one"), twin(&longer, "two")];
        assert_eq!(apply(socket, set).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    // Other agents, other selectors or another identity make another entry.
    let elsewhere = Entry {
        agents: vec!["spiffe://dev.test/mintage/agent/n2".to_owned()],
        ..entry("elsewhere", &selectors)
    };
    let as_well = Entry {
        spiffe_id: "spiffe://dev.test/as-well".to_owned(),
        ..entry("as-well", &selectors)
    };
    let set = vec![elsewhere, entry("less", &["unix:uid:1"]), as_well];
    apply(socket, set).await.unwrap();
    let listed = registry(socket).await.list_entries(ListEntriesRequest::default()).await;
    let mut names: Vec<_> = listed
        .unwrap()
        .into_inner()
        .entries
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    assert_eq!(names, ["as-well", "elsewhere", "first", "less"]);
    ca.stop().await;
}
