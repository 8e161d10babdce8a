//! What a configuration may say, and the line that each refusal names.

use super::*;

fn refusal(text: &str) -> String {
    Config::parse(Path::new("ca.toml"), text).unwrap_err().to_string()
}

#[test]
fn the_sample_in_deploy_parses() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ca.toml");
    let config = Config::load(&file).unwrap();
    assert_eq!(config.trust_domain.unwrap().as_str(), "example.org");
}

#[test]
fn unknown_keys_are_refused_with_line_and_nearest_key() {
    let text = refusal("data_dir = \"/x\"\n\nlissten = \"0.0.0.0:1\"\n");
    assert!(text.contains("ca.toml:3") && text.contains("listen"), "{text}");
    let text = refusal("data_dir = \"/x\"\n[ca]\nmax_tll = \"1h\"\n");
    assert!(text.contains("ca.toml:3") && text.contains("max_ttl"), "{text}");
}

#[test]
fn wrong_types_duplicates_and_ranges_are_refused_with_their_line() {
    for (text, line, word) in [
        ("data_dir = 3\n", 1, "string"),
        ("data_dir = \"/x\"\ndata_dir = \"/y\"\n", 2, "duplicate"),
        ("data_dir = \"/x\"\n[ca]\nmax_ttl = \"0s\"\n", 3, "range"),
        ("data_dir = \"/x\"\n[ca]\nmax_ttl = \"99999999h\"\n", 3, "range"),
        ("data_dir = \"/x\"\n[ca]\nmax_ttl = 600\n", 3, "string"),
        ("data_dir = \"/x\"\nmetrics = \"0.0.0.0:9100\"\n", 2, "loopback"),
        ("data_dir = \"/x\"\nlisten = \"nowhere\"\n", 2, "address"),
        ("data_dir = \"/x\"\nadvertise = []\n", 2, "advertise"),
        ("data_dir = \"/x\"\n[ca]\nchain = \"leaf\"\n", 3, "intermediate"),
        ("data_dir = \"/x\"\n[ledger]\nshards = \"daily\"\n", 3, "monthly"),
        ("data_dir = \"/x\"\n[ledger]\nretain = \"1h\"\n", 3, "forever"),
        ("data_dir = \"/x\"\ntrust_domain = \"Example.org\"\n", 2, "upper-case"),
        (
            "data_dir = \"/x\"\n[ledger]\ncheckpoint_interval = \"1ms\"\n",
            3,
            "range",
        ),
    ] {
        let told = refusal(text);
        assert!(
            told.contains(&format!("ca.toml:{line}")) && told.contains(word),
            "{text:?} -> {told}"
        );
    }
    assert!(refusal("").contains("data_dir is missing"));
}

#[test]
fn witnesses_are_read_and_refused_with_their_line() {
    let key = |name: &str| mintage_ledger::CosignerKey::new(name, [7; 32]).unwrap().to_string();
    let one = |url: &str, vkey: &str| format!("[[witness]]\nurl = \"{url}\"\nvkey = \"{vkey}\"\n");
    let head = "data_dir = \"/x\"\n";
    let good = one("http://w.example:9480", &key("w1"));
    let text = format!(
        "{head}[ledger]\nmax_unwitnessed = \"5s\"\n{good}{}",
        one("http://w2", &key("w2"))
    );
    let config = Config::parse(Path::new("ca.toml"), &text).unwrap();
    assert_eq!((config.witnesses.len(), config.max_unwitnessed.as_secs()), (2, 5));
    assert_eq!(
        Config::for_data_dir("/x").differences_that_need_a_restart(&config),
        ["data_dir", "ledger.max_unwitnessed", "witness"][1..]
    );
    for (more, line, word) in [
        (one("https://w.example", &key("w1")), 3, "http://"),
        (one("http://w.example", "w1+00000000+AAAA"), 4, "witness.vkey"),
        (one("http://w.example", &key("w\u{e4}")), 4, "plain ASCII"),
        (format!("{good}{good}"), 7, "listed twice"),
        (format!("{good}key = \"x\"\n"), 5, "unknown"),
        ("[[witness]]\nurl = \"http://w.example\"\n".to_owned(), 2, "vkey"),
        ("[ledger]\nmax_unwitnessed = \"10ms\"\n".to_owned(), 3, "range"),
        (
            (0..17).map(|n| one("http://w", &key(&format!("w{n}")))).collect(),
            52,
            "at most 16",
        ),
    ] {
        let told = refusal(&format!("{head}{more}"));
        assert!(
            told.contains(&format!("ca.toml:{line}")) && told.contains(word),
            "{more:?} -> {told}"
        );
    }
}

