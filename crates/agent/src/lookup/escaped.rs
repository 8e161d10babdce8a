//! A certificate in a header: PEM whose octets are escaped as in a URL, as nginx (`$ssl_client_escaped_cert`) and Envoy
//! (`source.certificate`) write it. `+` is itself, as in a path: neither writes a blank that way.

use mintage_svid::pem;
use mintage_verifier::limits::{CHAIN_BYTES_MAX, CHAIN_CERTS_MAX};

/// Escaped octets of one chain: each octet of DER is 4/3 characters of Base64, of which few are escaped, and lines end.
const ESCAPED_BYTES_MAX: usize = CHAIN_BYTES_MAX * 2;

/// Reads a chain, leaf first, as DER; `field` names it in refusals.
///
/// # Errors
/// Says in words what is wrong: too long, a `%` without two hexadecimal digits, text that is no PEM of certificates, more
/// certificates than a chain may have.
pub fn unescape_chain(field: &str, escaped: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if escaped.len() > ESCAPED_BYTES_MAX {
        let count = escaped.len();
        return Err(format!("{field}: {count} bytes, the limit is {ESCAPED_BYTES_MAX}"));
    }
    let text = unescape(field, escaped)?;
    let chain = pem::decode_certificates(&text)
        .map_err(|error| format!("{field}: is no URL-escaped PEM of certificates: {error}"))?;
    match chain.len() {
        ..=CHAIN_CERTS_MAX => Ok(chain),
        count => Err(format!("{field}: {count} certificates, the limit is {CHAIN_CERTS_MAX}")),
    }
}

/// The text behind `%XX`.
pub(super) fn unescape(field: &str, escaped: &[u8]) -> Result<String, String> {
    let mut octets = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            octets.push(first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&octet| (octet as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            let at = escaped.len() - after.len() - 1;
            return Err(format!(
                "{field}: the % at byte {at} is not followed by two hexadecimal digits"
            ));
        };
        // Two digits of four bits each.
        octets.push((high << 4 | low) as u8);
        rest = &after[2..];
    }
    String::from_utf8(octets).map_err(|_| format!("{field}: is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_octets_become_themselves_and_all_others_stay() {
        assert_eq!(unescape("x", b"a%20b+c%2B%2f%0A").unwrap(), "a b+c+/\n");
        for bad in [&b"%"[..], b"a%2", b"%g0", b"%%20", b"%2"] {
            let told = unescape("x", bad).unwrap_err();
            assert!(told.starts_with("x: the % at byte"), "{told}");
        }
        assert!(unescape("x", b"%ff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_chain_is_read_in_order_and_within_its_limits() {
        let text = pem::encode_certificates([[0x30, 0x00], [0x30, 0x01]]);
        let escaped = text.replace('\n', "%0A").replace(' ', "%20").replace('=', "%3D");
        let read = |text: &str| unescape_chain("x", text.as_bytes());
        assert_eq!(read(&escaped).unwrap(), [vec![0x30, 0x00], vec![0x30, 0x01]]);
        assert_eq!(read(&text).unwrap().len(), 2, "what needs no escape may stay");
        for bad in [
            "",
            "-",
            "%2D",
            &escaped[1..],
            &escaped.replace("CERTIFICATE", "PRIVATE%20KEY"),
        ] {
            assert!(read(bad).unwrap_err().starts_with("x: "), "{bad}");
        }
        let many = pem::encode_certificates([[0x30, 0x00]; CHAIN_CERTS_MAX + 1]);
        assert!(read(&many).unwrap_err().contains("the limit is 8"));
        let long = "-".repeat(ESCAPED_BYTES_MAX + 1);
        assert!(read(&long).unwrap_err().contains("the limit is 98304"));
    }
}
