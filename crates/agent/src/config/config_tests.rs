//! Wrong configurations, each told with its line, and the documented sample.

use std::{fs, os::unix::fs::PermissionsExt};

use mintage_revocation::FreshnessPolicy;

use super::*;

fn accounts() -> Accounts {
    Accounts::parse(
        "root:x:0:0::/root:/bin/sh\nnginx:x:101:102::/:/bin/false\npostgres:x:113:120::/:/bin/false\n",
        "nginx:x:102:\nssl-cert:x:105:\n",
    )
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("agent.toml"), text, None, &accounts()).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_documented_sample_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/agent.toml");
    let config = Config::load(Path::new(file), None, &accounts()).unwrap();
    assert_eq!(config.socket(), Some(Path::new(SOCKET_DEFAULT)));
    assert!(config.metrics().is_some_and(|address| address.ip().is_loopback()));
    assert!(!config.deliveries().is_empty());
    assert!(config.revocation_map().is_some() && config.bundle_map().is_some());
    assert_eq!(config.sds(), &Sds::default());
    assert_eq!(config.limits(), SocketLimits::default());
    let text = std::fs::read_to_string(file).unwrap();
    for limit in SocketLimit::ALL {
        let shown = format!("\n# {} = {}", limit.name(), SocketLimits::default().get(limit));
        assert!(text.contains(&shown), "{shown} is not in the sample");
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = parse("data_dir = '/d'\n[[delivery]]\nentry = 'web'\ndirectory = '/run/web'\n").unwrap();
    assert_eq!(config.socket(), Some(Path::new("/run/mintage/agent.sock")));
    let delivery = &config.deliveries()[0];
    assert_eq!((delivery.mode(), delivery.layout()), (0o600, Layout::Split));
    assert_eq!(delivery.owner(), mintage_sys::process::effective_uid());
    assert_eq!(parse("data_dir = '/d'\nsocket = 'off'\n").unwrap().socket(), None);
}

#[test]
fn lookups_refuse_unless_told_otherwise_and_know_their_words() {
    let of = |text: &str| parse(&format!("data_dir = '/d'\n[lookup]\n{text}")).unwrap().lookup();
    assert_eq!(of("").freshness, FreshnessPolicy::default());
    assert_eq!(of("").without_certificate, WithoutCertificate::Refuse);
    assert_eq!(of("freshness = 'strict'").freshness, FreshnessPolicy::Strict);
    assert_eq!(of("freshness = 'open'").freshness, FreshnessPolicy::Open);
    let principal = of("freshness = 'bounded'\nwithout_certificate = 'principal'");
    assert_eq!(principal.without_certificate, WithoutCertificate::Principal);
    assert_eq!(
        refusal("data_dir = '/d'\n[lookup]\nfreshness = 'never'\n"),
        "agent.toml:3: freshness \"never\" is none of \"strict\", \"bounded\" and \"open\""
    );
    assert_eq!(
        refusal("data_dir = '/d'\n[lookup]\nwithout_certificate = 'accept'\n"),
        "agent.toml:3: without_certificate \"accept\" is neither \"refuse\" nor \"principal\""
    );
}

#[test]
fn names_and_validator_of_sds_are_read_and_refused_with_their_line() {
    let of = |text: &str| parse(&format!("data_dir = '/d'\n[sds]\n{text}"));
    assert_eq!(of("").unwrap().sds(), &Sds::default());
    let config = of("svid_name = 'mine'\nvalidator = 'spiffe'\n").unwrap();
    let wanted = Sds::named("mine", "ROOTCA", "ALL").unwrap();
    assert_eq!(config.sds(), &wanted.with_validator(Validator::Spiffe));
    let said = of("bundle_name = 'x'\nvalidator = 'strict'\n").unwrap_err();
    assert_eq!(
        said,
        "agent.toml:4: validator \"strict\" is unknown; use [\"plain\", \"spiffe\"]"
    );
    assert!(
        of("\nsvid_name = 'spiffe://d/x'\n")
            .unwrap_err()
            .starts_with("agent.toml:4: SDS name")
    );
    let said = of("svid_name = 'ALL'\n").unwrap_err();
    assert_eq!(
        said,
        "agent.toml:3: the SDS name \"ALL\" stands for two things; use another"
    );
    assert!(
        of("svidname = 'a'\n")
            .unwrap_err()
            .contains("the nearest valid key is `svid_name`")
    );
}

