//! House rules held against the tree: form, words, clocks, links, generated code, and the files in `deploy/`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use mintage_tests::kit::{bins, peers};
use mintage_tests::layers::house::workspace_root;
use mintage_tests::tidy::tree::{self, File};
use mintage_tests::tidy::{deploy, docs, source, words};

static TREE: LazyLock<Vec<File>> = LazyLock::new(|| tree::files(&workspace_root()));

#[track_caller]
fn none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(TREE.len() > 50, "the tree was not read");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn deployed(name: &str) -> String {
    let path = Path::new("deploy").join(name);
    TREE.iter()
        .find(|file| file.path == path)
        .map(|file| file.text.clone())
        .unwrap_or_default()
}

#[test]
fn generated_code_matches_its_source() {
    let output = Command::new(bins::binary("mintage-xtask"))
        .args(["proto", "--check"])
        .env("CARGO_MANIFEST_DIR", workspace_root().join("crates/xtask"))
        .output()
        .expect("xtask runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_file_is_too_long() {
    none(source::shaped(&TREE).into_iter().filter_map(source::too_long));
}

#[test]
fn no_test_is_passed_over_in_silence() {
    none(TREE.iter().filter(|file| file.is_rust()).flat_map(source::silent_skips));
}

#[test]
fn half_of_the_files_are_short() {
    let median = source::median_lines(&source::shaped(&TREE)).expect("there are files");
    println!(
        "median length: {median} lines over {} files",
        source::shaped(&TREE).len()
    );
    assert!(median <= source::LINES_MEDIAN_MAX, "the median file has {median} lines");
}

#[test]
fn every_file_begins_by_telling_its_idea() {
    none(source::shaped(&TREE).into_iter().filter_map(source::headless));
}

#[test]
fn module_names_say_what_is_inside() {
    none(source::shaped(&TREE).into_iter().flat_map(source::empty_names));
}

#[test]
fn pure_crates_read_no_clock() {
    none(source::clocks(&TREE));
}

#[test]
fn no_work_is_left_for_later() {
    none(TREE.iter().flat_map(words::unfinished));
}

#[test]
fn every_test_runs() {
    none(TREE.iter().flat_map(words::never_run));
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    none(TREE.iter().flat_map(words::machine_paths));
}

#[test]
fn links_in_documents_lead_somewhere() {
    let documents = TREE
        .iter()
        .filter(|file| file.path.extension().is_some_and(|extension| extension == "md"));
    none(documents.flat_map(|file| docs::dead_links(file, &TREE)));
}

#[test]
fn every_deployed_file_is_listed() {
    none(docs::unlisted(Path::new("deploy"), &TREE));
}

#[test]
fn the_code_map_names_every_crate() {
    let readme = TREE
        .iter()
        .find(|file| file.path == Path::new("README.md"))
        .expect("README.md is there");
    let folders: BTreeSet<String> = docs::crate_folders(&TREE);
    assert!(folders.len() > 10, "the crates were not found");
    none(docs::unmapped(&readme.text, &folders));
}

#[test]
fn the_ci_entry_is_an_executable_script() {
    let path = workspace_root().join(".ci/run");
    let mode = std::fs::metadata(&path).expect(".ci/run is there").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, ".ci/run is not executable");
    let text = std::fs::read_to_string(path).expect(".ci/run reads");
    assert!(text.starts_with("#!/usr/bin/env bash\n") && text.contains("set -euo pipefail"));
}

