//! Outside programs that tests use; `crates/xtask/peers.toml` lists them all.

use std::path::PathBuf;

pub use super::missing::missing;

/// The table that `cargo xtask test` installs from and reports.
const TABLE: &str = include_str!("../../../crates/xtask/peers.toml");

/// The path of an outside program, or none where it is not installed: the test then ends early, and `cargo xtask test`
/// names the program at its end.
///
/// # Panics
///
/// When the program has no row in the table, and when it is missing although `CI=true`.
pub fn peer(command: &str) -> Option<PathBuf> {
    assert!(listed(command), "{command} has no row in crates/xtask/peers.toml");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(command))
        .find(|path| path.is_file());
    found.or_else(|| missing(command, "it is not installed"))
}

/// Whether this is root. Where it is not, the part of the test that needs it ends, and is named as what is missing.
///
/// # Panics
///
/// As [`missing`].
pub fn root(why: &str) -> bool {
    rustix::process::geteuid().is_root() || missing::<()>("root", why).is_some()
}

fn listed(command: &str) -> bool {
    let table: toml::Table = TABLE.parse().expect("peers.toml reads");
    let rows = table
        .get("peer")
        .and_then(toml::Value::as_array)
        .expect("peers.toml has rows");
    rows.iter()
        .any(|row| row.get("command").and_then(toml::Value::as_str) == Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "has no row")]
    fn a_program_without_a_row_is_refused() {
        peer("sh");
    }

    #[test]
    fn a_listed_program_is_found_by_its_name() {
        assert!(listed("openssl") && !listed("OpenSSL"));
    }
}