#[test]
fn limits_of_the_socket_are_read_and_a_bad_one_is_told_with_its_line_and_range() {
    let of = |text: &str| parse(&format!("data_dir = '/d'\n[limits]\n{text}"));
    assert_eq!(of("").unwrap().limits(), SocketLimits::default());
    for (n, limit) in (5..).zip(SocketLimit::ALL) {
        let config = of(&format!("{} = {n}\n", limit.name())).unwrap();
        let wanted = SocketLimits::default().with(limit, n).unwrap();
        assert_eq!(config.limits(), wanted, "{limit:?}");
    }
    assert_eq!(
        of("connections = 9\nstreams = 65537\n").unwrap_err(),
        "agent.toml:4: limits.streams is 65537; use 1 to 65536"
    );
    assert!(
        of("unread_s = 0\n")
            .unwrap_err()
            .contains("limits.unread_s is 0; use 1 to 3600")
    );
    assert!(of("streams = -1\n").unwrap_err().starts_with("agent.toml:3: "));
    let said = of("stream_per_user = 7\n").unwrap_err();
    assert!(said.contains("the nearest valid key is `streams_per_user`"), "{said}");
}

#[test]
fn two_maps_have_two_paths() {
    let of = |path: &str| {
        parse(&format!(
            "data_dir = '/d'\n[revocation_map]\npath = '/r/m'\n[bundle_map]\npath = '{path}'\n"
        ))
    };
    assert_eq!(of("/r/b").unwrap().bundle_map(), Some(Path::new("/r/b")));
    assert!(of("r/b").unwrap_err().starts_with("agent.toml:5: bundle_map.path"));
    assert!(of("/r/m").unwrap_err().starts_with("agent.toml:5: bundle map \"/r/m\""));
    assert!(
        Config::new("/d")
            .with_revocation_map("/r/m")
            .unwrap()
            .with_bundle_map("/r/m")
            .is_err()
    );
}

#[test]
fn owner_brings_its_group_and_a_group_may_be_named() {
    let text = "data_dir = '/d'\n[[delivery]]\nentry = 'web'\ndirectory = '/run/web'\nowner = 'nginx'\n";
    let of = |more: &str| {
        let config = parse(&format!("{text}{more}")).unwrap();
        (config.deliveries()[0].owner(), config.deliveries()[0].group())
    };
    assert_eq!(of(""), (101, 102));
    assert_eq!(of("group = 'ssl-cert'\n"), (101, 105));
    assert_eq!(of("group = 7\n"), (101, 7));
}

#[test]
fn unknown_keys_are_refused_with_file_line_and_nearest_key() {
    assert_eq!(
        refusal("data_dir = '/d'\n\nsockt = '/s'\n"),
        "agent.toml:3: unknown key `sockt`; the nearest valid key is `socket`"
    );
    let nested = refusal("data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\nonwer = 'nginx'\n");
    assert_eq!(
        nested,
        "agent.toml:5: unknown key `onwer`; the nearest valid key is `owner`"
    );
    let map = refusal("data_dir = '/d'\n[revocation_map]\npaht = '/r'\n");
    assert_eq!(map, "agent.toml:3: unknown key `paht`; the nearest valid key is `path`");
}

#[test]
fn secrets_in_the_file_are_refused_without_repeating_them() {
    let said = refusal("data_dir = '/d'\njoin_token = 'mint1_topsecret'\n");
    assert!(
        said.contains("--join-token-file") && !said.contains("topsecret"),
        "{said}"
    );
}

