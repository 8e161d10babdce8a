//! What any process of a node may write to the agent's socket: a certificate in a header, and a path.

use mintage_agent::{Route, unescape_chain};
use mintage_svid::pem;

pub(super) fn escaped_chains() -> Vec<Vec<u8>> {
    let text = |count: usize| pem::encode_certificates(vec![[0x30, 0x03, 0x02, 0x01, 0xfb, 0xff]; count]);
    let escape = |text: &str| {
        text.replace('\n', "%0A")
            .replace(' ', "%20")
            .replace('+', "%2B")
            .replace('/', "%2f")
    };
    [text(1), escape(&text(1)), escape(&text(8))]
        .map(String::into_bytes)
        .into()
}

/// What was taken is no larger than what was given, and is read again out of its own PEM.
pub(super) fn escaped_chain(bytes: &[u8]) -> bool {
    match unescape_chain("field", bytes) {
        Ok(chain) => {
            assert!((1..=8).contains(&chain.len()));
            assert!(chain.iter().map(Vec::len).sum::<usize>() <= bytes.len());
            let text = pem::encode_certificates(&chain);
            assert_eq!(unescape_chain("field", text.as_bytes()), Ok(chain));
            true
        }
        Err(problem) => {
            assert!(problem.starts_with("field: "), "a refusal names its field: {problem}");
            false
        }
    }
}

pub(super) fn paths() -> Vec<Vec<u8>> {
    let issuer = "ab".repeat(32);
    [
        "/v1/revocation/auth".to_owned(),
        format!("/v1/revocation/{issuer}/4f00"),
        format!("/v1/revocation/{issuer}/1?spiffe_id=spiffe%3a//dev.test/web&not_before_ms=1&not_after_ms=2"),
        format!("/v1/revocation/{issuer}/1?public_key_sha256={issuer}"),
    ]
    .map(String::into_bytes)
    .into()
}

/// A path that was taken says nothing but what stands in it.
pub(super) fn path(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(Route::Ask(asked)) = Route::parse(text) else {
        return text.starts_with("/v1/revocation/auth") && Route::parse(text).is_ok();
    };
    let (issuer, serial) = asked.name.as_ref().expect("a path has both");
    let plain = format!("/v1/revocation/{issuer}/{serial}");
    let Ok(Route::Ask(again)) = Route::parse(&plain) else {
        panic!("{plain} is not taken");
    };
    assert_eq!(again.name, asked.name);
    assert!(asked.spiffe_id.is_none() || text.contains("spiffe_id="));
    true
}
