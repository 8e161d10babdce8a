//! Outside programs that tests need: one table, looked up on `PATH`, installed where that is allowed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::failure::Failure;

/// One row of `peers.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    /// The program's name on `PATH`.
    pub(crate) command: String,
    /// The Debian package that brings it.
    pub(crate) apt: String,
    /// What tests use it for.
    pub(crate) why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    peer: Vec<Peer>,
}

/// The table, read from the file that the tests read too.
pub(crate) fn table() -> Result<Vec<Peer>, Failure> {
    let table: Table = toml::from_str(include_str!("../peers.toml"))
        .map_err(|error| Failure::new("crates/xtask/peers.toml", error))?;
    Ok(table.peer)
}

/// The rows whose program is not on `PATH`.
pub(crate) fn missing() -> Result<Vec<Peer>, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    Ok(table()?
        .into_iter()
        .filter(|peer| !folders.iter().any(|folder| runnable(&folder.join(&peer.command))))
        .collect())
}

/// Whether the continuous-integration rules hold: what is missing is installed, and what stays missing fails.
pub(crate) fn strict() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Names the file in which tests write what they had to do without: what a test that passes prints is not seen.
pub(crate) const DONE_WITHOUT: &str = "MINTAGE_DONE_WITHOUT";

/// Removes what an earlier run left.
pub(crate) fn begin_done_without(file: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::new(file.display(), error)),
        _ => Ok(()),
    }
}

/// What tests have written there, each line once.
pub(crate) fn done_without(file: &Path) -> Result<BTreeSet<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Failure::new(file.display(), error)),
    }
}

/// Installs the packages of `wanted` through apt-get when the caller may; says so otherwise.
pub(crate) fn install(wanted: &[Peer]) -> Result<(), Failure> {
    if wanted.is_empty() {
        return Ok(());
    }
    if !is_root() {
        println!("not root: missing peers are not installed");
        return Ok(());
    }
    let mut packages: Vec<&str> = wanted.iter().map(|peer| peer.apt.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    println!("installing {}", packages.join(" "));
    apt_get(&["update", "--quiet"])?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<(), Failure> {
    let doing = || format!("apt-get {}", arguments.join(" "));
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .map_err(|error| Failure::new(doing(), error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(doing(), status))
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own entry in /proc is the effective user, without a system call wrapper of our own.
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn runnable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_and_names_each_program_once() {
        let mut commands: Vec<String> = table().unwrap().into_iter().map(|peer| peer.command).collect();
        let all = commands.len();
        commands.sort();
        commands.dedup();
        assert_eq!(commands.len(), all, "a program stands in peers.toml twice");
        assert!(all > 0);
    }

    #[test]
    fn what_tests_did_without_is_told_once_and_a_new_run_begins_with_nothing() {
        let file = std::env::temp_dir().join(format!("mintage-done-without-{}", std::process::id()));
        begin_done_without(&file).unwrap();
        assert!(done_without(&file).unwrap().is_empty());
        std::fs::write(&file, "go: none\nenvoy: none\ngo: none\n").unwrap();
        let told: Vec<String> = done_without(&file).unwrap().into_iter().collect();
        assert_eq!(told, ["envoy: none", "go: none"]);
        begin_done_without(&file).unwrap();
        assert!(done_without(&file).unwrap().is_empty());
    }

    #[test]
    fn a_folder_or_a_plain_file_is_no_program() {
        assert!(!runnable(Path::new("/")));
        assert!(!runnable(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))));
        assert!(runnable(Path::new("/bin/sh")));
    }
}