#[test]
fn wrong_types_duplicates_and_tabs_are_told_with_their_line() {
    assert!(refusal("data_dir = 5\n").starts_with("agent.toml:1: "));
    assert!(refusal("data_dir = '/d'\ndata_dir = '/e'\n").starts_with("agent.toml:2: duplicate key"));
    assert!(refusal("data_dir = '/d'\n\tsocket = \n").starts_with("agent.toml:2: "));
    assert!(parse("\tdata_dir = '/d'\n").is_ok(), "a tab is white space");
    assert!(refusal("socket = '/s'\n").contains("--data-dir"));
    assert!(refusal("data_dir = '/d'\n[[delivery]]\nentry = 'a'\n").contains("missing field `directory`"));
}

#[test]
fn bad_values_are_told_with_their_line_and_remedy() {
    for (line, part) in [
        ("metrics = '0.0.0.0:9000'", "not loopback"),
        ("metrics = 'localhost'", "127.0.0.1:PORT"),
        ("socket = 'agent.sock'", "absolute"),
        ("socket = '/run/../agent.sock'", "without . and .."),
        ("ca_addresses = ['ca.example.org']", "host:port"),
        ("ca_addresses = ['ca.example.org:0']", "host:port"),
        ("ca_addresses = ['[::1:443']", "host:port"),
        ("ca_addresses = ['https://ca:443']", "host:port"),
    ] {
        let said = refusal(&format!("data_dir = '/d'\n{line}\n"));
        assert!(
            said.starts_with("agent.toml:2: ") && said.contains(part),
            "{line}: {said}"
        );
    }
    assert!(parse("data_dir = '/d'\nca_addresses = ['[::1]:443', 'ca_1.example.org:8443', '10.0.0.1:1']\n").is_ok());
}

#[test]
fn bad_deliveries_are_told_with_their_line_and_remedy() {
    for (line, part) in [
        ("mode = '0644'", "not for a private key"),
        ("mode = '0200'", "not for a private key"),
        ("mode = '04600'", "no octal mode"),
        ("mode = '+600'", "no octal mode"),
        ("mode = '800'", "no octal mode"),
        ("owner = 'ngnix'", "/etc/passwd"),
        ("owner = -1", "its name or its number"),
        ("group = 'tls'", "/etc/group"),
        ("layout = 'spilt'", "split, spiffe"),
    ] {
        let said = refusal(&format!(
            "data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\n{line}\n"
        ));
        assert!(
            said.starts_with("agent.toml:5: ") && said.contains(part),
            "{line}: {said}"
        );
    }
    assert!(refusal("data_dir = '/d'\n[[delivery]]\nentry = '../a'\ndirectory = '/r'\n").starts_with("agent.toml:3: "));
    assert!(refusal("data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/'\n").starts_with("agent.toml:4: "));
}

#[test]
fn hooks_are_read_with_their_window_and_the_proof_of_effect() {
    let config = parse(
        "data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\nhook_window = '02:00-04:00'\n\
         effect = { address = '127.0.0.1:5432', protocol = 'postgres', server_name = 'db.dev.test', within_s = 3 }\n\
         [[delivery.hook]]\nsignal = 'HUP'\npid_file = '/run/nginx.pid'\n\
         [[delivery.hook]]\nsystemd = 'restart'\nunit = 'x.service'\ntimeout_s = 60\n\
         [[delivery.hook]]\ncommand = ['/bin/true', 'a b']\nuser = 12\n\
         [[delivery.hook]]\nhaproxy = '/run/haproxy.sock'\n\
         [[delivery.hook]]\npostgres = '/run/postgresql'\nrole = 'reloader'\n\
         [[delivery.hook]]\nhttp = 'http://127.0.0.1:9090/-/reload'\n",
    )
    .unwrap();
    let delivery = &config.deliveries()[0];
    assert_eq!(delivery.window(), Some(Window::parse("02:00-04:00").unwrap()));
    let effect = delivery.effect().unwrap();
    assert_eq!(
        (effect.protocol, effect.within.as_secs()),
        (EffectProtocol::Postgres, 3)
    );
    let hooks = delivery.hooks();
    assert_eq!(hooks.len(), 6);
    assert_eq!(hooks[1].timeout.as_secs(), 60);
    assert!(matches!(
        &hooks[2].action,
        HookAction::Command {
            user: Some((12, _)),
            ..
        }
    ));
    assert!(matches!(&hooks[4].action, HookAction::Postgres { port: 5432, role, .. } if role == "reloader"));
    assert!(delivery.acts() && delivery.clone().with_hooks(vec![hooks[0].clone(); 9]).is_err());
}

