//! Each check on a bad example: a check that cannot fail holds nothing.

use super::super::house::{Edge, Package};
use super::*;

fn ours(folder: &str, normal: &[&str], dev: &[&str]) -> Crate {
    let edge = |to: &&str, dev| Edge {
        to: Target::Ours((*to).to_owned()),
        dev,
    };
    let edges = normal
        .iter()
        .map(|to| edge(to, false))
        .chain(dev.iter().map(|to| edge(to, true)))
        .collect();
    Crate {
        folder: folder.to_owned(),
        directory: format!("crates/{folder}").into(),
        edges,
    }
}

fn house(crates: &[Crate]) -> House {
    House {
        crates: crates.to_vec(),
        packages: Vec::new(),
    }
}

#[test]
fn an_import_outside_the_row_is_named() {
    assert_eq!(
        imports(&house(&[ours("svid", &["identity", "mint"], &["ledger"])])),
        ["svid -> mint: not in svid's row"]
    );
    assert!(imports(&house(&[ours("svid", &["identity"], &["mint"])])).is_empty());
}

#[test]
fn an_unknown_crate_and_a_lost_one_are_named() {
    let mut crates: Vec<Crate> = ROOMS.iter().map(|room| ours(room.folder, &[], &[])).collect();
    assert!(rooms(&house(&crates)).is_empty());
    crates.push(ours("shed", &[], &[]));
    crates.retain(|found| found.folder != "svid");
    let broken = rooms(&house(&crates));
    assert_eq!(
        broken,
        [
            "the table has a row for svid, which does not exist",
            "shed has no row in the table"
        ]
    );
}

#[test]
fn a_crate_in_a_folder_of_another_name_is_named() {
    let mut moved = ours("svid", &[], &[]);
    moved.directory = "crates/documents".into();
    assert!(rooms(&house(&[moved])).contains(&"svid lies in crates/documents".to_owned()));
}

#[test]
fn an_agent_that_tests_with_the_mint_is_named() {
    let broken = never(&house(&[ours("agent", &[], &["mint"])]));
    assert_eq!(broken, ["agent -> mint: a node can never sign"]);
}

#[test]
fn a_way_round_through_another_crate_is_named() {
    let broken = never(&house(&[
        ours("verifier", &["svid"], &[]),
        ours("svid", &["proto"], &[]),
        ours("proto", &[], &[]),
    ]));
    assert_eq!(
        broken,
        ["verifier -> svid -> proto: nothing on a handshake path opens a socket"]
    );
}

#[test]
fn only_three_crates_may_import_the_ca() {
    let broken = never(&house(&[ours("certs-dev", &[], &["ca"]), ours("cli", &["ca"], &[])]));
    assert_eq!(broken, ["certs-dev -> ca: only cli, tests, benches may"]);
}

#[test]
fn an_outside_crate_away_from_home_is_named() {
    let mut found = ours("svid", &[], &[]);
    found.edges.push(Edge {
        to: Target::Outside("rcgen".to_owned()),
        dev: true,
    });
    assert!(homes(&house(&[found.clone()])).is_empty());
    found.edges.push(Edge {
        to: Target::Outside("sled".to_owned()),
        dev: false,
    });
    assert_eq!(
        homes(&house(&[found])),
        ["svid -> sled: a database that can be thrown away has one owner"]
    );
}

#[test]
fn a_runtime_that_comes_in_through_others_is_named_with_its_way() {
    let outside = |to: &str, dev| Edge {
        to: Target::Outside(to.to_owned()),
        dev,
    };
    let package = |name: &str, dependents: &[&str]| Package {
        name: name.to_owned(),
        version: semver::Version::new(1, 0, 0),
        license: None,
        source: None,
        dependents: dependents.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut revocation = ours("revocation", &["sys"], &[]);
    revocation.edges.push(outside("tokio", true));
    let mut sys = ours("sys", &[], &[]);
    let mut house = house(&[revocation, sys.clone()]);
    house.packages = vec![package("waiter", &["mintage-sys"]), package("tokio", &["waiter"])];
    assert!(without(&house).is_empty(), "tests may wait");
    sys.edges.push(outside("waiter", false));
    house.crates[1] = sys;
    let broken = without(&house);
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(
        broken[0].starts_with("revocation -> sys -> waiter -> tokio: "),
        "{broken:?}"
    );
}

#[test]
fn a_chain_too_deep_is_named() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let crates: Vec<Crate> = names
        .iter()
        .enumerate()
        .map(|(index, name)| ours(name, names.get(index + 1..index + 2).unwrap_or(&[]), &[]))
        .collect();
    assert_eq!(
        depth(&house(&crates)),
        ["6 edges deep: a -> b -> c -> d -> e -> f -> g"]
    );
    assert!(depth(&house(&crates[1..])).is_empty());
}

#[test]
fn a_manifest_without_the_lints_is_named() {
    assert!(manifest_forbids("svid", "[package]\nname = \"mintage-svid\"\n").is_some());
    assert!(manifest_forbids("svid", "[lints]\nworkspace = false\n").is_some());
    assert!(manifest_forbids("svid", "[lints]\nworkspace = true\n").is_none());
}

#[test]
fn the_keyword_is_found_in_code_and_only_there() {
    assert_eq!(
        unsafe_lines("// unsafe\nlet text = \"unsafe\";\nlet unsafe_code = 1;\n unsafe { read() }\n"),
        [4]
    );
}

#[test]
fn a_workspace_that_only_warns_of_it_is_named() {
    let manifest = |level: &str| {
        File::new(
            "Cargo.toml",
            format!("[workspace.lints.rust]\nunsafe_code = \"{level}\"\n"),
        )
    };
    assert_eq!(unsafe_code(&House::default(), &[manifest("warn")]).len(), 1);
    assert!(unsafe_code(&House::default(), &[manifest("forbid")]).is_empty());
}

#[test]
fn a_source_that_uses_it_is_named_but_in_its_rooms() {
    let tree = [
        File::new("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"),
        File::new("crates/svid/Cargo.toml", "[lints]\nworkspace = true\n"),
        File::new("crates/svid/src/lib.rs", "fn a() { unsafe { b() } }"),
        File::new("crates/sys/src/lib.rs", "fn a() { unsafe { b() } }"),
    ];
    let broken = unsafe_code(&house(&[ours("svid", &[], &[]), ours("sys", &[], &[])]), &tree);
    assert_eq!(broken, ["crates/svid/src/lib.rs:1: unsafe"]);
}
