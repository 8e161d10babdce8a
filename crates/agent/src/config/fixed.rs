//! What a running agent does not take from its file anew.

use super::Config;

impl Config {
    /// The keys whose values differ from those of the `running` configuration and are only read at the start.
    pub fn fixed_changes(&self, running: &Self) -> Vec<&'static str> {
        // Every field by name, so that a new one has to be decided on.
        let Self {
            data_dir,
            socket,
            metrics,
            ca_addresses,
            revocation_map,
            lookup,
            bundle_map,
            sds,
            limits,
            keep,
            deliveries: _,
        } = self;
        let fixed = [
            ("data_dir", *data_dir != running.data_dir),
            ("socket", *socket != running.socket),
            ("metrics", *metrics != running.metrics),
            ("ca_addresses", *ca_addresses != running.ca_addresses),
            ("revocation_map", *revocation_map != running.revocation_map),
            ("lookup", *lookup != running.lookup),
            ("bundle_map", *bundle_map != running.bundle_map),
            ("sds", *sds != running.sds),
            ("limits", *limits != running.limits),
            ("workload", *keep != running.keep),
        ];
        fixed
            .iter()
            .filter(|(_, changed)| *changed)
            .map(|(key, _)| *key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::config::Accounts;

    /// Every key but those of deliveries, by its section, with another value than the default.
    const CHANGES: [(&str, &str, &str); 21] = [
        ("", "data_dir", "'/e'"),
        ("", "socket", "'off'"),
        ("", "metrics", "'127.0.0.1:1'"),
        ("", "ca_addresses", "['ca:1']"),
        ("revocation_map", "path", "'/r'"),
        ("lookup", "freshness", "'strict'"),
        ("lookup", "without_certificate", "'principal'"),
        ("bundle_map", "path", "'/b'"),
        ("sds", "svid_name", "'mine'"),
        ("sds", "bundle_name", "'roots'"),
        ("sds", "all_bundles_name", "'all'"),
        ("sds", "validator", "'spiffe'"),
        ("limits", "connections", "7"),
        ("limits", "connections_per_user", "7"),
        ("limits", "streams", "7"),
        ("limits", "streams_per_user", "7"),
        ("limits", "streams_per_connection", "7"),
        ("limits", "identities", "7"),
        ("limits", "unread_s", "7"),
        ("workload", "keep", "false"),
        ("delivery", "", ""),
    ];

    fn parse(text: &str) -> Result<Config, String> {
        let parsed = Config::parse(
            Path::new("agent.toml"),
            text,
            Some(Path::new("/d")),
            &Accounts::default(),
        );
        parsed.map_err(|error| error.to_string())
    }

    fn header(section: &str) -> String {
        match section {
            "" => String::new(),
            section => format!("[{section}]\n"),
        }
    }

    /// The keys that the reader itself says there are.
    fn valid_keys(section: &str) -> BTreeSet<String> {
        let said = parse(&format!("{}quitesomethingelse = 1\n", header(section))).unwrap_err();
        let (_, keys) = said.split_once("valid keys are ").expect(&said);
        keys.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn every_key_of_the_file_is_taken_over_by_a_reload_or_named_as_one_that_is_not() {
        let running = Config::new("/d");
        assert!(parse("").unwrap().fixed_changes(&running).is_empty());
        for (section, key, value) in CHANGES.iter().filter(|(section, ..)| *section != "delivery") {
            let changed = match *key {
                // The command line's stands in for the file's above.
                "data_dir" => Config::new("/e"),
                key => parse(&format!("{}{key} = {value}\n", header(section))).unwrap(),
            };
            let named = if section.is_empty() { key } else { section };
            assert_eq!(changed.fixed_changes(&running), [*named], "{section}.{key}");
        }
        let delivered = parse("[[delivery]]\nentry = 'web'\ndirectory = '/run/web'\n").unwrap();
        assert!(
            delivered.fixed_changes(&running).is_empty(),
            "deliveries are taken over"
        );
    }

    #[test]
    fn the_keys_above_are_all_that_the_file_may_have() {
        let listed = |section: &str| -> BTreeSet<String> {
            let of = CHANGES.iter().filter(|(of, ..)| *of == section);
            of.map(|(_, key, _)| (*key).to_owned()).collect()
        };
        let sections: BTreeSet<&str> = CHANGES.iter().map(|(section, ..)| *section).collect();
        let mut outermost = listed("");
        outermost.extend(
            sections
                .iter()
                .filter(|name| !name.is_empty())
                .map(|name| (*name).to_owned()),
        );
        assert_eq!(outermost, valid_keys(""));
        for section in sections.iter().filter(|name| !["", "delivery"].contains(*name)) {
            assert_eq!(listed(section), valid_keys(section), "[{section}]");
        }
    }
}
