//! Modules that nobody here wrote, at the versions that a lock file in `tests/interop` gives, from the usual registries
//! through the usual tools, and kept between runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    peers::peer,
    verifiers::{ready, sources},
};

/// Maven's goal that puts artefacts into a folder, at one version.
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The modules of Node that `tests/interop/<of>/package-lock.json` lists; none where they are not to be had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn node_modules(scratch: &Path, of: &str, what: &str) -> Option<PathBuf> {
    peer("node")?;
    let npm = peer("npm")?;
    let folder = kept(scratch, of, "package-lock.json", |folder| {
        let listed = "package.json";
        fs::copy(sources(of).join(listed), folder.join(listed)).expect("the list is copied");
        let mut install = Command::new(npm);
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(folder);
        ready(install, what)
    })?;
    Some(folder.join("node_modules"))
}

/// The class path of what `tests/interop/<of>/pom.xml` needs; none where it is not to be had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn class_path(scratch: &Path, of: &str, what: &str) -> Option<PathBuf> {
    let maven = peer("mvn")?;
    let folder = kept(scratch, of, "pom.xml", |folder| {
        let mut copy = Command::new(maven);
        copy.args(["--batch-mode", "--quiet", MAVEN_COPY, "-DoutputDirectory=lib"])
            .current_dir(folder);
        ready(copy, what)
    })?;
    Some(folder.join("lib/*"))
}

/// The program of the package in `tests/interop/<of>`, which has a graph of its own, built beside our own programs; none where
/// a crate is not to be had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn build_cargo(scratch: &Path, of: &str, program: &str) -> Option<PathBuf> {
    let target = scratch.join("cargo");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(sources(of).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    ready(build, program)?;
    Some(target.join("debug").join(program))
}

/// A folder in `scratch` that `fill` has filled for exactly this list of `tests/interop/<of>`, which lies in it under its own
/// name while that runs.
fn kept(scratch: &Path, of: &str, list: &str, fill: impl FnOnce(&Path) -> Option<()>) -> Option<PathBuf> {
    let folder = scratch.join(of);
    let wanted = fs::read(sources(of).join(list)).expect("the list");
    // Written last, so a folder that was never finished, or is of another list, is made again.
    let done = folder.join("installed");
    if fs::read(&done).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(list), &wanted).expect("the list is copied");
        fill(&folder)?;
        fs::write(&done, wanted).expect("the list of what is installed");
    }
    Some(folder)
}
