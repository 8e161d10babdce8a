//! The files an operator copies: units scored by systemd itself, container files that name real binaries.

use std::path::Path;
use std::process::Command;

/// Highest exposure the CA's unit may have, in tenths as `systemd-analyze` takes it.
pub const CA_EXPOSURE_MAX: u32 = 15;
/// Highest exposure of the agent's unit: it changes owners and looks at other users' processes.
pub const AGENT_EXPOSURE_MAX: u32 = 32;

/// Account files in which every owner and group that a sample names exists.
#[derive(Debug, Default)]
pub struct AccountFiles {
    /// In the form of passwd(5).
    pub passwd: String,
    /// In the form of group(5).
    pub group: String,
}

/// Made-up accounts for the names in an agent's sample: the machine that runs the tests need not have them.
pub fn accounts_named_in(sample: &str) -> AccountFiles {
    let mut files = AccountFiles::default();
    for (number, line) in (1000..).zip(sample.lines()) {
        let named = line.split_once('=').filter(|(_, value)| value.trim().starts_with('"'));
        let Some((key, name)) = named.and_then(|(key, value)| Some((key.trim(), value.split('"').nth(1)?))) else {
            continue;
        };
        match key {
            "owner" => files
                .passwd
                .push_str(&format!("{name}:x:{number}:{number}::/:/bin/false\n")),
            "group" => files.group.push_str(&format!("{name}:x:{number}:\n")),
            _ => {}
        }
    }
    files
}

/// Complaints of `systemd-analyze security` about one unit file: an exposure over the limit, or a line it cannot use.
///
/// # Errors
///
/// That the program cannot be run.
pub fn exposure(analyze: &Path, unit: &Path, tenths_max: u32) -> Result<Vec<String>, String> {
    let output = Command::new(analyze)
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={tenths_max}"))
        .arg(unit)
        .output()
        .map_err(|error| format!("{}: {error}", analyze.display()))?;
    let report = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    let mut complaints: Vec<String> = unit_faults(&told, unit);
    if !output.status.success() || !report.contains("Overall exposure level") {
        let open = report.lines().filter(|line| !line.starts_with('✓'));
        complaints.push(open.chain(told.lines()).collect::<Vec<_>>().join("\n"));
    }
    Ok(complaints)
}

/// What systemd said about lines of the unit file: an unknown key protects nothing.
fn unit_faults(told: &str, unit: &Path) -> Vec<String> {
    let name = unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lines = told.lines().filter(|line| line.contains(&format!("{name}:")));
    lines
        .filter(|line| line.contains("gnoring"))
        .map(str::to_owned)
        .collect()
}

/// Capabilities that a unit takes without a comment line of its own that says why.
pub fn unjustified_capabilities(unit: &str) -> Vec<String> {
    let taken = unit.lines().filter_map(|line| {
        line.strip_prefix("CapabilityBoundingSet=")
            .or_else(|| line.strip_prefix("AmbientCapabilities="))
    });
    let mut names: Vec<&str> = taken.flat_map(str::split_whitespace).collect();
    names.sort_unstable();
    names.dedup();
    let justified = |name: &&str| unit.lines().any(|line| line.starts_with(&format!("# {name}: ")));
    names
        .into_iter()
        .filter(|name| !justified(name))
        .map(|name| format!("{name} without a reason"))
        .collect()
}

/// Credentials that a unit hands over and that no source of its program names: nobody would read them.
pub fn unread_credentials<'a>(unit: &str, sources: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let given = unit.lines().filter_map(|line| {
        let rest = line
            .strip_prefix("LoadCredential=")
            .or_else(|| line.strip_prefix("LoadCredentialEncrypted="))?;
        rest.split(':').next()
    });
    let read = |name: &str| sources.clone().any(|text| text.contains(&format!("\"{name}\"")));
    given
        .filter(|name| !read(name))
        .map(|name| format!("nobody reads the credential {name}"))
        .collect()
}

/// Lines of a container file that copy anything but a binary of ours out of the release folder, or run as root.
pub fn container_faults(text: &str, binaries: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("COPY ")) {
        let sources = line
            .split_whitespace()
            .skip(1)
            .filter(|word| word.starts_with("target/"));
        for source in sources {
            let known = source
                .strip_prefix("target/release/")
                .is_some_and(|name| binaries.iter().any(|own| own == name));
            if !known {
                faults.push(format!("{source} is no release binary of ours"));
            }
        }
    }
    if !text.lines().any(|line| line.starts_with("COPY ")) {
        faults.push("nothing is copied".to_owned());
    }
    let users: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("USER "))
        .map(str::trim)
        .collect();
    match users.last() {
        None => faults.push("no USER line: the image runs as root".to_owned()),
        Some(user) if user.starts_with("root") || user.split(':').next() == Some("0") => {
            faults.push("the image runs as root".to_owned());
        }
        Some(_) => {}
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::peers;

    #[test]
    fn an_open_unit_is_over_the_limit() {
        let Some(analyze) = peers::peer("systemd-analyze") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("open.service");
        std::fs::write(&unit, "[Service]\nExecStart=/bin/true\nNoSuchKey=1\n").unwrap();
        let complaints = exposure(&analyze, &unit, AGENT_EXPOSURE_MAX).unwrap();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("NoSuchKey"), "{complaints:?}");
    }

    #[test]
    fn a_capability_without_a_reason_is_found() {
        let unit = "# CAP_CHOWN: files change owner.\nCapabilityBoundingSet=CAP_CHOWN CAP_KILL\nAmbientCapabilities=CAP_KILL\n";
        assert_eq!(unjustified_capabilities(unit), ["CAP_KILL without a reason"]);
        assert!(unjustified_capabilities("CapabilityBoundingSet=\n").is_empty());
    }

    #[test]
    fn accounts_are_made_for_the_names_of_a_sample() {
        let files = accounts_named_in(
            "owner = \"web\"  # who reads\n# owner = \"no\"\ngroup = \"tls\"\nmode = \"0600\"\nowner = 7\n",
        );
        assert_eq!(files.passwd, "web:x:1000:1000::/:/bin/false\n");
        assert_eq!(files.group, "tls:x:1002:\n");
    }

    #[test]
    fn a_credential_that_nobody_reads_is_found() {
        let unit = "LoadCredentialEncrypted=passphrase:/etc/p\nLoadCredential=join-token\n# LoadCredential=x\n";
        let sources = ["const CREDENTIAL: &str = \"passphrase\";", "join-token"];
        assert_eq!(
            unread_credentials(unit, sources.into_iter()),
            ["nobody reads the credential join-token"]
        );
    }

    #[test]
    fn a_container_that_copies_strangers_or_runs_as_root_is_found() {
        let own = ["mintage-ca".to_owned()];
        assert!(container_faults("COPY target/release/mintage-ca /usr/bin/\nUSER 65532:65532\n", &own).is_empty());
        assert_eq!(container_faults("COPY target/release/other /\nUSER 1\n", &own).len(), 1);
        assert_eq!(
            container_faults("COPY target/debug/mintage-ca /\nUSER 1\n", &own).len(),
            1
        );
        for user in ["", "USER root\n", "USER 0:0\n", "USER 1\nUSER root:root\n"] {
            assert_eq!(
                container_faults(&format!("COPY target/release/mintage-ca /\n{user}"), &own).len(),
                1,
                "{user}"
            );
        }
        assert_eq!(container_faults("USER 1\n", &own), ["nothing is copied"]);
    }
}
