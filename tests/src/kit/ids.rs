//! SPIFFE IDs at the edges of the standard (SPIFFE-ID, sections 2 to 2.3), one table for every door that reads one: a
//! verdict that differs between two doors is a way around the stricter of them.

use mintage_identity::limits::{SPIFFE_ID_BYTES_MAX, TRUST_DOMAIN_BYTES_MAX};

/// A name for the test's own messages, and the text.
pub type Named = (&'static str, String);

/// What is no SPIFFE ID: refused wherever one is read.
pub fn malformed() -> Vec<Named> {
    let mut all = Vec::new();
    for (what, id) in [
        ("nothing", ""),
        ("no scheme", "dev.test/web"),
        ("another scheme", "https://dev.test/web"),
        ("scheme with one slash", "spiffe:/dev.test/web"),
        ("upper-case scheme", "SPIFFE://dev.test/web"),
        ("scheme of mixed case", "Spiffe://dev.test/web"),
        ("no trust domain", "spiffe:///web"),
        ("upper-case trust domain", "spiffe://Dev.test/web"),
        ("international trust domain", "spiffe://d\u{e9}v.test/web"),
        ("Cyrillic look-alike in the trust domain", "spiffe://d\u{435}v.test/web"),
        ("encoded trust domain", "spiffe://dev%2etest/web"),
        ("IPv6 address", "spiffe://[::1]/web"),
        ("user", "spiffe://user@dev.test/web"),
        ("user and password", "spiffe://user:secret@dev.test/web"),
        ("port", "spiffe://dev.test:443/web"),
        ("query in place of a path", "spiffe://dev.test?web"),
        ("fragment in place of a path", "spiffe://dev.test#web"),
    ] {
        all.push((what, id.to_owned()));
    }
    for (what, path) in [
        ("slash alone", "/"),
        ("trailing slash", "/web/"),
        ("empty segment in front", "//web"),
        ("empty segment", "/a//web"),
        ("dot segment", "/./web"),
        ("two dots", "/../web"),
        ("dot at the end", "/web/."),
        ("two dots at the end", "/web/.."),
        ("encoded dots", "/%2e%2e/web"),
        ("encoded letter", "/%61"),
        ("encoded NUL", "/web%00"),
        ("NUL", "/web\0"),
        ("line feed", "/web\n"),
        ("carriage return", "/web\r"),
        ("blank", "/we b"),
        ("blank at the end", "/web "),
        ("tab", "/web\t"),
        ("DEL", "/web\u{7f}"),
        ("accent", "/w\u{e9}b"),
        ("combining accent", "/we\u{301}b"),
        ("Cyrillic look-alike", "/w\u{435}b"),
        ("right-to-left mark", "/\u{200f}web"),
        ("right-to-left override", "/\u{202e}bew"),
        ("invisible blank", "/we\u{200b}b"),
        ("full-width slash", "/a\u{ff0f}web"),
        ("backslash", "/a\\web"),
        ("query", "/web?x=1"),
        ("fragment", "/web#x"),
        ("colon", "/a:web"),
        ("asterisk", "/*"),
    ] {
        all.push((what, format!("spiffe://dev.test{path}")));
    }
    let domain = "a".repeat(TRUST_DOMAIN_BYTES_MAX + 1);
    all.push(("trust domain over the limit", format!("spiffe://{domain}/web")));
    all.push(("ID over the limit", of_length(SPIFFE_ID_BYTES_MAX + 1)));
    all
}

/// SPIFFE IDs, but none that an entry of `dev.test` may give.
pub fn not_for_entries() -> Vec<Named> {
    let all = [
        ("no path", "spiffe://dev.test"),
        ("another trust domain", "spiffe://other.test/web"),
        ("trust domain below this one", "spiffe://sub.dev.test/web"),
        ("trust domain that this one begins", "spiffe://dev.test.evil/web"),
        ("reserved path itself", "spiffe://dev.test/mintage"),
        ("an agent's", "spiffe://dev.test/mintage/agent/n1"),
        ("a CA replica's", "spiffe://dev.test/mintage/ca/ca-1"),
        ("unknown reserved one", "spiffe://dev.test/mintage/console"),
    ];
    all.map(|(what, id)| (what, id.to_owned())).to_vec()
}

/// SPIFFE IDs that an entry of `dev.test` may give, strange as some look.
pub fn good() -> Vec<Named> {
    let mut all = Vec::new();
    for (what, path) in [
        ("plain", "/shop/web"),
        ("every kind of character", "/aZ09.-_"),
        ("three dots", "/..."),
        ("hidden", "/.hidden"),
        ("like an option", "/-rf"),
        ("beginning like the reserved path", "/mintages/agent/n1"),
        ("reserved word further down", "/a/mintage/agent/n1"),
    ] {
        all.push((what, format!("spiffe://dev.test{path}")));
    }
    all.push(("segment of 255 bytes", format!("spiffe://dev.test/{}", "s".repeat(255))));
    all.push(("ID at the limit", of_length(SPIFFE_ID_BYTES_MAX)));
    all
}

/// Trust domains that must be taken, and those that must be refused, as texts.
pub fn trust_domains() -> (Vec<String>, Vec<String>) {
    let longest = "d".repeat(TRUST_DOMAIN_BYTES_MAX);
    let too_long = format!("{longest}d");
    let good = ["a_b.c-1", "1.2.3.4", "xn--dv-bja.test", &longest];
    let bad = [
        "",
        "Dev.test",
        "d\u{e9}v.test",
        "[::1]",
        "dev.test:443",
        "u@dev.test",
        "dev test",
        "dev%2etest",
        &too_long,
    ];
    (good.map(str::to_owned).to_vec(), bad.map(str::to_owned).to_vec())
}

/// An ID of `dev.test` of this many bytes.
fn of_length(bytes: usize) -> String {
    let start = "spiffe://dev.test/";
    format!("{start}{}", "l".repeat(bytes - start.len()))
}