#[test]
fn bad_hooks_are_told_with_their_line_and_remedy() {
    for (hook, part) in [
        (
            "timeout_s = 3",
            "exactly one of signal, systemd, command, haproxy, postgres, http",
        ),
        ("signal = 'HUP'\ncommand = ['/bin/true']", "this one has 2"),
        ("signal = 'HUP'", "needs pid_file or pid"),
        ("signal = 'HUP'\npid_file = '/p'\npid = 7", "not both"),
        ("signal = 'HUP'\npid = 0", "no process's number"),
        ("http = 'http://127.0.0.1:1/'\npid = 7", "pid does not go with http"),
        ("signal = 'HUP'\nunit = 'x.service'", "unit does not go with signal"),
        ("signal = 'KILL'\npid_file = '/p'", "HUP, USR1"),
        ("signal = 'HUP'\npid_file = 'p'", "absolute path"),
        ("systemd = 'stop'\nunit = 'x.service'", "neither reload nor restart"),
        ("systemd = 'reload'\nunit = 'x'", "nginx.service"),
        ("command = []", "empty"),
        ("command = ['nginx', '-s']", "absolute path"),
        ("command = ['/bin/true']\nuser = 'ngnix'", "/etc/passwd"),
        ("command = ['/bin/true']\ntimeout_s = 0", "1 to 300 seconds"),
        ("haproxy = '/s'\ncertificate = 'a;b'", "printable ASCII"),
        ("postgres = '/s'\nrole = 'a b'", "role \"a b\""),
        ("http = 'https://127.0.0.1:1/'", "http://127.0.0.1:PORT"),
        ("http = 'http://192.0.2.1:1/'", "without TLS"),
    ] {
        let said = refusal(&format!(
            "data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\n[[delivery.hook]]\n{hook}\n"
        ));
        assert!(
            said.starts_with("agent.toml:5: ") && said.contains(part),
            "{hook}: {said}"
        );
    }
    for (line, part) in [
        ("effect = { address = '127.0.0.1' }", "host:port"),
        (
            "effect = { address = 'a:1', protocol = 'ldap' }",
            "neither tls nor postgres",
        ),
        ("effect = { address = 'a:1', server_name = 'a b' }", "no DNS name"),
        ("hook_window = '2-4'", "02:00-04:30"),
    ] {
        let said = refusal(&format!(
            "data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\n{line}\n"
        ));
        assert!(
            said.starts_with("agent.toml:5: ") && said.contains(part),
            "{line}: {said}"
        );
    }
}