#[test]
fn auditors_are_read_and_refused_with_their_line() {
    let audit =
        |listen: &str, ids: &str| format!("data_dir = \"/x\"\n[audit]\nlisten = \"{listen}\"\nauditors = [{ids}]\n");
    let one = "\"spiffe://example.org/audit/one\"";
    let config = Config::parse(Path::new("ca.toml"), &audit("0.0.0.0:8444", one)).unwrap();
    assert_eq!(config.audit.as_ref().unwrap().listen.port(), 8444);
    assert_eq!(
        Config::for_data_dir("/x").differences_that_need_a_restart(&config),
        ["audit"]
    );
    for (text, line, word) in [
        (audit("8444", one), 3, "audit.listen"),
        (audit("0.0.0.0:8444", ""), 4, "names nobody"),
        (audit("0.0.0.0:8444", &format!("{one}, {one}")), 4, "twice"),
        (
            audit("0.0.0.0:8444", "\"spiffe://example.org/mintage/agent/a\""),
            4,
            "audit.auditors",
        ),
        (audit("0.0.0.0:8444", "\"https://example.org\""), 4, "spiffe://"),
        (
            "data_dir = \"/x\"\n[audit]\nlisten = \"0.0.0.0:8444\"\n".to_owned(),
            2,
            "auditors",
        ),
        (format!("{}keep = 1\n", audit("0.0.0.0:8444", one)), 5, "unknown"),
    ] {
        let told = refusal(&text);
        assert!(
            told.contains(&format!("ca.toml:{line}")) && told.contains(word),
            "{text:?} -> {told}"
        );
    }
}

#[test]
fn public_addresses_are_read_and_refused_with_their_line() {
    let public = |lines: &str| format!("data_dir = \"/x\"\n[public]\n{lines}");
    let both = public("https = \"0.0.0.0:8445\"\nhttp = \"0.0.0.0:8080\"\n");
    let config = Config::parse(Path::new("ca.toml"), &both).unwrap();
    let ports = [config.public.https, config.public.http].map(|face| face.unwrap().port());
    assert_eq!(ports, [8445, 8080]);
    assert_eq!(
        Config::for_data_dir("/x").differences_that_need_a_restart(&config),
        ["public"]
    );
    for (lines, at, word) in [
        ("", "ca.toml", "name an address"),
        ("http = \"8080\"\n", "ca.toml:3", "public.http"),
        ("https = \"nowhere\"\n", "ca.toml:3", "public.https"),
        ("port = 1\n", "ca.toml:3", "unknown"),
    ] {
        let told = refusal(&public(lines));
        assert!(told.contains(at) && told.contains(word), "{lines:?} -> {told}");
    }
}

#[test]
fn a_reload_names_what_it_cannot_take_over() {
    let one = Config::for_data_dir("/x");
    let mut two = one.clone();
    two.policy.max_ttl = Ttl::DEFAULT;
    assert!(one.differences_that_need_a_restart(&two).is_empty());
    two.listen = "127.0.0.1:1".parse().unwrap();
    assert_eq!(one.differences_that_need_a_restart(&two), ["listen"]);
}