#[test]
fn every_sample_configuration_is_read_by_its_program() {
    let samples = TREE
        .iter()
        .filter(|file| file.path.starts_with("deploy") && file.path.extension().is_some_and(|end| end == "toml"));
    none(samples.filter_map(|file| {
        let path = workspace_root().join(&file.path);
        let read = match file.path.file_name().and_then(|name| name.to_str()) {
            Some("ca.toml") => mintage_ca::Config::load(&path)
                .map(drop)
                .map_err(|error| error.to_string()),
            Some("agent.toml") => {
                let accounts = deploy::accounts_named_in(&file.text);
                let accounts = mintage_agent::Accounts::parse(&accounts.passwd, &accounts.group);
                mintage_agent::Config::load(&path, None, &accounts)
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            _ => Err("no program is known to read it".to_owned()),
        };
        read.err().map(|fault| format!("{}: {fault}", file.path.display()))
    }));
}

/// The excerpt must be what the file begins with, its comments and empty lines aside.
#[test]
fn the_readme_shows_the_sample_configuration_as_it_is() {
    let readme = std::fs::read_to_string(workspace_root().join("README.md")).expect("README.md is there");
    let between = |text: &str| {
        let (_, rest) = text.split_once("<!-- ca-toml -->\n```toml\n")?;
        Some(rest.split_once("```\n<!-- /ca-toml -->")?.0.to_owned())
    };
    let shown = between(&readme).expect("README.md shows deploy/ca.toml between its markers");
    let sample = deployed("ca.toml");
    let said: Vec<&str> = sample
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let shown: Vec<&str> = shown.lines().collect();
    assert!(shown.len() >= 5, "{shown:?}");
    assert!(said.starts_with(&shown), "{shown:?} is not how {said:?} begins");
}

/// Each line shown is a line of the file, wherever it stands there.
#[test]
fn the_readme_shows_lines_of_the_sample_for_envoy() {
    let readme = std::fs::read_to_string(workspace_root().join("README.md")).expect("README.md is there");
    let shown = readme
        .split_once("<!-- envoy-yaml -->\n```yaml\n")
        .and_then(|(_, rest)| rest.split_once("```\n<!-- /envoy-yaml -->"));
    let (shown, _) = shown.expect("README.md shows deploy/envoy.yaml between its markers");
    assert!(shown.lines().count() >= 2, "{shown}");
    let sample = deployed("envoy.yaml");
    none(shown.lines().filter_map(|line| {
        let there = sample.lines().any(|other| other.trim() == line.trim());
        (!there).then(|| format!("{line:?} is no line of deploy/envoy.yaml"))
    }));
}

#[test]
fn the_units_are_closed() {
    for (unit, limit) in [
        ("mintage-ca.service", deploy::CA_EXPOSURE_MAX),
        ("mintage-agent.service", deploy::AGENT_EXPOSURE_MAX),
        // It needs no more than the CA.
        ("mintage-witness.service", deploy::CA_EXPOSURE_MAX),
    ] {
        none(
            deploy::unjustified_capabilities(&deployed(unit))
                .into_iter()
                .map(|fault| format!("{unit}: {fault}")),
        );
        let Some(analyze) = peers::peer("systemd-analyze") else {
            return;
        };
        let path = workspace_root().join("deploy").join(unit);
        none(deploy::exposure(&analyze, &path, limit).expect("systemd-analyze runs"));
    }
}

#[test]
fn every_credential_is_read_by_its_program() {
    for program in ["ca", "agent"] {
        let source = Path::new("crates").join(program).join("src");
        let sources = TREE
            .iter()
            .filter(|file| file.path.starts_with(&source))
            .map(|file| file.text.as_str());
        none(deploy::unread_credentials(
            &deployed(&format!("mintage-{program}.service")),
            sources,
        ));
    }
}

#[test]
fn the_agent_takes_its_token_from_a_credential() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("join-token");
    std::fs::write(&token, "mint1_broken").expect("a credential");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o440)).expect("a mode");
    let output = Command::new(bins::binary("mintage-agent"))
        .args(["run", "--data-dir"])
        .arg(folder.path().join("data"))
        .env("CREDENTIALS_DIRECTORY", folder.path())
        .output()
        .expect("the agent runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("join-token: "), "{told}");
    assert!(!told.contains("broken"), "the token is repeated: {told}");
}

#[test]
fn the_container_holds_our_programs_and_no_root() {
    let binaries: Vec<String> = bins::BINARIES.iter().map(|name| (*name).to_owned()).collect();
    none(deploy::container_faults(&deployed("Containerfile"), &binaries));
}