#[test]
fn stores_have_a_password_that_nobody_else_may_read_and_other_layouts_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let text = |layout: &str, password: &str| {
        format!("data_dir = '/d'\n[[delivery]]\nentry = 'a'\ndirectory = '/r'\nlayout = '{layout}'\n{password}")
    };
    let password = format!("password_file = {file:?}\n");
    let write = |content: &str, mode: u32| {
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("correct horse\n", 0o600);
    for layout in ["pkcs12", "jks"] {
        let config = parse(&text(layout, &password)).unwrap();
        let expected = StorePassword::parse("correct horse").unwrap();
        assert_eq!(config.deliveries()[0].password(), Some(&expected));
        assert!(!format!("{config:?}").contains("horse"));
        assert!(refusal(&text(layout, "")).contains("need password_file"));
    }
    let said = refusal(&text("split", &password));
    assert!(
        said.starts_with("agent.toml:4: ") && said.contains("pkcs12 and jks alone"),
        "{said}"
    );
    for (content, mode, part) in [
        ("short\n", 0o600, "6 to 128"),
        ("pässwörter\n", 0o600, "ASCII"),
        ("correct horse\n", 0o644, "0644"),
    ] {
        write(content, mode);
        let said = refusal(&text("jks", &password));
        assert!(said.starts_with("agent.toml:6: ") && said.contains(part), "{said}");
        assert!(!said.contains("horse") && !said.contains("short"), "{said}");
    }
    let delivery = Delivery::new(EntryName::parse("e").unwrap(), "/a").unwrap();
    let bare = delivery.with_layout(crate::Layout::Jks);
    assert!(Config::new("/d").with_deliveries(vec![bare]).is_err());
}

#[test]
fn two_deliveries_never_share_a_folder() {
    let two = |a: &str, b: &str| {
        format!(
            "data_dir = '/var/lib/agent'\n[[delivery]]\nentry = 'a'\ndirectory = '{a}'\n\
             [[delivery]]\nentry = 'b'\ndirectory = '{b}'\n"
        )
    };
    assert!(refusal(&two("/run/x", "/run/x")).contains("given twice"));
    assert!(refusal(&two("/run/x", "/run/x")).starts_with("agent.toml:7: "));
    assert!(refusal(&two("/run/x", "/run/x/y")).contains("lies within"));
    assert!(refusal(&two("/run/x/y/z", "/run/x")).contains("lies within"));
    assert!(refusal(&two("/run/x", "/var/lib/agent/out")).contains("overlap"));
    assert!(refusal(&two("/var/lib", "/run/x")).contains("overlap"));
    assert!(parse(&two("/run/x", "/run/xy")).is_ok());
}

#[test]
fn control_characters_of_the_file_never_reach_a_message() {
    let said = refusal("data_dir = '/d'\n\"sock\\u001b[31met\" = 1\n");
    assert!(!said.chars().any(char::is_control), "{said:?}");
}

#[test]
fn what_callers_are_served_is_kept_unless_the_file_says_otherwise() {
    let keeps = |text: &str| parse(&format!("data_dir = '/d'\n{text}")).map(|config| config.keeps_workloads());
    assert!(keeps("").unwrap() && keeps("[workload]").unwrap() && keeps("[workload]\nkeep = true").unwrap());
    assert!(!keeps("[workload]\nkeep = false").unwrap());
    assert!(keeps("[workload]\nkept = false").is_err());
    assert!(!Config::new("/d").with_kept_workloads(false).keeps_workloads());
}

#[test]
fn limits_hold_for_configurations_made_in_code() {
    let base = || Config::new("/d");
    assert!(base().with_metrics("192.0.2.1:80".parse().unwrap()).is_err());
    assert!(base().with_ca_addresses(vec!["a:1".to_owned(); 33]).is_err());
    assert!(base().with_revocation_map("map").is_err());
    let delivery = |dir: &str| Delivery::new(EntryName::parse("e").unwrap(), dir).unwrap();
    assert!(base().with_deliveries(vec![delivery("/a"), delivery("/a")]).is_err());
    let many = (0..=DELIVERIES_MAX).map(|n| delivery(&format!("/a{n}"))).collect();
    assert!(base().with_deliveries(many).is_err());
    assert!(Delivery::new(EntryName::parse("e").unwrap(), "relative").is_err());
    assert!(delivery("/a").with_mode(0o666).is_err());
}
