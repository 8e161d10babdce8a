//! The real programs, built once per test run, in the folder and profile of the running test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The programs that tests run.
pub const BINARIES: [&str; 5] = [
    "mintage-ca",
    "mintage-agent",
    "mintage",
    "mintage-fuzz",
    "mintage-xtask",
];

/// The folder in which whoever started the tests has already built every program; nothing is built then.
pub const BIN_DIR: &str = "MINTAGE_BIN_DIR";

/// The path of one of [`BINARIES`], current with the sources.
///
/// Without [`BIN_DIR`] the first call of a process asks cargo for all of them; cargo knows what is stale and holds the
/// lock between test programs that ask at the same time.
///
/// # Panics
///
/// When `name` is not one of ours or cannot be built.
pub fn binary(name: &str) -> PathBuf {
    assert!(
        BINARIES.contains(&name),
        "no program named {name}; there are {BINARIES:?}"
    );
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os(BIN_DIR) {
        Some(folder) => folder.into(),
        None => build(),
    });
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run cargo build --workspace --bins",
        path.display()
    );
    path
}

/// Builds every program and returns their folder.
fn build() -> PathBuf {
    let folder = profile_folder(&std::env::current_exe().expect("a test knows its own path"));
    let target = folder.parent().expect("a profile's folder lies in the target folder");
    let profile = folder
        .file_name()
        .and_then(|name| name.to_str())
        .expect("profile names are plain");
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    // The whole workspace and no single package: features are then the same as for the tests, and nothing that the
    // tests have compiled is compiled again.
    cargo
        .args(["build", "--quiet", "--locked", "--workspace"])
        .arg("--target-dir")
        .arg(target);
    cargo.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
    for name in BINARIES {
        cargo.args(["--bin", name]);
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // Build scripts watch some of what cargo tells a test about its own package, and would run again for it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "cargo build of the programs: {status}");
    folder
}

/// `target/debug` of `target/debug/deps/name-hash`.
fn profile_folder(test: &Path) -> PathBuf {
    let folder = test.parent().expect("a program lies in a folder");
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    folder.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_folder_is_the_one_above_deps() {
        assert_eq!(
            profile_folder(Path::new("/t/debug/deps/layers-0a")),
            Path::new("/t/debug")
        );
        assert_eq!(profile_folder(Path::new("/t/release/load")), Path::new("/t/release"));
    }

    #[test]
    #[should_panic(expected = "no program named mintage-cs")]
    fn an_unknown_program_is_refused() {
        binary("mintage-cs");
    }
}
